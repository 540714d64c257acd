"""Checks a tree of classes, prints and draws it: detectors tree FILE [--output X.svg]

FILE is Darknet's .tree, a yaml with nested names, or pairs of child and parent; --output X.tree converts it.
See docs/yolo9000.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from detectors.commands.tree.options import options
from detectors.commands.tree.tree_drawing import drawn_nodes, tree_svg, tree_text_lines
from detectors.config.entry import require_at_least, verb
from detectors.data.files import atomic_file
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import read_map, readable_names, tree_text
from detectors.wordtree.tree_sources import load_tree


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    if args.levels is not None:
        require_at_least(args, levels=1)
    if args.output and args.output.suffix not in (".svg", ".tree"):
        raise ValueError(f"--output {args.output}: choose a name that ends in .svg or .tree")
    tree = load_tree(args.file)
    names = tree.names if args.names is None else readable_names(args.names, tree)
    marked = frozenset(read_map(args.map, tree) if args.map else ())
    top = None if args.below is None else chosen_node(args.below, tree, names)
    nodes = drawn_nodes(tree, top, args.levels)
    print("\n".join(tree_text_lines(tree, nodes, names, marked)))
    print(tree_summary(tree))
    if args.output:
        drawing = args.output.suffix == ".svg"
        text = tree_svg(tree, nodes, names, marked) if drawing else tree_text(tree)
        with atomic_file(args.output) as file:
            file.write(text.encode())
        print(f"written: {args.output}")


def chosen_node(text: str, tree: WordTree, names: Sequence[str]) -> int:
    """A node by its number or its name. ValueError for none, or for a name that several nodes have."""
    if text.isascii() and text.isdigit() and int(text) < len(names):
        return int(text)
    found = [node for node, both in enumerate(zip(names, tree.names, strict=True)) if text in both]
    if len(found) != 1:
        numbers = ", ".join(map(str, found[:5]))
        problem = f"nodes {numbers} have this name; give a number" if found else "no such node"
        raise ValueError(f"--below {text}: {problem}")
    return found[0]


def tree_summary(tree: WordTree) -> str:
    sizes = tree.group_size
    roots = int((tree.parent < 0).sum())
    return (
        f"{len(tree)} nodes, {tree.groups} groups of {sizes.min()} to {sizes.max()}, "
        f"{tree.leaf.sum()} leaves, {roots} roots, {tree.levels} levels"
    )


if __name__ == "__main__":
    main()
