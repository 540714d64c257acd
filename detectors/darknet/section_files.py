"""The files that sections of a cfg name: tree= of [region] and [softmax], map= of [region], as YOLO9000's."""

from __future__ import annotations

from detectors.darknet.sections import SectionSettings
from detectors.darknet.syntax import Section
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import map_text, read_map, read_tree, tree_text


def read_section_tree(section: Section, classes: int) -> WordTree | None:
    """The tree of a section; None without one. classes: how many nodes it must have.

    ValueError for a file that is no tree, or has another number of nodes.
    """
    file = section.file("tree")
    if file is None:
        return None
    try:
        tree = read_tree(*file)
    except ValueError as error:
        raise section.error(str(error), "tree") from error
    if len(tree) != classes:
        raise section.error(f"the tree has {len(tree)} nodes, and the layer {classes} classes", "tree")
    return tree


def read_section_map(section: Section, tree: WordTree | None) -> tuple[int, ...] | None:
    """The map of a section; None without one. ValueError for one without a tree, or that does not fit it."""
    file = section.file("map")
    if file is None:
        return None
    path, text = file
    if tree is None:
        raise section.error("only supported together with tree=, to whose nodes it leads", "map")
    try:
        return read_map(path, tree, text)
    except ValueError as error:
        raise section.error(str(error), "map") from error


def section_contents(section: Section, settings: SectionSettings) -> dict[str, str]:
    """The texts of the files that a section names, by their names in the cfg, for read_cfg's `contents`."""
    texts = {}
    for key, text in (("tree", tree_text), ("map", map_text)):
        value = getattr(settings, key, None)
        if value is not None:
            texts[section.named[key]] = text(value)
    return texts
