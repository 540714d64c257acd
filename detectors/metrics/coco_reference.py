"""COCO's twelve numbers by pycocotools: the test of metrics/coco.py, and for the contents of COCO's files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detectors.annotations import Annotations
from detectors.metrics.arrays import to_arrays
from detectors.metrics.coco import STATISTICS, CocoResult, results_json, to_result, to_xywh
from detectors.structures import Detections

MOST_DETECTIONS = -1  # position in COCOeval's tables: 100 detections per image and class


def evaluate_with_pycocotools(annotations: Annotations, detections: Detections) -> CocoResult:
    """evaluate_coco() by pycocotools: the same numbers, many times slower."""
    arrays = to_arrays(annotations, detections)
    ids: Sequence[int | str] = annotations.image_ids
    if not all(isinstance(image_id, int) for image_id in ids):
        ids = range(len(annotations))  # COCOeval needs integer ids; VOC's are strings
    return _evaluate(
        ground_truth_json(annotations, ids),
        results_json(annotations, arrays, ids),
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
    column = [list(evaluation.params.catIds).index(category) for category in category_ids]
    result = to_result(precision[:, :, column], recall[:, column], class_names, category_ids)
    return replace(result, stats=dict(zip(STATISTICS, map(float, evaluation.stats), strict=True)))


def _index(contents: dict) -> COCO:
    coco = COCO()
    copies = [dict(row) for row in contents["annotations"]]  # COCOeval writes into them
    coco.dataset = contents | {"annotations": copies}
    coco.createIndex()
    return coco


def ground_truth_json(annotations: Annotations, ids: Sequence[int | str]) -> dict:
    """The contents of an instances file. Annotation ids start at 1: COCOeval takes id 0 for "not matched"."""
    columns = (
        annotations.image,
        annotations.labels,
        to_xywh(annotations.boxes_original),
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
