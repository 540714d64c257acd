"""The arrays of a tree, and the rules that Darknet does not check."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.wordtree.nodes import MAX_LEVELS, WordTree
from tests.wordtree import trees


@pytest.mark.parametrize("seed", range(5))
def test_the_arrays_are_those_of_plain_loops(seed):
    tree = trees.random_tree(seed, 60)
    parents = tree.parent.tolist()
    for node, parent in enumerate(parents):
        group = tree.group[node]
        first = tree.group_offset[group]
        assert list(range(first, first + tree.group_size[group])) == trees.siblings(parents, node)
        assert tree.leaf[node] == (node not in parents)
        assert tree.path(node) == trees.path(parents, node)
        assert tree.depth[node] == len(tree.path(node))
        children = trees.siblings([*parents, node], len(parents))[:-1]
        below = tree.child_group[node]
        assert (below < 0) == (not children)
        if children:
            assert tree.group_offset[below] == children[0]
        if parent < 0:
            assert group == 0
    assert tree.groups == len(set(parents))


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([], "the tree has 0 nodes"),
        ([0], "line 1 .* the first node must be a root"),
        ([-1, 1], r"line 2 \('n1'\): parent 1 does not stand above it"),
        ([-1, 2, 0], "line 2 .* parent 2 does not stand above it"),
        ([-1, -2], "line 2 .* choose from 0 to 1, or -1 for a root"),
        ([-1, 5], "line 2 .* choose from 0 to 1"),
        ([-1, 0, -1], "line 3 .* the roots must stand on consecutive lines"),
        ([-1, -1, 0, 1, 0], "line 5 .* the children of node 0 must stand on consecutive lines"),
    ],
)
def test_each_rule_names_its_line(parents, message):
    with pytest.raises(ValueError, match=message):
        WordTree.of([f"n{node}" for node in range(len(parents))], parents)


def test_a_tree_may_have_128_levels():
    assert WordTree.of(["x"] * MAX_LEVELS, range(-1, MAX_LEVELS - 1)).levels == MAX_LEVELS
    with pytest.raises(ValueError, match="deeper than 128 levels"):
        WordTree.of(["x"] * (MAX_LEVELS + 1), range(-1, MAX_LEVELS))


def test_equal_trees_are_equal():
    again = WordTree.of(trees.NAMES, trees.PARENTS)
    assert again == trees.SMALL and hash(again) == hash(trees.SMALL)
    assert WordTree.of(trees.NAMES, [*trees.PARENTS[:-1], 4]) != trees.SMALL
    assert np.array_equal(again.ancestors, trees.SMALL.ancestors)
