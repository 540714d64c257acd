"""Several sets under one tree: boxes from some, labels of whole images from others -> one Annotations.

The classes of the joined set are the nodes of the tree. How often each set is drawn is said by
sampling.SourceMix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import to_offsets
from detectors.data.images import Decoded, ImageReader
from detectors.data.problems import shortened
from detectors.data.suggestions import did_you_mean
from detectors.data.torchvision_sets import PLACES_BELOW_ROOT, array_image

ARRAYS_OF_BOXES = ("boxes_original", "labels", "difficult", "crowd", "areas")


class Source(NamedTuple):
    """One of the sets that are joined, its classes being nodes already."""

    name: str
    annotations: Annotations


def nodes_of_classes(
    class_names: Sequence[str], node_names: Sequence[str], given: Mapping[str, str], place: str
) -> np.ndarray:
    """(C,) int64: the node of each class: the given one, or the one of the same name.

    given: class -> name of its node. place: the setting of the set, for messages.
    ValueError that lists all classes without a node, and what is wrong with `given`.
    """
    number = {name: node for node, name in enumerate(node_names)}
    problems = [
        f"{place}.nodes={{{name}: {node}}}: {what}"
        for name, node in given.items()
        for what in _wrong_entry(name, node, class_names, number)
    ]
    wanted = [given.get(name, name) for name in class_names]
    problems += [
        f"{place}: the class {name!r} is no node of data.tree{did_you_mean(name, number, quoted=True)}"
        for name, node in zip(class_names, wanted, strict=True)
        if node not in number and name not in given
    ]
    if problems:
        fix = f"{place}.nodes={{CLASS: NODE}} says which node a class is; {place}.class_names chooses classes"
        raise ValueError("\n".join([*shortened(problems), fix]))
    return np.array([number[node] for node in wanted], np.int64)


def _wrong_entry(name: str, node: str, class_names: Sequence[str], number: Mapping[str, int]) -> list[str]:
    """What is wrong with one entry of `given`."""
    if name not in class_names:
        return [f"the set has no class {name!r}{did_you_mean(name, class_names, quoted=True)}"]
    if node not in number:
        return [f"data.tree has no node {node!r}{did_you_mean(node, number, quoted=True)}"]
    return []


def with_nodes(annotations: Annotations, nodes: np.ndarray, node_names: Sequence[str]) -> Annotations:
    """The same images and boxes, the classes being nodes. nodes: (C,). Labels of whole images are nodes."""
    return replace(
        annotations,
        class_names=tuple(node_names),
        category_ids=tuple(range(1, len(node_names) + 1)),
        labels=nodes[annotations.labels],
    )


def labels_alone(annotations: Annotations) -> tuple[Annotations, int]:
    """Images with the label of their boxes alone: those whose boxes are all of one class.

    Also returns how many images with boxes of several classes, or with none, were left out.
    """
    counts = np.diff(annotations.offsets)
    image = annotations.image
    low = np.full(len(annotations), np.iinfo(np.int64).max)
    high = np.full(len(annotations), -1, np.int64)
    np.minimum.at(low, image, annotations.labels)
    np.maximum.at(high, image, annotations.labels)
    rows = np.flatnonzero((counts > 0) & (low == high))
    chosen = _images(annotations, rows)
    return replace(chosen, image_labels=high[rows]), len(annotations) - len(rows)


def _images(annotations: Annotations, rows: np.ndarray) -> Annotations:
    """Some images, without their boxes."""
    return replace(
        annotations,
        image_ids=[annotations.image_ids[row] for row in rows.tolist()],
        paths=[annotations.paths[row] for row in rows.tolist()],
        sizes=annotations.sizes[rows],
        offsets=np.zeros(len(rows) + 1, np.int64),
        **{name: getattr(annotations, name)[:0] for name in ARRAYS_OF_BOXES},
    )


def joined_sets(sources: Sequence[Source]) -> Annotations:
    """The images of all sets, set by set. With several, NAME/ of the set stands before the id of an image.

    All have the same nodes as classes. With one, its image ids stay as they are.
    """
    parts = [source.annotations for source in sources]
    first = parts[0]
    if len(parts) == 1:
        return replace(first, image_labels=_image_labels(first), parts=(len(first),))
    return Annotations(
        class_names=first.class_names,
        image_ids=[f"{source.name}/{it}" for source in sources for it in source.annotations.image_ids],
        paths=[path for part in parts for path in part.paths],
        sizes=np.concatenate([part.sizes for part in parts]),
        offsets=to_offsets(np.concatenate([np.diff(part.offsets) for part in parts])),
        category_ids=first.category_ids,
        image_labels=np.concatenate([_image_labels(part) for part in parts]),
        parts=tuple(map(len, parts)),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS_OF_BOXES},
    )


def _image_labels(annotations: Annotations) -> np.ndarray:
    labels = annotations.image_labels
    return np.full(len(annotations), -1, np.int64) if labels is None else labels


class JointReader:
    """Reads the images of joined sets by row: files as ImageReader does, and those of sets in memory."""

    def __init__(self, images: ImageReader, arrays: Mapping[str, tuple[str, str]]):
        """arrays: what the paths of a set in memory begin with -> the set's name and root."""
        self.images = images
        self.arrays = dict(arrays)

    def read(self, row: int, wanted: tuple[float, float] | None = None) -> Decoded:
        """See ImageReader.read."""
        path = self.images.annotations.paths[row]
        for beginning, (name, root) in self.arrays.items():
            if path.startswith(beginning):
                return array_image(name, root, path)
        return self.images.read(row, wanted)


def array_beginnings(sets: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """JointReader's arrays for sets of (name, root)."""
    return {f"{root}/{PLACES_BELOW_ROOT[name]}/": (name, root) for name, root in sets}
