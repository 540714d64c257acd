"""The same detections measured as other programs measure them, so that a user sees why their number differs.

Each variant changes one thing of AP50 (VOC10 area), or a few things that belong together. Who uses it stands
beside it; docs/evaluation.md has what they were on a real network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.metrics.voc import VocResult, evaluate_voc
from detectors.structures import Detections
from detectors.tables import cell, text_table

SCORE_FLOORS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
MOST_OF_AN_IMAGE = (100, 200)
COCO_AP50 = "COCO's AP50: 101 recall points, IoU >= .5, the best free box, 100 of a class and image"
USERS_OF_FLOORS = {0.005: "Darknet's detector valid"}


class ApVariant(NamedTuple):
    """One row of the table."""

    name: str
    differs: str  # from the first row
    used_by: str  # "" if no program is known to do just this
    ap: float | None  # None: no ground truth

    def as_dict(self, first: ApVariant) -> dict[str, Any]:
        return {
            "name": self.name,
            "differs": self.differs,
            "used_by": self.used_by,
            "AP": self.ap,
            "difference": self.minus(first),
        }

    def minus(self, first: ApVariant) -> float | None:
        return None if self.ap is None or first.ap is None else self.ap - first.ap


class _Matching(NamedTuple):
    """A change of VOC's matching."""

    name: str
    differs: str
    used_by: str
    rules: dict[str, Any]  # of evaluate_voc


MATCHINGS = (
    _Matching("inclusive", "IoU >= .5", "VOCdevkit's VOCevaldet.m", {"inclusive": True}),
    _Matching(
        "shorter_sides", "sides one pixel shorter: VOC's corners without + 1", "", {"added_to_sides": -1.0}
    ),
    _Matching(
        "longer_sides", "sides one pixel longer: + 1 on edges that need none", "", {"added_to_sides": 1.0}
    ),
    _Matching("difficult", "difficult boxes count", "", {"difficult_counts": True}),
    _Matching(
        "difficult_inclusive",
        "difficult boxes count, IoU >= .5",
        "Padilla",
        {"difficult_counts": True, "inclusive": True},
    ),
    _Matching("next_free", "a detection takes the best box that is free", "", {"next_free": True}),
    _Matching(
        "next_free_inclusive",
        "a detection takes the best box that is free, IoU >= .5",
        "",
        {"next_free": True, "inclusive": True},
    ),
)


def ap_variants(
    annotations: Annotations,
    detections: Detections,
    coco: Mapping[str, float | None],
    unclipped: Detections | None = None,
) -> list[ApVariant]:
    """All variants, AP50 (VOC10 area) first.

    detections: original frame; `image` is the row of `annotations`. coco: AP and AP50 as evaluate_coco gives
    them. unclipped: the same detections before they were clipped to their images; without them, the last row
    is of `detections` clipped.
    """
    first = evaluate_voc(annotations, detections)
    inclusive = evaluate_voc(annotations, detections, inclusive=True)
    rows = [
        _variant("voc10", "AP50 (VOC10 area): IoU > .5, all detections", "voc_eval.py", first.map10),
        _variant("voc07", "11 recall points (VOC07)", "voc_eval.py", first.map07),
        _variant(
            "voc07_inclusive", "11 recall points, IoU >= .5", "VOCdevkit's VOCevaldet.m", inclusive.map07
        ),
        ApVariant("coco_ap50", COCO_AP50, "pycocotools", coco["AP50"]),
        ApVariant("coco_ap", "COCO's AP: the mean over IoU .50:.05:.95", "pycocotools", coco["AP"]),
    ]
    for name, differs, used_by, rules in MATCHINGS:
        rows.append(_variant(name, differs, used_by, evaluate_voc(annotations, detections, **rules).map10))
    absent = _with_absent_classes(first)
    rows.append(_variant("absent_classes", "a class without boxes counts as -1", "ssd.pytorch", absent))
    for name, differs, used_by, changed in _changed_detections(annotations, detections, unclipped):
        rows.append(_variant(name, differs, used_by, evaluate_voc(annotations, changed).map10))
    return rows


def _variant(name: str, differs: str, used_by: str, ap: float) -> ApVariant:
    return ApVariant(name, differs, used_by, None if np.isnan(ap) else float(ap))


def _with_absent_classes(result: VocResult) -> float:
    return float(np.nan_to_num(result.ap10, nan=-1.0).mean()) if len(result.ap10) else np.nan


def _changed_detections(
    annotations: Annotations, detections: Detections, unclipped: Detections | None
) -> Iterator[tuple[str, str, str, Detections]]:
    """Name, what differs, who does so, and the detections that are measured in place of the given ones."""
    for floor in SCORE_FLOORS:
        number = f"{floor:g}".removeprefix("0")
        differs = f"scores above {number}"
        yield f"score_{number}", differs, USERS_OF_FLOORS.get(floor, ""), above_floor(detections, floor)
    for count in MOST_OF_AN_IMAGE:
        yield f"best_{count}", f"the best {count} of an image", "", best_of_image(detections, count)
    both = best_of_image(above_floor(detections, 0.01), 200)
    yield "score_.01_best_200", "scores above .01, the best 200 of an image", "SSD in Caffe", both
    yield "one_class", "of each box its best class only", "", one_class_per_box(detections)
    yield "rounded", "scores rounded to three digits", "detectron2", rounded_scores(detections)
    if unclipped is None:
        yield "clipped", "boxes clipped to the image", "", clipped_to_images(annotations, detections)
    else:
        yield "unclipped", "boxes not clipped to the image", "", unclipped


def above_floor(detections: Detections, floor: float) -> Detections:
    """Scores above `floor`, as PostProcess's score_threshold."""
    return _kept(detections, detections.scores.double() > floor)


def best_of_image(detections: Detections, count: int) -> Detections:
    """The `count` best of each image, of all classes together; of equal scores, the first. Order stays."""
    image = detections.image.cpu().numpy()
    order = np.lexsort((-detections.scores.cpu().numpy(), image))  # stable
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    keep = np.zeros(len(order), dtype=bool)
    keep[order[rank < count]] = True
    return _kept(detections, torch.from_numpy(keep))


def one_class_per_box(detections: Detections) -> Detections:
    """Of the detections of an image with equal coordinates, the best; of equal scores, the first."""
    boxes = detections.boxes.cpu().numpy()
    image = detections.image.cpu().numpy()
    order = np.lexsort((-detections.scores.cpu().numpy(), *boxes.T, image))  # stable
    place = np.column_stack([image, boxes])[order]
    keep = np.zeros(len(order), dtype=bool)
    keep[order[:1]] = True
    keep[order[1:]] = (place[1:] != place[:-1]).any(1)
    return _kept(detections, torch.from_numpy(keep))


def rounded_scores(detections: Detections) -> Detections:
    """Scores with three digits behind the point, which makes ties."""
    return replace(detections, scores=detections.scores.double().round(decimals=3))


def clipped_to_images(annotations: Annotations, detections: Detections) -> Detections:
    """Boxes clipped to their images, as to_original clips them."""
    wh = torch.from_numpy(np.ascontiguousarray(annotations.sizes[:, ::-1])).to(detections.boxes)
    limit = wh[detections.image].repeat(1, 2)
    return replace(detections, boxes=torch.minimum(detections.boxes.clamp(min=0), limit))


def _kept(detections: Detections, keep: torch.Tensor) -> Detections:
    keep = keep.to(detections.image.device)
    columns = (detections.image, detections.boxes, detections.scores, detections.labels)
    return Detections(*(column[keep] for column in columns))


def variants_text(rows: Sequence[ApVariant]) -> str:
    """The rows as a table."""
    cells = [
        (row.differs, cell(row.ap, ".4f"), cell(row.minus(rows[0]), "+.4f") if place else "", row.used_by)
        for place, row in enumerate(rows)
    ]
    head = ("what differs from the first row", "AP", "difference", "used by")
    return "\n".join(text_table(head, cells, left=(0, 3)))
