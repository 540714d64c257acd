"""COCO's twelve numbers, computed by pycocotools in memory, and results in the format of COCO's server.

Only this module and data/coco.py import pycocotools. Boxes are xywh only in COCO's files and in this module's
dictionaries.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.annotations import Annotations
from detectors.metrics.arrays import DetectionArrays, to_arrays
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

# Positions in COCOeval's tables: area range "all", and 100 detections per image and class.
ALL_AREAS = 0
MOST_DETECTIONS = -1


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
    arrays = to_arrays(annotations, detections)
    ids = annotations.image_ids
    if not all(isinstance(image_id, int) for image_id in ids):
        ids = tuple(range(len(annotations)))  # COCOeval needs integer ids; VOC's are strings
    return _evaluate(
        _ground_truth(annotations, ids),
        _results(annotations, arrays, ids),
        annotations.class_names,
        annotations.category_ids,
    )


def evaluate_json(ground_truth: dict, results: list[dict]) -> CocoResult:
    """pycocotools' numbers for the contents of an instances file and of a results file.

    Classes are in the order of the category ids.
    ValueError for a result whose image is not in the instances file; pycocotools would drop it silently.
    """
    image_ids = {image["id"] for image in ground_truth["images"]}
    unknown = {result["image_id"] for result in results} - image_ids
    if unknown:
        examples = ", ".join(map(repr, sorted(unknown, key=str)[:3]))
        raise ValueError(
            f"results name {len(unknown)} images that the annotation file does not have ({examples}): "
            "is it another split?"
        )
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    return _evaluate(
        ground_truth,
        results,
        tuple(category["name"] for category in categories),
        tuple(category["id"] for category in categories),
    )


def coco_results(annotations: Annotations, detections: Detections) -> list[dict]:
    """Detections (original frame) in COCO's results format: xywh, the data set's image and category ids.

    JSON keeps all digits: evaluating the file gives the same numbers to the last bit.
    """
    return _results(annotations, to_arrays(annotations, detections), annotations.image_ids)


class _BoxEvaluation(COCOeval):
    """COCOeval for boxes that also ignores those marked `difficult`.

    COCOeval itself ignores only crowds: it overwrites `ignore` with `iscrowd`.
    """

    def __init__(self, ground_truth: COCO, results: COCO):
        super().__init__(ground_truth, results, "bbox")

    def _prepare(self) -> None:
        super()._prepare()
        for boxes in self._gts.values():
            for box in boxes:
                box["ignore"] = box["ignore"] or box.get("difficult", 0)


def _evaluate(
    ground_truth: dict, results: list[dict], class_names: tuple[str, ...], category_ids: tuple[int, ...]
) -> CocoResult:
    numbered = [  # as COCO.loadRes does, which cannot take an empty list
        result | {"id": i, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0}
        for i, result in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = _BoxEvaluation(_index(ground_truth), _index(ground_truth | {"annotations": numbered}))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][..., MOST_DETECTIONS]  # (10 IoUs, 101 recalls, C, 4 areas)
    recall = evaluation.eval["recall"]  # (10 IoUs, C, 4 areas, 3 limits on detections)
    at = {round(float(iou), 2): i for i, iou in enumerate(evaluation.params.iouThrs)}
    column = [list(evaluation.params.catIds).index(category) for category in category_ids]
    per_class = [precision[:, :, k, ALL_AREAS] for k in column]  # C arrays (10, 101)
    return CocoResult(
        class_names,
        dict(zip(STATISTICS, map(float, evaluation.stats), strict=True)),
        ap=np.array([_mean_of_defined(p) for p in per_class]),
        ap50=np.array([_mean_of_defined(p[at[0.5]]) for p in per_class]),
        ap75=np.array([_mean_of_defined(p[at[0.75]]) for p in per_class]),
        # Without ground truth the whole axis is -1, and so is its plain mean.
        ap_table=precision.mean(1)[:, column],
        ar_table=recall.mean(0)[column],
    )


def _index(contents: dict) -> COCO:
    coco = COCO()
    copies = [dict(row) for row in contents["annotations"]]  # COCOeval writes into them
    coco.dataset = contents | {"annotations": copies}
    coco.createIndex()
    return coco


def _ground_truth(annotations: Annotations, ids: tuple[int, ...]) -> dict:
    """The contents of an instances file. Annotation ids start at 1: COCOeval takes id 0 for "not matched"."""
    columns = (
        annotations.image,
        annotations.labels,
        _xywh(annotations.boxes_original),
        annotations.areas,
        annotations.crowd,
        annotations.difficult,
    )
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "images": [
            {"id": image_id, "height": int(height), "width": int(width)}
            for image_id, (height, width) in zip(ids, annotations.sizes, strict=True)
        ],
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(annotations.category_ids, annotations.class_names, strict=True)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": ids[image],
                "category_id": annotations.category_ids[label],
                "bbox": xywh,
                "area": area,
                "iscrowd": int(crowd),
                "difficult": int(difficult),
            }
            for number, (image, label, xywh, area, crowd, difficult) in enumerate(rows, start=1)
        ],
    }


def _results(annotations: Annotations, arrays: DetectionArrays, ids: tuple[int | str, ...]) -> list[dict]:
    """The contents of a results file."""
    columns = (arrays.image, arrays.labels, _xywh(arrays.boxes_original), arrays.scores)
    return [
        {"image_id": ids[image], "category_id": annotations.category_ids[label], "bbox": xywh, "score": score}
        for image, label, xywh, score in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _xywh(boxes: np.ndarray) -> np.ndarray:
    """(T, 4) xyxy -> (T, 4) corner and size."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _mean_of_defined(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0
