"""Why a detector loses AP: six kinds of errors, and how much AP each costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020). A wrong detection is
compared with all boxes of its image that count. With s and o its highest IoU with a box of its own class and
of another one, at IoU > .5 (foreground) and .1 (background), it is the first of these:

    location    .1 <= s < .5
    class       o >= .5
    duplicate   s >= .5, and that box is taken
    background  s < .1 and o < .1
    both        everything else: .1 <= o < .5, so neither its class nor its place is right

    missed      a box that no detection has found, and that no error above would have found

The cost of a kind is AP50 without its errors, minus AP50. An error of class or location that points to a box
nobody has found becomes right (the best score of each box; the others go); all other errors go; missed boxes
are no longer counted. The costs do not add up to 1 - AP50. As in TIDE, AP50 is COCO's, with 101 levels.

Unlike TIDE's code, at most 100 detections of each image and class count (TIDE: of each image), a detection
that COCO ignores is no error, an IoU of exactly .5 with a taken box is a duplicate, and the mean is over the
classes that have boxes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.boxes import paired_iou
from detectors.metrics.arrays import pairs_in_images
from detectors.metrics.coco import AT_50
from detectors.metrics.coco_arrays import Judged
from detectors.metrics.resampling import Outcomes, weighted_ap

FOREGROUND = 0.5
BACKGROUND_IOU = 0.1
ERROR_KINDS = ("class", "location", "both", "duplicate", "background", "missed")
NO_ERROR = ""


class ErrorCosts(NamedTuple):
    """What each of ERROR_KINDS costs; likewise `wrong`, all wrong detections, and `unfound`, all boxes that
    are not found.
    """

    ap50: float  # NaN without boxes
    costs: dict[str, float]  # in AP50
    counts: dict[str, int]


class _Nearest(NamedTuple):
    """For each detection the box of the highest IoU among some: (T,) IoU, 0 for none, and (T,) its row."""

    iou: np.ndarray
    box: np.ndarray


def error_costs(annotations: Annotations, judged: Judged) -> ErrorCosts:
    """judged: the detections, see coco.judge_by_size."""
    counting = ~(annotations.difficult | annotations.crowd)
    taken = judged.found[:, AT_50, 0] & counting
    own, other = _nearest(annotations, judged, counting)
    kinds = np.where(judged.wrong[:, AT_50, 0], _kinds(own, other, taken), NO_ERROR)
    pointed_at = np.where(kinds == "class", other.box, own.box)
    repaired = _repaired(kinds, pointed_at, judged, taken)
    would_be_found = np.zeros(len(taken), bool)
    would_be_found[pointed_at[repaired]] = True
    missed = counting & ~taken & ~would_be_found
    return _costs(annotations.labels, judged, kinds, repaired, pointed_at, missed, counting & ~taken)


def _nearest(annotations: Annotations, judged: Judged, counting: np.ndarray) -> tuple[_Nearest, _Nearest]:
    """The nearest box of each detection's class, and of another class."""
    image = judged.detections.image
    wrong = np.flatnonzero(judged.wrong[:, AT_50, 0])
    pair, box = pairs_in_images(annotations, image[wrong])
    keep = counting[box]
    detection, box = wrong[pair[keep]], box[keep]
    xywh = judged.detections.xywh
    boxes = torch.from_numpy(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))
    iou = paired_iou(boxes[detection], torch.from_numpy(annotations.boxes_original)[box]).numpy()
    same = judged.detections.label[detection] == annotations.labels[box]
    near = iou >= BACKGROUND_IOU
    own, other = (
        _best(detection[kept], box[kept], iou[kept], len(image)) for kept in (near & same, near & ~same)
    )
    return own, other


def _best(detection: np.ndarray, box: np.ndarray, iou: np.ndarray, count: int) -> _Nearest:
    """Of pairs in the order of detections, the highest IoU of each; the first of equals."""
    order = np.lexsort((-iou, detection))
    _, first = np.unique(detection[order], return_index=True)
    best = order[first]
    nearest = _Nearest(np.zeros(count), np.zeros(count, np.int64))
    nearest.iou[detection[best]] = iou[best]
    nearest.box[detection[best]] = box[best]
    return nearest


def _kinds(own: _Nearest, other: _Nearest, taken: np.ndarray) -> np.ndarray:
    """(T,) the kind of each detection, if it is wrong."""
    conditions = {
        "location": (own.iou >= BACKGROUND_IOU) & (own.iou < FOREGROUND),
        "class": other.iou >= FOREGROUND,
        "duplicate": own.iou >= FOREGROUND,
        "background": other.iou < BACKGROUND_IOU,
    }
    return np.select(list(conditions.values()), list(conditions), default="both")


def _repaired(kinds: np.ndarray, pointed_at: np.ndarray, judged: Judged, taken: np.ndarray) -> np.ndarray:
    """(E,) rows of the detections that would be right: of each box that nobody has found, the best score."""
    rows = np.flatnonzero(np.isin(kinds, ("class", "location")))
    rows = rows[~taken[pointed_at[rows]]]
    rows = rows[np.argsort(-judged.detections.score[rows], kind="stable")]
    _, first = np.unique(pointed_at[rows], return_index=True)
    return rows[first]


def _costs(
    box_labels: np.ndarray,
    judged: Judged,
    kinds: np.ndarray,
    repaired: np.ndarray,
    pointed_at: np.ndarray,
    missed: np.ndarray,
    unfound: np.ndarray,
) -> ErrorCosts:
    label = judged.detections.label
    score = judged.detections.score
    right = judged.right[:, AT_50, 0]
    boxes = judged.counts[:, 0]
    counted = right | judged.wrong[:, AT_50, 0]
    by_score = np.argsort(-score, kind="stable")

    def ap50(kept: np.ndarray, label: np.ndarray, right: np.ndarray, boxes: np.ndarray) -> float:
        order = by_score[kept[by_score]]
        order = order[np.argsort(label[order], kind="stable")]
        values = np.where(boxes > 0, _ap(label[order], score[order], right[order], boxes), 0.0)
        # A class whose boxes are all left out has AP 0, as in TIDE.
        return float(values[judged.counts[:, 0] > 0].mean()) if judged.counts.any() else float("nan")

    base = ap50(counted, label, right, boxes)
    costs = {}
    for kind in ERROR_KINDS[:-1]:
        mended = repaired[kinds[repaired] == kind]
        kept = counted & (kinds != kind)
        kept[mended] = True
        fixed_label = label.copy()
        fixed_label[mended] = box_labels[pointed_at[mended]]
        fixed_right = right.copy()
        fixed_right[mended] = True
        costs[kind] = ap50(kept, fixed_label, fixed_right, boxes) - base
    fewer = {
        name: np.bincount(box_labels[rows], minlength=len(boxes))
        for name, rows in (("missed", missed), ("unfound", unfound))
    }
    costs["missed"] = ap50(counted, label, right, boxes - fewer["missed"]) - base
    costs["wrong"] = ap50(right, label, right, boxes) - base
    costs["unfound"] = ap50(counted, label, right, boxes - fewer["unfound"]) - base
    counts = {kind: int((kinds == kind).sum()) for kind in ERROR_KINDS[:-1]}
    counts |= {"missed": int(missed.sum()), "wrong": int((kinds != NO_ERROR).sum())}
    counts["unfound"] = int(unfound.sum())
    return ErrorCosts(base, costs, counts)


def _ap(label: np.ndarray, score: np.ndarray, right: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(C,) AP of detections by class and descending score; NaN for a class without boxes."""
    one_image = Outcomes(
        np.zeros(len(label), np.int64), label, score, right[:, None], ~right[:, None], boxes[None]
    )
    (ap,) = weighted_ap(one_image, np.ones((1, 1), np.uint16), boxes[:, None].astype(float), "coco")
    return ap[0, :, 0]
