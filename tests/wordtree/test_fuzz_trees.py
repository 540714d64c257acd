"""Broken trees, maps, pairs and nested names: each is read rightly or raises one ValueError, at once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import map_text, read_map, read_tree, tree_text
from detectors.wordtree.tree_sources import nested_tree, read_nested, read_pairs
from tests.wordtree import trees

CASES = 250  # of each of the four kinds
MAX_SECONDS = 2.0  # for one case, on a shared machine
PIECES = [
    "-1",
    "0",
    "1",
    "7",
    "99",
    "-2",
    "999999999999",
    "x",
    "a b",
    "",
    " ",
    "\t",
    "\r",
    "\x00",
    "é",
    "0x1",
]
YAML_PIECES = ["[", "]", "{", "}", ":", "-", "&a", "*a", "!!python/object:os.system", "|", "'", "null", "%"]


def broken(random: Random, text: str, pieces: list[str]) -> str:
    """One to three changes: of a character, of a word, or of a line that is lost, doubled or moved."""
    for _ in range(random.randint(1, 3)):
        lines = text.split("\n")
        row = random.randrange(len(lines))
        kind = random.randrange(6)
        if kind == 0:
            lines[row] = random.choice(pieces)
        elif kind == 1:
            del lines[row]
        elif kind == 2:
            lines.insert(random.randrange(len(lines) + 1), lines[row])
        elif kind == 3:
            other = random.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        elif kind == 4:
            words = lines[row].split(" ")
            words[random.randrange(len(words))] = random.choice(pieces)
            lines[row] = " ".join(words)
        else:
            place = random.randrange(len(lines[row]) + 1)
            lines[row] = lines[row][:place] + random.choice(pieces) + lines[row][place:]
        text = "\n".join(lines)
    return text


def check_tree(tree: WordTree) -> None:
    """What every good tree has."""
    nodes = np.arange(len(tree))
    assert ((tree.parent >= -1) & (tree.parent < nodes)).all()
    first = tree.group_offset[tree.group]
    assert ((first <= nodes) & (nodes < first + tree.group_size[tree.group])).all()
    assert (tree.parent == tree.parent[first]).all()
    inner = ~tree.leaf
    assert (tree.parent[tree.group_offset[tree.child_group[inner]]] == nodes[inner]).all()
    assert (tree.ancestors.max(1) >= nodes).all()


def check_message(message: str) -> None:
    """One line, and the place first."""
    assert message.startswith("file") and "\n" not in message and len(message) < 400


def outcomes(read: Callable[[str], WordTree | None], text: str, pieces: list[str]) -> Counter:
    """How many cases were read, and how many were refused with the name of the file."""
    random = Random(0)
    counts: Counter = Counter()
    for _ in range(CASES):
        case = broken(random, text, pieces)
        started = time.perf_counter()
        try:
            tree = read(case)
        except ValueError as error:
            check_message(str(error))
            counts["refused"] += 1
        else:
            if tree is not None:
                check_tree(tree)
            counts["read"] += 1
        assert time.perf_counter() - started < MAX_SECONDS, case
    return counts


def nested_text(tree: WordTree) -> str:
    """Yaml with a line for each node."""
    order = sorted(range(len(tree)), key=lambda node: tree.path(node)[::-1])
    return "".join(f"{'  ' * (tree.depth[node] - 1)}{tree.names[node]}:\n" for node in order)


TREE = trees.random_tree(3, 25)
PAIRS = "".join(
    f"{name} {TREE.names[parent]}\n" if parent >= 0 else f"{name}\n"
    for name, parent in zip(TREE.names, TREE.parent.tolist(), strict=True)
)


def test_the_unbroken_texts_are_one_tree():
    made = [
        read_pairs("file", PAIRS),
        read_nested("file", nested_text(TREE)),
        read_tree("file", tree_text(TREE)),
    ]
    assert [sorted(tree.names) for tree in made] == [sorted(TREE.names)] * 3
    assert made[0].groups == made[1].groups == TREE.groups


@pytest.mark.parametrize(
    ("read", "text", "pieces"),
    [
        (lambda text: read_tree("file", text), tree_text(TREE), PIECES),
        (lambda text: read_pairs("file", text), PAIRS, PIECES),
        (lambda text: read_nested("file", text), nested_text(TREE), PIECES + YAML_PIECES),
        (lambda text: (read_map("file", TREE, text), None)[1], map_text(range(0, 25, 2)), PIECES),
    ],
    ids=["tree", "pairs", "nested", "map"],
)
def test_broken_texts(read, text, pieces):
    counts = outcomes(read, text, pieces)
    assert counts["read"] + counts["refused"] == CASES
    assert counts["read"] > 5 and counts["refused"] > 25, counts


def test_odd_nestings():
    """From a configuration: whatever yaml can hold."""
    random = Random(0)
    values = [None, "", "a", 1, 1.5, True, [], {}]
    values += [["a", ["b"]], {"a": {"b": 1}}, [{"a": None}], {1: "x"}, {None: 1}]
    for _ in range(200):
        nesting = {random.choice("abc"): random.choice(values), "d": random.choice(values)}
        try:
            check_tree(nested_tree(nesting, "file"))
        except ValueError as error:
            check_message(str(error))
