"""Detections whose average precision was published: known/*.json and published/."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from detectors.commands.verify.comparison import (
    Comparison,
    Fixture,
    Tolerance,
    compare_numbers,
    known_difference,
)
from detectors.commands.verify.evaluators import SAME, coco_evaluations, json_stem, voc_records
from detectors.commands.verify.recordings import Folder, Settings
from detectors.metrics.coco import STATISTICS
from detectors.metrics.coco_reference import evaluate_json
from detectors.metrics.voc import ap_11_point, ap_area, evaluate_voc

CURVE = Tolerance(absolute=1e-5)  # from the test in Caffe that the pair was taken from
TORCHMETRICS = {  # torchmetrics' names of the numbers -> ours
    "map": "AP",
    "map_50": "AP50",
    "map_75": "AP75",
    "map_small": "AP_small",
    "map_medium": "AP_medium",
    "map_large": "AP_large",
    "mar_1": "AR1",
    "mar_10": "AR10",
    "mar_100": "AR100",
    "mar_small": "AR_small",
    "mar_medium": "AR_medium",
    "mar_large": "AR_large",
}
FOUR_DIGITS = Tolerance(absolute=5e-5)  # as printed in a docstring


def known_pairs(folder: Folder, name: Path) -> Iterator[Fixture]:
    """known/*.json or .json.gz, and the text files in published/ with the same boxes as one of its pairs."""
    for case, content in folder.json(name).items():
        yield Fixture(f"{json_stem(name)}/{case}", partial(_known, content))
        for text_folder in _text_folders(folder, name, content.get("image_names", ())):
            yield Fixture(f"{text_folder}", partial(_texts, folder, text_folder, content))


def published(folder: Folder, name: Path) -> Iterator[Fixture]:
    """published/*/pycocotools_stats.json, which names the files of its ground truth and detections."""
    yield Fixture(f"{name.parent}", partial(_published, folder, name))


def _known(case: Settings) -> Iterator[Comparison]:
    if case["kind"] not in PAIRS:
        raise ValueError(f"unknown kind {case['kind']!r}; known are {', '.join(PAIRS)}")
    return PAIRS[case["kind"]](case)


def _known_coco(case: Settings) -> Iterator[Comparison]:
    """`expected` in full precision, and numbers with few decimals, such as published_3dp and expected_6dp."""
    for entry, result in coco_evaluations(case).items():
        numbers = list(result.stats.values())
        for key in case:
            if match := re.fullmatch(r"(?:published|expected)_(\d+)dp", key):
                rounding = Tolerance(absolute=0.5001 * 10.0 ** -int(match[1]))
                yield compare_numbers(f"{entry}: {key}", numbers, case[key], rounding)
        yield compare_numbers(f"{entry}: recomputed", numbers, case["expected"], SAME)


def _known_voc(case: Settings) -> Iterator[Comparison]:
    """The means over classes at each IoU threshold.

    `convention` says whether an IoU equal to the threshold matches.
    """
    annotations, detections = voc_records(case)
    inclusive = "IoU>=t" in case["convention"].replace(" ", "")
    for threshold, expected in case["expected"].items():
        result = evaluate_voc(annotations, detections, iou=float(threshold), inclusive=inclusive)
        ours = [result.map07, result.map10]
        recorded = [expected["ap07"], expected["ap10"]]
        yield compare_numbers(f"IoU {threshold}: AP (11-point) and AP (area)", ours, recorded, SAME)


def _known_curve(case: Settings) -> Iterator[Comparison]:
    """True and false positives in the order of falling scores -> AP.

    `expected` is of all detections, `first7` of the first seven. Caffe's MaxIntegral is VOC's area. Its 11
    points are i / 10.f, so a recall of 3/5 reaches the seventh. VOC's seventh point is one ulp above 0.6, so
    a small number is added to the recall here.
    """
    order = np.argsort(-np.array(case["score"]), kind="stable")
    for key, expected in case.items():
        if key != "expected" and not re.fullmatch(r"first\d+", key):
            continue
        rows = order if key == "expected" else order[: int(key.removeprefix("first"))]
        true_positives = np.cumsum(np.array(case["tp"])[rows])
        recall = true_positives / case["num_pos"]
        precision = true_positives / np.arange(1, len(rows) + 1)
        yield compare_numbers(
            f"{key}: AP (11-point)", ap_11_point(recall + 1e-7, precision), expected["11point"], CURVE
        )
        yield compare_numbers(f"{key}: AP (area)", ap_area(recall, precision), expected["MaxIntegral"], CURVE)
        if "Integral" in expected:
            plain_area = (np.diff(recall, prepend=0.0) * precision).sum()
            yield known_difference(
                compare_numbers(f"{key}: Integral", plain_area, expected["Integral"], CURVE),
                "the area without VOC's envelope, which no AP here uses",
            )


def _known_corners(case: Settings) -> Iterator[Comparison]:
    """One image in torchmetrics' form: boxes as corners, and torchmetrics' names of the numbers."""
    target = case["target"]
    predictions = case["pred"]
    annotations = []
    for box, label in zip(target["boxes"], target["labels"], strict=True):
        bbox = _xywh(box)
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": label,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
            }
        )
    results = [
        {"image_id": 1, "category_id": label, "bbox": _xywh(box), "score": score}
        for box, label, score in zip(
            predictions["boxes"], predictions["labels"], predictions["scores"], strict=True
        )
    ]
    labels = sorted({*target["labels"], *predictions["labels"]})
    categories = [{"id": label, "name": str(label)} for label in labels]
    gt = {"images": [{"id": 1}], "annotations": annotations, "categories": categories}
    stats = evaluate_json(gt, results).stats
    expected = {TORCHMETRICS[key]: value for key, value in case["expected"].items() if key in TORCHMETRICS}
    ours = [stats[key] for key in expected]
    yield compare_numbers(f"{len(expected)} numbers", ours, list(expected.values()), FOUR_DIGITS)


def _xywh(box: list[float]) -> list[float]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]


PAIRS: dict[str, Callable[[Settings], Iterator[Comparison]]] = {
    "coco": _known_coco,
    "voc": _known_voc,
    "pr": _known_curve,
    "coco_xyxy": _known_corners,
}


def _published(folder: Folder, name: Path) -> Iterator[Comparison]:
    """COCO's own files, and the numbers that pycocotools computes for them."""
    case = folder.json(name)
    gt = folder.json(name.with_name(case["gt"]))
    detections = folder.json(name.with_name(case["dt"]))
    numbers = list(evaluate_json(gt, detections).stats.values())
    yield compare_numbers(f"the {len(STATISTICS)} numbers", numbers, case["stats"], SAME)


def _text_folders(folder: Folder, name: Path, images: list[str]) -> list[Path]:
    """The folders published/* beside known/ whose gts/ has a text file for exactly these images."""
    texts: dict[Path, set[str]] = {}
    for file in folder.files:
        if file.match("published/*/gts/*.txt") and file.parts[:-4] == name.parts[:-2]:
            texts.setdefault(file.parent.parent, set()).add(file.name)
    return [text_folder for text_folder, names in texts.items() if names == set(images)]


def _texts(folder: Folder, text_folder: Path, pair: Settings) -> Iterator[Comparison]:
    """Text files with the same boxes as a pair's, and the pair's numbers.

    gts/ and dets/ have one file for each image. Its lines are `class [score] x y w h`; such a box is the
    corners (x, y, x + w, y + h).
    """
    images = pair["image_names"]
    gt_lines = _read_lines(folder, [text_folder / "gts" / image for image in images])
    det_lines = _read_lines(folder, [text_folder / "dets" / image for image in images])
    class_names = sorted({words[0] for _, words in (*gt_lines, *det_lines)})
    gt = _parsed(gt_lines, class_names)
    detections = _parsed(det_lines, class_names)
    for key in ("image", "box"):
        ours = [*gt[key], *detections[key]]
        yield compare_numbers(f"{key} as in the pair", ours, [*pair["gt"][key], *pair["det"][key]], SAME)
    yield compare_numbers("score as in the pair", detections["score"], pair["det"]["score"], SAME)
    yield from _known_voc(Settings({**pair, "n_classes": len(class_names), "gt": gt, "det": detections}))


def _read_lines(folder: Folder, files: list[Path]) -> list[tuple[int, list[str]]]:
    """(image number, words) of every line. Raises FileNotFoundError for a missing file."""
    return [
        (n, line.split())
        for n, file in enumerate(files)
        for line in folder.path(file).read_text().splitlines()
        if line.strip()
    ]


def _parsed(lines: list[tuple[int, list[str]]], class_names: list[str]) -> Settings:
    """The lines in the form of a VOC case. `score` means something for detections only."""
    numbers = [[float(word) for word in words[1:]] for _, words in lines]
    return Settings(
        {
            "image": [image for image, _ in lines],
            "cls": [class_names.index(words[0]) for _, words in lines],
            "box": [[x, y, x + w, y + h] for x, y, w, h in (row[-4:] for row in numbers)],
            "difficult": [0] * len(lines),
            "score": [row[0] for row in numbers],
        }
    )
