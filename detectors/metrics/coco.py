"""COCO's twelve numbers, and results in the format of COCO's server.

pycocotools computes the same numbers in metrics/coco_reference.py, many times slower. Boxes are xywh only in
COCO's files and in these modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.annotations import Annotations
from detectors.metrics.arrays import DetectionArrays, to_arrays
from detectors.metrics.coco_arrays import CocoDetections, CocoTruths, Judged, coco_tables, judge
from detectors.structures import Detections

STATISTICS = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)

ALL, SMALL, MEDIUM, LARGE = range(4)  # size ranges
AT_50 = 0  # positions in IOU_THRESHOLDS
AT_75 = 5


@dataclass(frozen=True)
class CocoResult:
    """AP without a number is the mean over IoU .50:.05:.95. -1: no ground truth (of that class or size)."""

    class_names: tuple[str, ...]
    stats: dict[str, float]  # the twelve of STATISTICS, in that order
    ap: np.ndarray  # (C,) float64
    ap50: np.ndarray  # (C,)
    ap75: np.ndarray  # (C,)
    ap_table: np.ndarray  # (10, C, 4) by IoU, class, and size: all, small, medium, large; 100 detections
    ar_table: np.ndarray  # (C, 4, 3) by class, size, and detections per image and class: 1, 10, 100


def evaluate_coco(annotations: Annotations, detections: Detections) -> CocoResult:
    """pycocotools' numbers for `detections` (original frame; `image` is the row of `annotations`).

    Crowd regions absorb detections, as in COCO. VOC's difficult boxes are ignored as COCO ignores boxes of
    another size range: they are not positives, and a detection that matches one (by plain IoU, once, after
    the boxes that count) is neither right nor wrong. They are not treated as crowd regions: with a crowd
    region's IoU (intersection / detection), they would absorb any small box inside them. Size ranges (small <
    32^2 <= medium < 96^2 <= large) use Annotations.areas: the segmentation's area in COCO, width * height
    elsewhere.

    Without detections all defined numbers are 0; without ground truth all are -1.
    ValueError: see metrics.arrays.to_arrays.
    """
    truths, found, _ = _inputs(annotations, detections)
    tables = coco_tables(truths, found, classes=len(annotations.class_names))
    return to_result(tables.precision, tables.recall, annotations.class_names, annotations.category_ids)


def judge_by_size(annotations: Annotations, detections: Detections) -> Judged:
    """COCO's matching at its ten thresholds and four size ranges: all, small, medium, large. Images are rows
    of `annotations`. Arguments: see evaluate_coco.
    """
    truths, found, place = _inputs(annotations, detections)
    judged = judge(truths, found, classes=len(annotations.class_names))
    row_of = np.argsort(place)
    return judged._replace(detections=judged.detections._replace(image=row_of[judged.detections.image]))


def _inputs(
    annotations: Annotations, detections: Detections
) -> tuple[CocoTruths, CocoDetections, np.ndarray]:
    """Ground truth and detections as COCO's matching takes them, and (N,) the place of each image there."""
    arrays = to_arrays(annotations, detections)
    image = _image_order(annotations)
    truths = CocoTruths(
        image=image[annotations.image],
        label=annotations.labels,
        xywh=to_xywh(annotations.boxes_original),
        area=annotations.areas,
        crowd=annotations.crowd,
        ignored=annotations.difficult,
    )
    found = CocoDetections(image[arrays.image], arrays.labels, to_xywh(arrays.boxes_original), arrays.scores)
    return truths, found, image


def _image_order(annotations: Annotations) -> np.ndarray:
    """(N,) the place of each image. COCOeval sorts images by id, which decides between equal scores."""
    ids = annotations.image_ids
    place = np.arange(len(ids))
    if all(isinstance(image_id, int) for image_id in ids):
        place[np.argsort(np.array(ids, dtype=np.int64), kind="stable")] = np.arange(len(ids))
    return place


def to_result(
    precision: np.ndarray, recall: np.ndarray, class_names: tuple[str, ...], category_ids: Sequence[int]
) -> CocoResult:
    """From tables whose classes are in the order of class_names; see coco_arrays.Tables.

    category_ids: COCOeval takes means over classes in the order of their ids, which decides the last bit.
    """
    order = np.argsort(category_ids, kind="stable")
    p = precision[:, :, order]
    r = recall[:, order]
    stats = [mean_of_defined(values) for values in (p[..., ALL], p[AT_50, ..., ALL], p[AT_75, ..., ALL])]
    stats += [mean_of_defined(p[..., size]) for size in (SMALL, MEDIUM, LARGE)]
    stats += [mean_of_defined(r[..., ALL, limit]) for limit in range(r.shape[-1])]
    stats += [mean_of_defined(r[..., size, -1]) for size in (SMALL, MEDIUM, LARGE)]
    per_class = [precision[:, :, label, ALL] for label in range(len(class_names))]  # C arrays (10, 101)
    return CocoResult(
        class_names,
        dict(zip(STATISTICS, stats, strict=True)),
        ap=np.array([mean_of_defined(values) for values in per_class]),
        ap50=np.array([mean_of_defined(values[AT_50]) for values in per_class]),
        ap75=np.array([mean_of_defined(values[AT_75]) for values in per_class]),
        # Without ground truth the whole axis is -1, and so is its plain mean.
        ap_table=precision.mean(1),
        ar_table=recall.mean(0),
    )


def coco_results(annotations: Annotations, detections: Detections) -> list[dict]:
    """Detections (original frame) in COCO's results format: xywh, the data set's image and category ids.

    JSON keeps all digits: evaluating the file gives the same numbers to the last bit.
    """
    return results_json(annotations, to_arrays(annotations, detections), annotations.image_ids)


def results_json(annotations: Annotations, arrays: DetectionArrays, ids: Sequence[int | str]) -> list[dict]:
    """The contents of a results file."""
    columns = (arrays.image, arrays.labels, to_xywh(arrays.boxes_original), arrays.scores)
    return [
        {"image_id": ids[image], "category_id": annotations.category_ids[label], "bbox": xywh, "score": score}
        for image, label, xywh, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(T, 4) xyxy -> (T, 4) corner and size."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def mean_of_defined(precision: np.ndarray) -> float:
    """-1 without a defined value."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0
