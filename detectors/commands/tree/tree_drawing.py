"""A tree of classes as lines of text, and as an SVG picture."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from html import escape

import numpy as np

from detectors.wordtree.nodes import WordTree

LINE_HEIGHT = 18  # px
INDENT = 24
LETTER = 7  # px of a letter, about
SVG_HEAD = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>'
)
SVG_LINE = '<path d="M{x1} {y1} V{y2} H{x2}" stroke="#999" fill="none"/>'
SVG_TEXT = '<text x="{x}" y="{y}"{weight}>{text}</text>'


def drawn_nodes(tree: WordTree, top: int | None, levels: int | None) -> list[int]:
    """The nodes to show, each followed by what is below it. top: the only one at the top; None: all roots."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(tree.parent.tolist()):
        children.setdefault(parent, []).append(node)
    stack = [top] if top is not None else children[-1][::-1]
    deepest = (levels or tree.levels) + (int(tree.depth[top]) - 1 if top is not None else 0)
    found = []
    while stack:
        node = stack.pop()
        found.append(node)
        if tree.depth[node] < deepest:
            stack += children.get(node, [])[::-1]
    return found


def tree_text_lines(
    tree: WordTree, nodes: Sequence[int], names: Sequence[str], marked: Collection[int] = ()
) -> Iterator[str]:
    """A line for each node, indented by its depth, with its number."""
    least = min(tree.depth[node] for node in nodes)
    for node in nodes:
        mark = " *" if node in marked else ""
        yield f"{'  ' * (tree.depth[node] - least)}{names[node]} ({node}){mark}"


def tree_svg(tree: WordTree, nodes: Sequence[int], names: Sequence[str], marked: Collection[int] = ()) -> str:
    """The same as a picture. Marked nodes are bold."""
    depth = np.array([tree.depth[node] for node in nodes])
    left = (depth - depth.min()) * INDENT + 10
    row = {node: 20 + LINE_HEIGHT * place for place, node in enumerate(nodes)}
    x = dict(zip(nodes, left.tolist(), strict=True))
    width = max(x[node] + LETTER * (len(names[node]) + 8) for node in nodes)
    lines = [SVG_HEAD.format(width=width, height=20 + LINE_HEIGHT * len(nodes))]
    for node in nodes:
        parent = int(tree.parent[node])
        if parent in row:
            corner = {"x1": x[parent] + 4, "y1": row[parent] + 4, "x2": x[node] - 4, "y2": row[node] - 4}
            lines.append(SVG_LINE.format(**corner))
        weight = ' font-weight="bold"' if node in marked else ""
        lines.append(SVG_TEXT.format(x=x[node], y=row[node], weight=weight, text=escape(names[node])))
    return "\n".join([*lines, "</svg>\n"])
