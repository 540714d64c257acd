"""COCO's instances JSON -> Annotations. The one place that knows its coordinates: [x, y, width, height], 0-based, continuous."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from detectors.data.checks import check_class_names, did_you_mean, header_size, settle_degenerate, shortened, to_offsets
from detectors.structures import Annotations

COCO_CLASSES = (  # the 80 names of COCO's categories, in the order of their ids
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign"),
    *("parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed"),
    *("dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)
REQUIRED = {"categories": ("id", "name"), "images": ("id", "file_name"), "annotations": ("image_id", "category_id", "bbox")}


def read_coco(
    *,
    annotation_file: str | os.PathLike,
    image_folder: str | os.PathLike,
    class_names: list[str] | None = None,
    on_degenerate: str = "error",
) -> Annotations:
    """Read an instances file.

    Labels are 0..C-1 in the order of the category ids, which have gaps in COCO; `category_ids` keeps them. class_names selects and orders
    the classes instead: boxes of the others are left out. Images stay in the file's order, those without boxes too. Crowd boxes are kept
    and flagged. `areas` is the file's (of the segmentation), width * height where it has none.
    on_degenerate: a box whose width or height is not above 0, or not finite, is an error, or is dropped with a warning.
    Raises FileNotFoundError and ValueError that name the file and the entry.
    """
    file = Path(annotation_file)
    content = _load(file)
    category_ids, names = _classes(content["categories"], class_names, file)
    paths = _paths(content["images"], Path(image_folder), file)
    truths = _truths(content, category_ids, file)
    xywh = np.array([_bbox(truth, file) for truth in truths], dtype=np.float64).reshape(-1, 4)
    place = {image["id"]: row for row, image in enumerate(content["images"])}
    label = {category: row for row, category in enumerate(category_ids)}
    annotations = Annotations(
        class_names=names,
        image_ids=tuple(image["id"] for image in content["images"]),
        paths=tuple(map(str, paths)),
        sizes=np.array([_size(image, path) for image, path in zip(content["images"], paths, strict=True)], dtype=np.int64).reshape(-1, 2),
        offsets=to_offsets(np.bincount([place[truth["image_id"]] for truth in truths], minlength=len(paths))),
        boxes_original=np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1),
        labels=np.array([label[truth["category_id"]] for truth in truths], dtype=np.int64),
        difficult=np.zeros(len(truths), dtype=bool),
        crowd=np.array([bool(truth.get("iscrowd", 0)) for truth in truths], dtype=bool),
        areas=np.array(
            [truth.get("area", width * height) for truth, (_, _, width, height) in zip(truths, xywh, strict=True)], dtype=np.float64
        ),
        category_ids=category_ids,
    )

    def where(row: int) -> str:
        image, truth = content["images"][place[truths[row]["image_id"]]], truths[row]
        return f"{file} annotation {truth.get('id', row)} of {image['file_name']}: {names[annotations.labels[row]]} {truth['bbox']}"

    degenerate = ~(np.isfinite(xywh).all(1) & (xywh[:, 2:] > 0).all(1))
    return settle_degenerate(annotations, degenerate, where, on_degenerate)


def _load(file: Path) -> dict[str, list[dict]]:
    """The file's three lists, each entry with the keys that are needed."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such annotation file (data.annotation_file)")
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from error
    for part, keys in REQUIRED.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"{file}: no list of {part!r}; an instances file holds images, annotations and categories")
        for number, entry in enumerate(content[part]):
            absent = [key for key in keys if key not in entry]
            if absent:
                raise ValueError(f"{file} {part}[{number}]: lacks {', '.join(map(repr, absent))}")
    if not content["images"]:
        raise ValueError(f"{file}: lists no image")
    return content


def _classes(categories: list[dict], class_names: list[str] | None, file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """(C) category ids and (C) names, in the order of the labels."""
    by_id = sorted(categories, key=lambda category: category["id"])
    named = {category["name"]: category["id"] for category in by_id}
    names = check_class_names([category["name"] for category in by_id] if class_names is None else class_names)
    unknown = [f"{file}: no category {name!r}{did_you_mean(name, list(named))}" for name in names if name not in named]
    if unknown:
        raise ValueError("\n".join([*shortened(unknown), f"its categories: {', '.join(named)}", "correct data.class_names"]))
    return tuple(named[name] for name in names), names


def _truths(content: dict[str, list[dict]], category_ids: tuple[int, ...], file: Path) -> list[dict]:
    """Annotations of the selected classes, in the order of the images (and in the file's within an image)."""
    place = {image["id"]: row for row, image in enumerate(content["images"])}
    known = {category["id"] for category in content["categories"]}
    if len(place) < len(content["images"]):
        raise ValueError(f"{file}: {len(content['images']) - len(place)} images repeat the id of another")
    for truth in content["annotations"]:
        for key, ids in (("image_id", place), ("category_id", known)):
            if truth[key] not in ids:
                raise ValueError(f"{file} annotation {truth.get('id')}: {key} {truth[key]} is listed nowhere in the file")
    selected = set(category_ids)
    truths = [truth for truth in content["annotations"] if truth["category_id"] in selected]
    return sorted(truths, key=lambda truth: place[truth["image_id"]])  # sorted() is stable


def _bbox(truth: dict, file: Path) -> list[float]:
    box = truth["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        raise ValueError(f"{file} annotation {truth.get('id')}: bbox is {box!r}, not four numbers [x, y, width, height]")
    return box


def _paths(images: list[dict], folder: Path, file: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder (data.image_folder)")
    with os.scandir(folder) as entries:
        there = {entry.name for entry in entries}  # one listing instead of a look-up per image
    names = [image["file_name"] for image in images]
    missing = [f"{folder / name}: no such image" for name in names if name not in there and not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError("\n".join([*shortened(missing), f"listed in {file}; is data.image_folder the right one?"]))
    return [folder / name for name in names]


def _size(image: dict, path: Path) -> tuple[int, int]:
    return (image["height"], image["width"]) if image.get("height") and image.get("width") else header_size(path)
