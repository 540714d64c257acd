"""Trees for tests, and what is computed with them by plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

from detectors.wordtree.nodes import WordTree

# Two roots; node 0 has three children, node 1 one; node 3 has two. A group of one node, a leaf above leaves.
NAMES = ("animal", "thing", "cat", "dog", "cow", "cup", "spaniel", "poodle")
PARENTS = (-1, -1, 0, 0, 0, 1, 3, 3)
SMALL = WordTree.of(NAMES, PARENTS)


def random_tree(seed: int, nodes: int) -> WordTree:
    """Some nodes get up to five children, in an order that need not be that of their parents."""
    random = Random(seed)
    parents = [-1] * random.randint(1, 3)
    free = list(range(len(parents)))
    while len(parents) < nodes:
        parent = free.pop(random.randrange(len(free)))
        count = min(random.randint(1, 5), nodes - len(parents))
        free += range(len(parents), len(parents) + count)
        parents += [parent] * count
    return WordTree.of([f"n{node}" for node in range(nodes)], parents)


def siblings(parents: Sequence[int], node: int) -> list[int]:
    return [other for other, parent in enumerate(parents) if parent == parents[node]]


def path(parents: Sequence[int], node: int) -> list[int]:
    """From the node to its root."""
    nodes = []
    while node >= 0:
        nodes.append(node)
        node = parents[node]
    return nodes


def conditional(parents: Sequence[int], logits: Sequence[float]) -> list[float]:
    """Pr(node | parent)"""
    return [
        math.exp(logit) / sum(math.exp(logits[other]) for other in siblings(parents, node))
        for node, logit in enumerate(logits)
    ]


def absolute(parents: Sequence[int], logits: Sequence[float]) -> list[float]:
    """Pr(node)"""
    p = conditional(parents, logits)
    return [math.prod(p[each] for each in path(parents, node)) for node in range(len(parents))]


def walk(parents: Sequence[int], p: Sequence[float], threshold: float) -> int:
    """Where the walk down ends; p: what is multiplied on the way."""
    candidates = [node for node, parent in enumerate(parents) if parent < 0]
    product = 1.0
    reached = max(candidates, key=lambda node: (p[node], -node))
    while candidates:
        best = max(candidates, key=lambda node: (p[node], -node))
        product *= p[best]
        if product <= threshold:
            break
        reached = best
        candidates = [node for node, parent in enumerate(parents) if parent == best]
    return reached
