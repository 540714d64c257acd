"""Ground truth whose classes are the nodes of a tree: of one set, or of several joined sets."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from detectors.annotations import Annotations
from detectors.config.schema import JOINT, LABELLED_FORMATS, DataConfig, ImageFolders, SourceConfig
from detectors.data.annotation_cache import Scanned
from detectors.data.joint import Source, joined_sets, labels_alone, nodes_of_classes, with_nodes
from detectors.data.sampling import SourceMix
from detectors.metrics.tree_report import TaughtNodes
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import read_map
from detectors.wordtree.tree_sources import load_tree

logger = logging.getLogger(__name__)

ScanSet = Callable[[DataConfig, str], Scanned]  # settings and split -> the set with classes of its own


def node_names(tree: WordTree) -> tuple[str, ...]:
    """(N) distinct class names: a name that several nodes have gets # and the number of the node."""
    counts = Counter(tree.names)
    return tuple(name if counts[name] == 1 else f"{name}#{node}" for node, name in enumerate(tree.names))


def scan_nodes(data: DataConfig, split: str, scan: ScanSet) -> Scanned:
    """A split of data with a tree: its classes are the nodes. Errors as those of scan_annotations."""
    tree = load_tree(data.tree)
    names = node_names(tree)
    if data.format != JOINT:
        annotations, problems = scan(data, split)
        nodes = nodes_of_classes(annotations.class_names, names, {}, "data")
        return _settled_labels(with_nodes(annotations, nodes, names)), problems
    sources = []
    problems = []
    for name in getattr(data, split):
        annotations, found = _scan_source(data, name, split, tree, scan)
        sources.append(Source(name, annotations))
        problems += found
    if not sources:
        raise ValueError(f"data.{split} is empty: {data.name} has no such split; set data.{split}=[...]")
    return _settled_labels(joined_sets(sources)), problems


def _settled_labels(annotations: Annotations) -> Annotations:
    """image_labels is None if no image has a label alone, so that a loss without a tree can learn from it."""
    labels = annotations.image_labels
    return annotations if labels is None or (labels >= 0).any() else replace(annotations, image_labels=None)


def _scan_source(data: DataConfig, name: str, split: str, tree: WordTree, scan: ScanSet) -> Scanned:
    """One set of data.mix, its classes being nodes."""
    source = data.mix[name]
    place = f"data.mix.{name}"
    try:
        annotations, problems = scan(_as_data(data, source), "train")
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{place}: {error}") from error
    names = node_names(tree)
    if source.map is None:
        nodes = nodes_of_classes(annotations.class_names, names, source.nodes, place)
    else:
        nodes = _mapped(source.map, tree, annotations, place)
    annotations = with_nodes(annotations, nodes, names)
    if source.labels_only or source.format in LABELLED_FORMATS:
        annotations, dropped = labels_alone(annotations)
        if dropped:
            logger.info(
                "%s: %d images of data.%s show several classes, or none, and are left out",
                *(place, dropped, split),
            )
    return annotations, problems


def _mapped(file: str, tree: WordTree, annotations: Annotations, place: str) -> np.ndarray:
    """(C,) the nodes of a .map file. ValueError if it has another number of lines than there are classes."""
    nodes = read_map(file, tree)
    count = len(annotations.class_names)
    if len(nodes) != count:
        raise ValueError(
            f"{file}: has {len(nodes)} nodes, and {place} has {count} classes; it needs one line for each"
        )
    return np.array(nodes, np.int64)


def _as_data(data: DataConfig, source: SourceConfig) -> DataConfig:
    """The settings under which a set would be the only one, as the split `train`."""
    return replace(
        data,
        format=source.format,
        root=source.root,
        file=source.file,
        train=source.sets,
        val=[],
        test=[],
        image_folders=ImageFolders(train=source.image_folder),
        class_names=source.class_names,
        shapes=source.shapes,
        mix={},
    )


def taught_nodes(data: DataConfig, training: Annotations | None) -> TaughtNodes | None:
    """What a report needs of the tree of the classes; None without one. training: of the training split."""
    return None if data.tree is None else TaughtNodes.of(load_tree(data.tree), training)


def refuse_labels_alone(data: DataConfig, annotations: Annotations, loss: Mapping[str, Any]) -> None:
    """ValueError for images with a label alone if the loss is one that cannot learn from them."""
    labels = annotations.image_labels
    if labels is None or loss.get("tree") is not None or (labels < 0).all():
        return
    first = annotations.paths[int(np.flatnonzero(labels >= 0)[0])]
    raise ValueError(
        f"{data.name}: {np.count_nonzero(labels >= 0)} of {len(labels)} training images have a label and no "
        f"boxes, such as {first}: {loss['_target_'].rpartition('.')[2]} without a tree does not learn from "
        "them; set loss=region_tree, or leave their sets out of data.train"
    )


def source_mix(data: DataConfig, annotations: Annotations) -> SourceMix | None:
    """How the sets of the training split are mixed; None for a single set. annotations: of that split."""
    if data.format != JOINT:
        return None
    weights = tuple(data.mix[name].weight for name in data.train)
    return SourceMix(tuple(data.train), annotations.parts, weights)
