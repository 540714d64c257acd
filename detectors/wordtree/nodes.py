"""A tree of classes (arXiv 1612.08242, section 4): its nodes in flat arrays, as Darknet numbers them.

Node k is line k of Darknet's .tree file. Nodes of one parent on consecutive lines form a group; the roots
form one, too. The probabilities of a group sum to 1: p(node) = Pr(node | parent). The product of p over a
node and its ancestors is P(node) = Pr(node).

    N nodes     G groups     D levels, the depth of the deepest node; roots have depth 1
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MAX_NODES = 1 << 20
MAX_LEVELS = 128  # the tree of YOLO9000 has 17


@dataclass(frozen=True, eq=False)
class WordTree:
    """Names and flat int64 arrays. Node numbers are the labels of a detector's C = N classes.

    >>> from detectors.wordtree.nodes import WordTree
    >>> tree = WordTree.of(("animal", "thing", "cat", "dog", "cup"), (-1, -1, 0, 0, 1))
    >>> tree.group.tolist(), tree.child_group.tolist(), tree.leaf.tolist()
    ([0, 0, 1, 1, 2], [1, 2, -1, -1, -1], [False, False, True, True, True])
    >>> [tree.names[node] for node in tree.path(3)]
    ['dog', 'animal']
    """

    names: tuple[str, ...]  # (N) not always distinct: a node is known by its number
    parent: np.ndarray  # (N,) -1 for a root
    group: np.ndarray  # (N,) the group that a node is in
    group_offset: np.ndarray  # (G,) the first node of a group
    group_size: np.ndarray  # (G,) 1 or more; group 0 of an unchecked tree may be empty
    child_group: np.ndarray  # (N,) the group of a node's children, -1 for none
    leaf: np.ndarray  # (N,) bool

    @classmethod
    def of(cls, names: Sequence[str], parents: Sequence[int], *, checked: bool = True) -> WordTree:
        """parents: for each node the number of its parent, -1 for a root.

        checked: ValueError, which names the first bad line, if Darknet would take it but compute nonsense,
            see tree_fault. Without the check the arrays are those of Darknet's read_tree.
        """
        fault = tree_fault(parents) if checked else None
        if fault is not None:
            line, text = fault
            raise ValueError(f"line {line} ({names[line - 1]!r}): {text}" if names else text)
        parent = np.asarray(parents, dtype=np.int64)
        group, offset, size = _runs(parent)
        child_group = np.full_like(parent, -1)
        for run in np.flatnonzero(size):
            of = parent[offset[run]]
            if of >= 0:
                child_group[of] = run  # of several runs the last, as in Darknet
        leaf = np.ones(len(parent), dtype=bool)
        leaf[parent[parent >= 0]] = False
        tree = cls(tuple(names), parent, group, offset, size, child_group, leaf)
        if checked:
            _ = tree.ancestors  # raises ValueError for too many levels
        return tree

    @cached_property
    def ancestors(self) -> np.ndarray:
        """(N, D) the ancestor at depth d + 1, the node included; below the node -1."""
        return _ancestors(self.parent)

    @cached_property
    def depth(self) -> np.ndarray:
        """(N,) 1 for a root."""
        return (self.ancestors >= 0).sum(1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WordTree):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.parent, other.parent)

    def __hash__(self) -> int:
        return hash((self.names, self.parent.tobytes()))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def groups(self) -> int:
        return len(self.group_size)

    @property
    def levels(self) -> int:
        return self.ancestors.shape[1]

    def path(self, node: int) -> list[int]:
        """The node, its parent, and so on up to the root."""
        return self.ancestors[node, : self.depth[node]][::-1].tolist()


def tree_fault(parents: Sequence[int]) -> tuple[int, str] | None:
    """The first line (from 1) that breaks a rule, and what is wrong; None for a good tree.

    Darknet checks none of these, and computes wrong groups or products if one is broken: there is a node; the
    roots come first and in one run; the children of a node stand in one run; parents come before children.
    """
    if not 0 < len(parents) <= MAX_NODES:
        return 1, f"the tree has {len(parents)} nodes; 1 to {MAX_NODES} are possible"
    seen: set[int] = set()  # parents whose run of children has begun
    for node, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            return node + 1, f"parent {parent}: choose from 0 to {len(parents) - 1}, or -1 for a root"
        if node == 0 and parent != -1:
            return 1, f"parent {parent}: the first node must be a root (-1)"
        if parent >= node:
            return node + 1, f"parent {parent} does not stand above it; a parent comes before its children"
        if node and parent != parents[node - 1]:
            if parent in seen or parent == -1:
                whose = "the roots" if parent == -1 else f"the children of node {parent}"
                return node + 1, f"{whose} must stand on consecutive lines; some stand further up"
            seen.add(parent)
    return None


def _runs(parent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) parents -> (N,) the group of each node, (G,) their first nodes, (G,) their sizes.

    Darknet compares the first line's parent with -1, so group 0 is empty if that line has another.
    """
    group = np.cumsum(parent != np.append(-1, parent[:-1]))
    size = np.bincount(group)
    return group, np.cumsum(size) - size, size


def _ancestors(parent: np.ndarray) -> np.ndarray:
    """(N, D), see WordTree. ValueError for a circle, or too many levels."""
    chains = [np.arange(len(parent))]  # the node, its parent, its grandparent ...
    while (chains[-1] >= 0).any():
        if len(chains) > MAX_LEVELS:
            raise ValueError(f"the tree is deeper than {MAX_LEVELS} levels")
        chains.append(np.where(chains[-1] >= 0, np.maximum(parent[chains[-1]], -1), -1))
    upwards = np.stack(chains[:-1], 1)  # (N, D)
    depth = (upwards >= 0).sum(1, keepdims=True)
    level = np.arange(upwards.shape[1])
    rows = np.take_along_axis(upwards, np.maximum(depth - 1 - level, 0), 1)
    return np.where(level < depth, rows, -1)
