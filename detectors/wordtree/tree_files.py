"""Reads and writes Darknet's .tree and .map files.

A .tree file has a line "name parent" for each node: the parent as the number of its line, from 0, or -1 or
nothing for a root. A .map file has a node number on each line: line k is the node of class k of a data set.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectors.wordtree.nodes import WordTree, tree_fault

NODE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}", re.ASCII)


def read_tree(path: Path | str, text: str | None = None) -> WordTree:
    """Reads and checks a .tree file, or `text` if it is given; `path` is then used in messages only.

    ValueError with the line for a file that is no tree, see tree_fault.
    """
    names, parents = [], []
    for number, line in tree_lines(path, "tree", text):
        words = line.split()
        if not words:
            raise ValueError(
                f"{path}:{number}: the line is blank; Darknet would read a root without a name: remove it"
            )
        if len(words) > 2 or (len(words) == 2 and not NODE_NUMBER.fullmatch(words[1])):
            raise ValueError(f"{path}:{number}: {shown_line(line)} is not 'name parent', such as 'dog 3'")
        names.append(words[0])
        parents.append(int(words[1]) if len(words) == 2 else -1)
    fault = tree_fault(parents)
    if fault is not None:
        raise ValueError(f"{path}:{fault[0]}: {fault[1]}")
    return WordTree.of(names, parents)


def read_map(path: Path | str, tree: WordTree, text: str | None = None) -> tuple[int, ...]:
    """The nodes of a data set's classes: a .map file, or `text` if it is given.

    ValueError with the line for a number that is not a node of `tree`.
    """
    nodes = []
    for number, line in tree_lines(path, "map", text):
        if not NODE_NUMBER.fullmatch(line.strip()) or not 0 <= int(line) < len(tree):
            raise ValueError(
                f"{path}:{number}: {shown_line(line)} is not a node of the tree, 0 to {len(tree) - 1}"
            )
        nodes.append(int(line))
    if not nodes:
        raise ValueError(f"{path}: there is no line; a map has a node number for each class of a data set")
    return tuple(nodes)


def load_map(source: Path | str | Sequence[int], tree: WordTree) -> tuple[int, ...]:
    """A map from the path of a .map file, its text (with a newline), or the node numbers themselves.

    ValueError for one that does not fit the tree.
    """
    if isinstance(source, Path | str):
        text = str(source)
        return read_map("map", tree, text) if "\n" in text else read_map(text, tree)
    return read_map("map", tree, map_text(source))


def tree_text(tree: WordTree) -> str:
    """What read_tree reads. ValueError for a name that the format cannot hold."""
    for number, name in enumerate(tree.names):
        if len(name.split()) != 1 or name != name.strip():
            raise ValueError(
                f"node {number} {name!r}: a .tree file holds names without blanks; "
                "write it with _ and keep the readable names in a file of their own"
            )
    rows = zip(tree.names, tree.parent.tolist(), strict=True)
    return "".join(f"{name} {parent}\n" for name, parent in rows)


def map_text(nodes: Sequence[int]) -> str:
    """What read_map reads."""
    return "".join(f"{node}\n" for node in nodes)


def tree_lines(path: Path | str, what: str, text: str | None = None) -> list[tuple[int, str]]:
    """The lines of a file with their numbers, from 1; without what follows the last newline if it is empty.

    what: the kind of file, for messages.
    """
    if text is None:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such {what} file")
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: the {what} is not UTF-8 text ({error.reason}); save it as UTF-8"
            ) from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return list(enumerate(lines, 1))


def readable_names(path: Path | str, tree: WordTree) -> tuple[str, ...]:
    """A name for each node, one a line. Names that repeat, as in 9k.names, get the tree's own behind them.

    ValueError unless there is one for each node.
    """
    lines = [line.strip() for _, line in tree_lines(path, "names")]
    if len(lines) != len(tree):
        raise ValueError(f"{path}: {len(lines)} names, but the tree has {len(tree)} nodes")
    count = Counter(lines)
    pairs = zip(lines, tree.names, strict=True)
    return tuple(f"{line} ({name})" if count[line] > 1 else line for line, name in pairs)


def shown_line(line: str) -> str:
    """A line of a file, quoted, for a message."""
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
