"""Average precision: voc/*.json (VOC's two definitions) and coco/*.json (pycocotools' tables).

Layout of the recordings:
- VOC boxes are 1-based pixel corners, both included. COCO boxes are xywh.
- An undefined number is null in VOC and -1 in COCO.
- `codes` has one letter for each detection, in the order given.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    merge,
)
from detectors.commands.verify.recordings import Folder, Settings
from detectors.metrics.coco import STATISTICS, CocoResult, evaluate_coco
from detectors.metrics.coco_reference import evaluate_json
from detectors.metrics.voc import evaluate_voc
from detectors.structures import Detections

SAME = Tolerance(absolute=1e-9)


def voc_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """voc/*.json or .json.gz."""
    for case, content in folder.json(name).items():
        yield Fixture(f"{json_stem(name)}/{case}", partial(_voc, content))


def coco_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """coco/*.json or .json.gz."""
    for case, content in folder.json(name).items():
        yield Fixture(f"{json_stem(name)}/{case}", partial(_coco, content))


def json_stem(name: Path) -> str:
    """The file's name without .json or .json.gz."""
    return name.name.removesuffix(".gz").removesuffix(".json")


def _voc(case: Settings) -> Iterator[Comparison]:
    annotations, detections = voc_records(case)
    for threshold, expected in case["expected"].items():
        for rule in ("strict", "inclusive"):
            answer = expected.get(rule, expected["strict"])  # "inclusive" is stored only if it differs
            title = f"IoU {threshold} {rule}"
            result = evaluate_voc(
                annotations, detections, iou=float(threshold), inclusive=rule == "inclusive"
            )
            means = [result.map07, result.map10]
            yield compare_numbers(f"{title}: boxes that count", result.npos, case["npos"], EXACT)
            yield agree(f"{title}: codes", "".join(result.codes), answer["codes"])
            comparisons = [
                compare_numbers("AP (11-point) of each class", result.ap07, answer["ap07"], SAME),
                compare_numbers("AP (area) of each class", result.ap10, answer["ap10"], SAME),
                compare_numbers("their means", means, [answer["map07"], answer["map10"]], SAME),
            ]
            yield merge(f"{title}: AP", comparisons)


def voc_records(case: Settings) -> tuple[Annotations, Detections]:
    """A VOC case's ground truth and detections, the corners converted to continuous edges."""
    gt = case["gt"]
    det = case["det"]
    images = case["n_images"]
    order = np.argsort(gt["image"], kind="stable").astype(np.int64)  # Annotations are ordered by image
    boxes = _edges(gt["box"])[order]
    boxes_per_image = np.bincount(np.array(gt["image"], dtype=np.int64), minlength=images)
    annotations = Annotations(
        class_names=tuple(f"c{i}" for i in range(case["n_classes"])),
        image_ids=tuple(f"id{i}" for i in range(images)),
        paths=tuple(f"{i}.jpg" for i in range(images)),
        sizes=np.array([case["size"][::-1]] * images, dtype=np.int64),
        offsets=np.r_[0, np.cumsum(boxes_per_image)],
        boxes_original=boxes,
        labels=np.array(gt["cls"], dtype=np.int64)[order],
        difficult=np.array(gt["difficult"], dtype=bool)[order],
        crowd=np.zeros(len(boxes), dtype=bool),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        category_ids=tuple(range(1, case["n_classes"] + 1)),
    )
    return annotations, _detections(det["image"], _edges(det["box"]), det["score"], det["cls"])


def _edges(boxes: list) -> np.ndarray:
    """(T, 4) 1-based pixel corners, both included -> (T, 4) continuous edges."""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]


def _detections(image: list, boxes: np.ndarray, scores: list, labels: list) -> Detections:
    """In float64, as in the other programs."""
    return Detections(
        torch.tensor(image, dtype=torch.int64),
        torch.from_numpy(boxes),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(labels, dtype=torch.int64),
    )


def _coco(case: Settings) -> Iterator[Comparison]:
    expected = case["expected"]
    for entry, result in coco_evaluations(case).items():
        yield compare_numbers(
            f"{entry}: the {len(STATISTICS)} numbers", list(result.stats.values()), expected["stats"], SAME
        )
        per_class = [
            compare_numbers("ap_per_class", result.ap, expected["ap_per_class"], SAME),
            compare_numbers("ap50_per_class", result.ap50, expected["ap50_per_class"], SAME),
            compare_numbers("ap75_per_class", result.ap75, expected["ap75_per_class"], SAME),
        ]
        yield merge(f"{entry}: AP, AP50, AP75 of each class", per_class)
        all_sizes = result.ap_table[..., 0]
        means = [row[row > -1].mean() if (row > -1).any() else -1.0 for row in all_sizes]
        tables = [
            compare_numbers("ap_per_iou", means, expected["ap_per_iou"], SAME),
            compare_numbers("ap_iou_class_area", result.ap_table, expected["ap_iou_class_area"], SAME),
            compare_numbers("ar_class_area_maxdet", result.ar_table, expected["ar_class_area_maxdet"], SAME),
        ]
        yield merge(f"{entry}: AP and AR by IoU, class, size, detections", tables)


def coco_evaluations(case: Settings) -> dict[str, CocoResult]:
    """The evaluation by both entry points: of COCO's own dictionaries, and of our records."""
    return {
        "json": evaluate_json(case["gt"], case["dt"]),
        "records": evaluate_coco(*coco_records(case)),
    }


def coco_records(case: Settings) -> tuple[Annotations, Detections]:
    """A COCO case's ground truth and detections, the images in the order of their ids, as in pycocotools."""
    images = sorted(case["gt"]["images"], key=lambda image: image["id"])
    categories = sorted(case["gt"]["categories"], key=lambda category: category["id"])
    row = {image["id"]: n for n, image in enumerate(images)}
    label = {category["id"]: k for k, category in enumerate(categories)}
    boxes = sorted(case["gt"]["annotations"], key=lambda box: row[box["image_id"]])
    boxes_per_image = np.bincount([row[box["image_id"]] for box in boxes], minlength=len(images))
    annotations = Annotations(
        class_names=tuple(category["name"] for category in categories),
        image_ids=tuple(row),
        paths=tuple(f"{i}.jpg" for i in row),
        sizes=np.array([[image["height"], image["width"]] for image in images]),
        offsets=np.r_[0, np.cumsum(boxes_per_image.astype(np.int64))],
        boxes_original=_corners(boxes),
        labels=np.array([label[box["category_id"]] for box in boxes], dtype=np.int64),
        difficult=np.zeros(len(boxes), dtype=bool),
        crowd=np.array([box["iscrowd"] for box in boxes], dtype=bool),
        areas=np.array([box["area"] for box in boxes], dtype=np.float64),
        category_ids=tuple(label),
    )
    results = case["dt"]
    image = [row[result["image_id"]] for result in results]
    scores = [result["score"] for result in results]
    labels = [label[result["category_id"]] for result in results]
    return annotations, _detections(image, _corners(results), scores, labels)


def _corners(boxes: list[dict]) -> np.ndarray:
    """COCO's dictionaries -> (T, 4) xyxy."""
    xywh = np.array([box["bbox"] for box in boxes], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
