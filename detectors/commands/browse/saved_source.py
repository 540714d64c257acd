"""What `detectors browse --detections` shows: the ground truth of images, and beside it what was detected."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from detectors.annotations import Annotations
from detectors.commands.browse.cells import original_cell
from detectors.commands.browse.options import names_data
from detectors.config.check import check
from detectors.config.schema import Config
from detectors.data.image_headers import PIXEL_LIMIT
from detectors.data.images import ImageError, ImageReader
from detectors.data.result_files import ImageRows
from detectors.data.suggestions import did_you_mean
from detectors.drawing.drawn_boxes import class_colours, draw_boxes
from detectors.drawing.framed_images import captioned, fit_image
from detectors.metrics.coco import ALL, AT_50, judge_by_size
from detectors.metrics.coco_arrays import Judged
from detectors.tables import text_table
from detectors.training import ground_truth
from detectors.training.saved_detections import find_saved, known_of, load_saved

OUTCOMES = ("right", "wrong", "missed")


class SavedSource(NamedTuple):
    """Saved detections from a score on, judged as COCO does at IoU .5, at most 100 of a class and image."""

    title: str  # data set and split
    annotations: Annotations
    judged: Judged
    missed: np.ndarray  # (T,) bool: boxes of the chosen classes that count and that no detection has found
    counts: np.ndarray  # (N, 3) int64: OUTCOMES of each image
    labels: np.ndarray  # the chosen classes
    rows: Sequence[int]  # of the images to show, in their order
    reader: ImageReader
    notes: list[str]


def open_saved(args: argparse.Namespace, config: Mapping[str, Any]) -> SavedSource:
    """args: the command line of `detectors browse`; config: what its overrides compose, unchecked.

    FileNotFoundError or ValueError names the file, image or class that there is not.
    """
    place = find_saved(args.detections)
    known = known_of(place)
    checked: Config | None = check(config) if names_data(args) else None
    truths = partial(ground_truth.read_annotations, checked.data, args.split) if checked else None
    saved = load_saved(place, truths)
    if checked:
        known = {"data": checked.data.name, "split": args.split}
    annotations = saved.annotations
    labels = _chosen_labels(args.classes, annotations.class_names)
    detections = saved.detections.above(args.score)
    judged = judge_by_size(annotations, detections)
    counting = ~(annotations.difficult | annotations.crowd) & np.isin(annotations.labels, labels)
    missed = counting & ~judged.found[:, AT_50, ALL]
    counts = _counts(annotations, judged, missed, labels)
    return SavedSource(
        " ".join(str(known[key]) for key in ("data", "split") if key in known) or args.detections,
        annotations,
        judged,
        missed,
        counts,
        labels,
        _chosen_images(args, annotations, counts),
        ImageReader(annotations, max_pixels=checked.data.max_pixels if checked else PIXEL_LIMIT),
        saved.notes,
    )


def _chosen_labels(classes: Sequence[str] | None, class_names: Sequence[str]) -> np.ndarray:
    for name in classes or ():
        if name not in class_names:
            hint = did_you_mean(name, class_names, listed=True)
            raise ValueError(f"--classes {name}: the ground truth has no such class{hint}")
    return np.array([label for label, name in enumerate(class_names) if classes is None or name in classes])


def _counts(annotations: Annotations, judged: Judged, missed: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, 3)"""
    chosen = np.isin(judged.detections.label, labels)
    images = [
        judged.detections.image[chosen & flags[:, AT_50, ALL]] for flags in (judged.right, judged.wrong)
    ]
    images.append(annotations.image[missed])
    return np.stack([np.bincount(image, minlength=len(annotations)) for image in images], axis=1)


def _chosen_images(args: argparse.Namespace, annotations: Annotations, counts: np.ndarray) -> Sequence[int]:
    """Rows of `annotations`. ValueError for an unknown one, or none."""
    if not len(annotations):
        raise ValueError(f"{args.detections}: its ground truth has no images")
    if args.ids:
        images = ImageRows(annotations)
        rows = [images.row(image_id) for image_id in args.ids]
        if -1 in rows:
            image_id = args.ids[rows.index(-1)]
            hint = did_you_mean(image_id, [str(known) for known in annotations.image_ids])
            raise ValueError(f"--ids {image_id}: the ground truth has no such image{hint}")
        return rows
    rows = np.arange(len(annotations))
    if args.order == "errors":
        rows = np.argsort(-counts[:, 1:].sum(1), kind="stable")
    return rows[: args.images].tolist()


def describe_saved(source: SavedSource, score: float) -> str:
    """What was found and missed, in all images, and a line for each image that is shown."""
    counting = ~(source.annotations.difficult | source.annotations.crowd)
    boxes = int((counting & np.isin(source.annotations.labels, source.labels)).sum())
    right, wrong, missed = source.counts.sum(0).tolist()
    lines = [
        f"{source.title}: {len(source.annotations)} images, {boxes} boxes of {len(source.labels)} classes; "
        f"from score {score:g} on at IoU .5: {right} right, {wrong} wrong, {missed} missed; "
        f"{len(source.rows)} images shown",
        *(f"note: {note}" for note in source.notes),
    ]
    table = [(source.annotations.image_ids[row], *source.counts[row].tolist()) for row in source.rows]
    return "\n".join([*lines, *text_table(("image", *OUTCOMES), table)])


def detection_cells(source: SavedSource, side: int) -> Iterator[np.ndarray]:
    """Of each image two cells: the ground truth, and the detections over it.

    An image that cannot be read is left out, with a line on stderr. ValueError if none can be.
    """
    shown = 0
    for row in source.rows:
        try:
            image = source.reader.read(row).image
        except ImageError as error:
            sys.stderr.write(f"left out: {error}\n")
            continue
        yield original_cell(source.annotations, row, image, side, "ground truth")
        yield _detection_cell(source, row, image, side)
        shown += 1
    if not shown:
        raise ValueError(
            "none of the images can be read, see above; name the data set where it lies now: "
            "data=... data.root=..."
        )


def _detection_cell(source: SavedSource, row: int, image: np.ndarray, side: int) -> np.ndarray:
    """Detections in class colours, the wrong ones named so; boxes to be found dashed, missed ones named."""
    annotations, judged = source.annotations, source.judged
    names = annotations.class_names
    found = judged.detections
    chosen = np.flatnonzero((found.image == row) & np.isin(found.label, source.labels))
    chosen = chosen[np.argsort(-found.score[chosen], kind="stable")]
    wrong = judged.wrong[chosen, AT_50, ALL].tolist()
    labels, scores = found.label[chosen], found.score[chosen].tolist()
    texts = [
        f"{names[label]} {score:.2f}" + " wrong" * is_wrong
        for label, score, is_wrong in zip(labels, scores, wrong, strict=True)
    ]
    corner, size = np.split(found.xywh[chosen], 2, axis=1)
    truths = np.arange(len(annotations.labels))[annotations.rows(row)]
    truths = truths[np.isin(annotations.labels[truths], source.labels)]
    missed = source.missed[truths].tolist()
    gt_texts = [
        f"missed {names[label]}" * is_missed
        for label, is_missed in zip(annotations.labels[truths], missed, strict=True)
    ]
    image, factor = fit_image(image, side)
    picture = draw_boxes(
        image,
        np.concatenate([corner, corner + size], axis=1) * factor,
        texts,
        colours=class_colours(len(names))[labels],
        gt_boxes=annotations.boxes_original[truths] * factor,
        gt_texts=gt_texts,
        enlarge=False,
    )
    counts = ", ".join(f"{n} {name}" for n, name in zip(source.counts[row], OUTCOMES, strict=True))
    return captioned(picture, f"{annotations.image_ids[row]}: {counts}")
