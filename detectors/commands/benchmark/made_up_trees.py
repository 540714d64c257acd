"""A tree of classes at random, as large as YOLO9000's: 9,418 nodes, 4 roots, 1,846 groups of up to 149."""

from __future__ import annotations

import numpy as np

from detectors.wordtree.nodes import WordTree

NODES = 9418
INNER = 1845  # nodes with children
ROOTS = 4
LARGEST_GROUP = 149
LEVELS = 17


def made_up_tree(
    *, nodes: int = NODES, inner: int = INNER, roots: int = ROOTS, largest: int = LARGEST_GROUP, seed: int = 0
) -> WordTree:
    """The sizes of groups are a Pareto distribution's; parents are drawn from the nodes without children.

    ValueError unless `inner` groups of 1 to `largest` nodes can hold the nodes that are no roots.
    """
    if not inner <= nodes - roots <= inner * largest:
        raise ValueError(f"{inner} groups cannot hold {nodes - roots} nodes, {largest} at most in each")
    random = np.random.default_rng(seed)
    sizes = _sizes(random, nodes - roots, inner, largest)
    parents = [-1] * roots
    depth = [1] * roots
    free = list(range(roots))  # nodes that can get children
    for size in sizes:
        parent = free.pop(int(random.integers(len(free))))
        if depth[parent] < LEVELS - 1:
            free += range(len(parents), len(parents) + size)
        parents += [parent] * size
        depth += [depth[parent] + 1] * size
    return WordTree.of([f"n{node:05}" for node in range(nodes)], parents)


def _sizes(random: np.random.Generator, total: int, count: int, largest: int) -> list[int]:
    """`count` sizes from 1 to `largest` with the sum `total`; the largest first, so that nodes stay free."""
    weights = np.minimum(1 + random.pareto(1.2, count), largest)
    sizes = np.clip(np.floor(weights * total / weights.sum()), 1, largest).astype(int)
    while sizes.sum() != total:
        step = int(np.sign(total - sizes.sum()))
        open_ = np.flatnonzero((sizes < largest) if step > 0 else (sizes > 1))
        sizes[random.choice(open_, min(len(open_), abs(total - int(sizes.sum()))), replace=False)] += step
    return sorted(sizes.tolist(), reverse=True)
