"""detectors benchmark tree: a tree at random as large as YOLO9000's, and one row for each program."""

from __future__ import annotations

import numpy as np
import pytest

from detectors.commands.benchmark import tree_speed
from detectors.commands.benchmark.made_up_trees import made_up_tree
from detectors.wordtree.tree_files import tree_text
from tests.wordtree import trees


def test_the_made_up_tree_has_yolo9000s_sizes():
    """Facts of 9k.tree: nodes, groups, roots, leaves, levels, the largest group."""
    tree = made_up_tree()
    assert (len(tree), tree.groups, int(tree.leaf.sum())) == (9418, 1846, 7573)
    assert int((tree.parent < 0).sum()) == 4
    assert 8 <= tree.levels <= 17
    assert 100 <= tree.group_size.max() <= 149
    assert made_up_tree() == tree != made_up_tree(seed=1)


def test_small_trees_and_impossible_ones():
    tree = made_up_tree(nodes=20, inner=5, roots=2, largest=6)
    assert (len(tree), tree.groups, np.bincount(tree.group).max()) == (20, 6, tree.group_size.max())
    with pytest.raises(ValueError, match="5 groups cannot hold 98 nodes, 6 at most in each"):
        made_up_tree(nodes=100, inner=5, roots=2, largest=6)


def test_a_row_for_each_program(tmp_path, capsys):
    (tmp_path / "x.tree").write_text(tree_text(trees.random_tree(0, 40)))
    tree_speed.main(["--repeats", "1", "--batch", "4", "--side", "64", "--tree", str(tmp_path / "x.tree")])
    table = capsys.readouterr().out
    for program in ("flat softmax", "tree, boxes", "tree, labels only", "tree, all scores"):
        assert program in table
    assert table.count("MiB at once") == 4 and table.count("scores") >= 4
