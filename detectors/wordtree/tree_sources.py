"""Trees from what people write: pairs of child and parent, or names nested in yaml.

Both number the nodes as Darknet needs them: the roots first, then the children of the first root, of the
second, and so on, level by level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detectors.wordtree.nodes import MAX_NODES, WordTree
from detectors.wordtree.tree_files import read_tree, shown_line, tree_lines

NESTED_SUFFIXES = (".yaml", ".yml")
PAIR_SUFFIXES = (".pairs", ".txt")


def load_tree(source: WordTree | Path | str | Mapping[str, Any]) -> WordTree:
    """A tree from a path (.tree; .yaml and .yml: nested; .pairs and .txt: pairs), or from a nested mapping.

    A text with several lines is the content of a .tree file.
    ValueError with place and reason for a source that is no tree.
    """
    if isinstance(source, WordTree):
        return source
    if isinstance(source, Mapping):
        return nested_tree(source)
    if isinstance(source, str) and "\n" in source:
        return read_tree("tree", source)
    suffix = Path(source).suffix
    if suffix in NESTED_SUFFIXES:
        return read_nested(source)
    return read_pairs(source) if suffix in PAIR_SUFFIXES else read_tree(source)


def read_pairs(path: Path | str, text: str | None = None) -> WordTree:
    """Lines "child parent", in any order, as WordNet's hypernyms; a name alone is a root.

    Names end at blanks, or at a tab if the line has one. A name that is nobody's child is a root, too.
    ValueError with the line for a second parent, a circle, or another number of names.
    """
    parent_of: dict[str, str] = {}
    line_of: dict[str, int] = {}
    names: dict[str, None] = {}  # in the order in which they come
    for number, line in tree_lines(path, "list of pairs", text):
        words = [word.strip() for word in line.split("\t")] if "\t" in line else line.split()
        if not all(words) or len(words) not in (1, 2):
            raise ValueError(f"{path}:{number}: {shown_line(line)} is not 'child parent', or a root alone")
        child, *parents = words
        names |= dict.fromkeys((*parents, child))
        for parent in parents:
            if parent_of.get(child, parent) != parent:
                raise ValueError(
                    f"{path}:{number}: {child!r} has another parent, {parent_of[child]!r}, on line "
                    f"{line_of[child]}; a tree has one path to each node: remove one of the two"
                )
            parent_of[child] = parent
            line_of.setdefault(child, number)
    children: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for child, parent in parent_of.items():
        children[parent].append((child, child))
    roots = [(name, name) for name in names if name not in parent_of]
    _check_reached(names, children, line_of, path)
    return _level_order(roots, lambda name, *_: children[name], path)


def _check_reached(
    names: Iterable[str], children: Mapping[str, list], line_of: Mapping[str, int], path: Path | str
) -> None:
    """ValueError unless every name hangs below a root: the others form circles. line_of: of each child."""
    reached = [name for name in names if name not in line_of]
    for name in reached:  # it grows
        reached += [child for child, _ in children[name]]
    circle = set(line_of).difference(reached)
    if circle:
        first = min(circle, key=line_of.__getitem__)
        raise ValueError(f"{path}:{line_of[first]}: {first!r} is among its own ancestors")


def read_nested(path: Path | str, text: str | None = None) -> WordTree:
    """Names nested in yaml, see nested_tree. ValueError, with the line where yaml gives one."""
    text = "\n".join(line for _, line in tree_lines(path, "yaml", text))
    try:
        nesting = yaml.load(text, Loader=_NameLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path}: this is not yaml with nested names ({type(error).__name__})") from error
    return nested_tree(nesting, path)


class _NameLoader(yaml.BaseLoader):
    """Every scalar is a text: `no` is a name. Refuses a key twice, and aliases, which may be endless."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "write the names out instead of an alias (*)", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in names:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"{getattr(key, 'value', '')!s:.60} stands twice, or is no name",
                    key.start_mark,
                )
            names.add(key.value)
        return super().construct_mapping(node, deep)


def nested_tree(nesting: Any, path: Path | str = "tree") -> WordTree:
    """{name: its children}: a mapping again, a list of names or mappings, one name, or nothing for a leaf.

    >>> from detectors.wordtree.tree_sources import nested_tree
    >>> nested_tree({"polygon": ["triangle", "square"], "round": {"disc": None, "ring": None}}).names
    ('polygon', 'round', 'triangle', 'square', 'disc', 'ring')
    """
    return _level_order(_nested_names(nesting, "the top", path), _nested_names, path)


def _nested_names(below: Any, name: str, path: Path | str) -> list[tuple[str, Any]]:
    """What stands below `name` -> its children, and what stands below each of them."""
    if below is None or below == "":
        return []
    if isinstance(below, Mapping):
        return [(_name(child, name, path), deeper) for child, deeper in below.items()]
    if isinstance(below, Sequence) and not isinstance(below, str):
        pairs = (child.items() if isinstance(child, Mapping) else ((child, None),) for child in below)
        return [(_name(child, name, path), deeper) for items in pairs for child, deeper in items]
    return [(_name(below, name, path), None)]


def _name(name: Any, parent: str, path: Path | str) -> str:
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"{path}: below {parent!r}: {shown_line(str(name))} is not a name; quote it")
    return str(name).strip()


def _level_order(
    roots: list[tuple[str, Any]],
    children_of: Callable[[Any, str, Path | str], list[tuple[str, Any]]],
    path: Path | str,
) -> WordTree:
    """(name, what stands below it) of each root -> the tree, its nodes numbered level by level."""
    nodes = list(roots)
    parents = [-1] * len(roots)
    for number, (name, below) in enumerate(nodes):  # it grows
        children = children_of(below, name, path)
        nodes += children
        parents += [number] * len(children)
        if len(nodes) > MAX_NODES:
            raise ValueError(f"{path}: there are more than {MAX_NODES} nodes, or circles")
    try:
        return WordTree.of([name for name, _ in nodes], parents)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
