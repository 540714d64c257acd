"""Average precision: voc/*.json (VOC's two kinds), coco/*.json (pycocotools' tables), known/*.json and
published/ (published pairs).

Facts about the recordings' layout: VOC boxes are 1-based pixel corners with both ends included; COCO's are
xywh; null is undefined in VOC,
-1 in COCO; `codes` has one letter per detection in the order given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.verify.comparison import (
    Comparison,
    Fixture,
    Tolerance,
    absent,
    agree,
    compare_numbers,
    merge,
)
from detectors.commands.verify.recordings import Folder, Settings
from detectors.metrics.coco import STATISTICS, evaluate_coco, evaluate_json
from detectors.metrics.voc import ap_11_point, ap_area, evaluate_voc
from detectors.structures import Detections

SAME = Tolerance(absolute=1e-9)
CURVE = Tolerance(absolute=1e-5)  # Caffe's own, in the test that the pair is from
TORCHMETRICS = {
    "map": "AP",
    "map_50": "AP50",
    "map_75": "AP75",
    "mar_1": "AR1",
    "mar_10": "AR10",
    "mar_100": "AR100",
}
TORCHMETRICS |= {
    f"{kind}_{size}": f"{ours}_{size}"
    for kind, ours in (("map", "AP"), ("mar", "AR"))
    for size in ("small", "medium", "large")
}
FOUR_DIGITS = Tolerance(absolute=5e-5)  # what a docstring prints


def voc_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """voc/*.json"""
    for case, content in folder.json(name).items():
        yield Fixture(f"{_stem(name)}/{case}", partial(_voc, content))


def coco_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """coco/*.json"""
    for case, content in folder.json(name).items():
        yield Fixture(f"{_stem(name)}/{case}", partial(_coco, content))


def known_pairs(folder: Folder, name: Path) -> Iterator[Fixture]:
    """known/*.json, and the text files of published/ that a pair in it has the numbers of"""
    for case, content in folder.json(name).items():
        yield Fixture(f"{_stem(name)}/{case}", partial(_known, content))
        for place in _text_folders(folder, name, content.get("image_names", ())):
            yield Fixture(f"{place}", partial(_texts, folder, place, content))


def published(folder: Folder, name: Path) -> Iterator[Fixture]:
    """published/*/pycocotools_stats.json, which names the other two files"""
    yield Fixture(f"{name.parent}", partial(_published, folder, name))


def _known(case: Settings) -> Iterator[Comparison]:
    if case["kind"] not in PAIRS:
        raise ValueError(f"kind {case['kind']!r} is not known here; there are {', '.join(PAIRS)}")
    return PAIRS[case["kind"]](case)


def _stem(name: Path) -> str:
    return name.name.removesuffix(".gz").removesuffix(".json")


def _voc(case: Settings) -> Iterator[Comparison]:
    annotations, detections = voc_records(case)
    for threshold, expected in case["expected"].items():
        for rule in ("strict", "inclusive"):  # the inclusive answer is stored only where it differs
            answer = expected.get(rule, expected["strict"])
            result = evaluate_voc(
                annotations, detections, iou=float(threshold), inclusive=rule == "inclusive"
            )
            yield compare_numbers(
                f"IoU {threshold} {rule}: truths that count", result.npos, case["npos"], Tolerance()
            )
            yield agree(f"IoU {threshold} {rule}: codes", "".join(result.codes), answer["codes"])
            numbers = [
                compare_numbers("AP (11-point) of each class", result.ap07, answer["ap07"], SAME),
                compare_numbers("AP (area) of each class", result.ap10, answer["ap10"], SAME),
                compare_numbers(
                    "their means", [result.map07, result.map10], [answer["map07"], answer["map10"]], SAME
                ),
            ]
            yield merge(f"IoU {threshold} {rule}: AP", numbers)


def voc_records(case: Settings) -> tuple[Annotations, Detections]:
    """A VOC case in our terms: 1-based inclusive corners become continuous edges."""
    gt = case["gt"]
    det = case["det"]
    images = case["n_images"]
    order = np.argsort(gt["image"], kind="stable").astype(np.int64)  # Annotations are packed by image
    boxes = _edges(gt["box"])[order]
    annotations = Annotations(
        class_names=tuple(f"c{i}" for i in range(case["n_classes"])),
        image_ids=tuple(f"id{i}" for i in range(images)),
        paths=tuple(f"{i}.jpg" for i in range(images)),
        sizes=np.array([case["size"][::-1]] * images, dtype=np.int64),
        offsets=np.r_[0, np.cumsum(np.bincount(np.array(gt["image"], dtype=np.int64), minlength=images))],
        boxes_original=boxes,
        labels=np.array(gt["cls"], dtype=np.int64)[order],
        difficult=np.array(gt["difficult"], dtype=bool)[order],
        crowd=np.zeros(len(boxes), dtype=bool),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
        category_ids=tuple(range(1, case["n_classes"] + 1)),
    )
    return annotations, _detections(det["image"], _edges(det["box"]), det["score"], det["cls"])


def _edges(boxes: list) -> np.ndarray:
    """(T, 4) 1-based inclusive corners -> continuous edges"""
    return np.array(boxes, dtype=np.float64).reshape(-1, 4) - [1, 1, 0, 0]


def _detections(image: list, boxes: np.ndarray, scores: list, labels: list) -> Detections:
    """float64, as the other programs have them."""
    whole = {"dtype": torch.int64}
    return Detections(
        torch.tensor(image, **whole),
        torch.from_numpy(boxes),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(labels, **whole),
    )


def _coco(case: Settings) -> Iterator[Comparison]:
    """Through both entrances: COCO's own dictionaries, and our records."""
    expected = case["expected"]
    for entrance, result in (
        ("json", evaluate_json(case["gt"], case["dt"])),
        ("records", evaluate_coco(*coco_records(case))),
    ):
        yield compare_numbers(
            f"{entrance}: the {len(STATISTICS)} numbers", list(result.stats.values()), expected["stats"], SAME
        )
        per_class = [
            compare_numbers(key, getattr(result, ours), expected[key], SAME)
            for key, ours in PER_CLASS.items()
        ]
        yield merge(f"{entrance}: AP, AP50, AP75 of each class", per_class)
        everywhere = result.ap_table[..., 0]
        means = [row[row > -1].mean() if (row > -1).any() else -1.0 for row in everywhere]
        tables = [
            compare_numbers("ap_per_iou", means, expected["ap_per_iou"], SAME),
            compare_numbers("ap_iou_class_area", result.ap_table, expected["ap_iou_class_area"], SAME),
            compare_numbers("ar_class_area_maxdet", result.ar_table, expected["ar_class_area_maxdet"], SAME),
        ]
        yield merge(f"{entrance}: AP and AR by IoU, class, size, detections", tables)


PER_CLASS = {"ap_per_class": "ap", "ap50_per_class": "ap50", "ap75_per_class": "ap75"}


def coco_records(case: Settings) -> tuple[Annotations, Detections]:
    """A COCO case in our terms, images in the order of their ids as pycocotools takes them."""
    images = sorted(case["gt"]["images"], key=lambda image: image["id"])
    categories = sorted(case["gt"]["categories"], key=lambda category: category["id"])
    row = {image["id"]: n for n, image in enumerate(images)}
    label = {category["id"]: k for k, category in enumerate(categories)}
    boxes = sorted(case["gt"]["annotations"], key=lambda truth: row[truth["image_id"]])
    annotations = Annotations(
        class_names=tuple(category["name"] for category in categories),
        image_ids=tuple(row),
        paths=tuple(f"{i}.jpg" for i in row),
        sizes=np.array([[image["height"], image["width"]] for image in images]),
        offsets=np.r_[
            0,
            np.cumsum(
                np.bincount([row[t["image_id"]] for t in boxes], minlength=len(images)).astype(np.int64)
            ),
        ],
        boxes_original=_corners(boxes),
        labels=np.array([label[t["category_id"]] for t in boxes], dtype=np.int64),
        difficult=np.zeros(len(boxes), dtype=bool),
        crowd=np.array([t["iscrowd"] for t in boxes], dtype=bool),
        areas=np.array([t["area"] for t in boxes], dtype=np.float64),
        category_ids=tuple(label),
    )
    results = case["dt"]
    image = [row[d["image_id"]] for d in results]
    labels = [label[d["category_id"]] for d in results]
    return annotations, _detections(image, _corners(results), [d["score"] for d in results], labels)


def _corners(rows: list) -> np.ndarray:
    """(T, 4) xywh -> corners"""
    xywh = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)


def _known_coco(case: Settings) -> Iterator[Comparison]:
    """`expected` in full, and what was published with so many decimals (published_3dp, expected_6dp)."""
    for entrance, result in (
        ("json", evaluate_json(case["gt"], case["dt"])),
        ("records", evaluate_coco(*coco_records(case))),
    ):
        numbers = list(result.stats.values())
        for key in case:
            if digits := re.fullmatch(r"(?:published|expected)_(\d+)dp", key):
                yield compare_numbers(
                    f"{entrance}: {key}",
                    numbers,
                    case[key],
                    Tolerance(absolute=0.5001 * 10.0 ** -int(digits[1])),
                )
        yield compare_numbers(f"{entrance}: recomputed", numbers, case["expected"], SAME)


def _known_voc(case: Settings) -> Iterator[Comparison]:
    """The means over classes at each IoU.

    `convention` says whether an IoU of exactly the threshold matches.
    """
    annotations, detections = voc_records(case)
    for threshold, expected in case["expected"].items():
        result = evaluate_voc(
            annotations,
            detections,
            iou=float(threshold),
            inclusive="IoU>=t" in case["convention"].replace(" ", ""),
        )
        numbers = [expected["ap07"], expected["ap10"]]
        yield compare_numbers(
            f"IoU {threshold}: AP (11-point) and AP (area)", [result.map07, result.map10], numbers, SAME
        )


def _known_curve(case: Settings) -> Iterator[Comparison]:
    """True and false positives of falling scores -> AP; `first7` expects that of the first seven.

    Caffe's MaxIntegral is VOC's area.

    Its 11 points are i / 10.f, so a recall of 3/5 reaches .6, which VOC's own code misses by one ulp: hence
    the nudge.
    """
    order = np.argsort(-np.array(case["score"]), kind="stable")
    for key, expected in case.items():
        if key != "expected" and not re.fullmatch(r"first\d+", key):
            continue
        rows = order if key == "expected" else order[: int(key.removeprefix("first"))]
        right = np.cumsum(np.array(case["tp"])[rows])
        recall = right / case["num_pos"]
        precision = right / np.arange(1, len(rows) + 1)
        yield compare_numbers(
            f"{key}: AP (11-point)", ap_11_point(recall + 1e-7, precision), expected["11point"], CURVE
        )
        yield compare_numbers(f"{key}: AP (area)", ap_area(recall, precision), expected["MaxIntegral"], CURVE)
        if "Integral" in expected:
            yield absent(f"{key}: Integral", "the area without VOC's envelope is no number of this code")


def _known_corners(case: Settings) -> Iterator[Comparison]:
    """One image in torchmetrics' form: corners, labels, and the names of its numbers."""
    boxes = case["target"]
    predictions = case["pred"]
    xywh = lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]]  # noqa: E731
    annotations = [
        {
            "id": n,
            "image_id": 1,
            "category_id": label,
            "bbox": xywh(box),
            "area": xywh(box)[2] * xywh(box)[3],
            "iscrowd": 0,
        }
        for n, (box, label) in enumerate(zip(boxes["boxes"], boxes["labels"], strict=True), 1)
    ]
    rows = zip(predictions["boxes"], predictions["labels"], predictions["scores"], strict=True)
    results = [
        {"image_id": 1, "category_id": label, "bbox": xywh(box), "score": score} for box, label, score in rows
    ]
    categories = [
        {"id": label, "name": str(label)} for label in sorted({*boxes["labels"], *predictions["labels"]})
    ]
    stats = evaluate_json(
        {"images": [{"id": 1}], "annotations": annotations, "categories": categories}, results
    ).stats
    expected = {TORCHMETRICS[key]: value for key, value in case["expected"].items() if key in TORCHMETRICS}
    yield compare_numbers(
        f"{len(expected)} numbers", [stats[key] for key in expected], list(expected.values()), FOUR_DIGITS
    )


PAIRS: dict[str, Callable[[Settings], Iterator[Comparison]]] = {
    "coco": _known_coco,
    "voc": _known_voc,
    "pr": _known_curve,
    "coco_xyxy": _known_corners,
}


def _published(folder: Folder, name: Path) -> Iterator[Comparison]:
    """COCO's own files and the numbers that pycocotools gave for them."""
    about = folder.json(name)
    result = evaluate_json(folder.json(name.with_name(about["gt"])), folder.json(name.with_name(about["dt"])))
    yield compare_numbers(f"the {len(STATISTICS)} numbers", list(result.stats.values()), about["stats"], SAME)


def _text_folders(folder: Folder, name: Path, images: list[str]) -> list[Path]:
    """Folders of published/ beside known/ whose gts/ holds just these images."""
    places: dict[Path, set[str]] = {}
    for file in folder.files:
        if file.match("published/*/gts/*.txt") and file.parts[:-4] == name.parts[:-2]:
            places.setdefault(file.parent.parent, set()).add(file.name)
    return [place for place, names in places.items() if names == set(images)]


def _texts(folder: Folder, place: Path, pair: Settings) -> Iterator[Comparison]:
    """Lines `class [score] x y w h`, one file per image; a box is (x, y, x + w, y + h).

    The same inputs as the pair's, and its numbers.
    """
    images = pair["image_names"]
    sides = {
        side: _read_texts(folder, [place / side / image for image in images]) for side in ("gts", "dets")
    }
    names = sorted({line[0] for side in sides.values() for _, line in side})
    read: dict[str, dict[str, list]] = {}
    for side, lines in sides.items():
        numbers = [[float(word) for word in line[1:]] for _, line in lines]
        read[side] = {
            "image": [image for image, _ in lines],
            "cls": [names.index(line[0]) for _, line in lines],
            "box": [[x, y, x + w, y + h] for x, y, w, h in (row[-4:] for row in numbers)],
            "difficult": [0] * len(lines),
            "score": [row[0] for row in numbers],
        }
    gt = Settings(read["gts"])
    detections = Settings(read["dets"])
    for key in ("image", "box"):
        yield compare_numbers(
            f"{key} as in the pair",
            [*gt[key], *detections[key]],
            [*pair["gt"][key], *pair["det"][key]],
            Tolerance(absolute=1e-9),
        )
    yield compare_numbers("score as in the pair", detections["score"], pair["det"]["score"], SAME)
    yield from _known_voc(Settings({**pair, "n_classes": len(names), "gt": gt, "det": detections}))


def _read_texts(folder: Folder, files: list[Path]) -> list[tuple[int, list[str]]]:
    """(image, words) of every line. FileNotFoundError names an absent file."""
    return [
        (n, line.split())
        for n, file in enumerate(files)
        for line in folder.path(file).read_text().splitlines()
        if line.strip()
    ]
