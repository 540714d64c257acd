"""Small VOC and COCO folders for the tests."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np


def box_xml(name: str, xmin: object, ymin: object, xmax: object, ymax: object, extra: str = "") -> str:
    corners = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return f"<object><name>{name}</name>{extra}<bndbox>{corners}</bndbox></object>"


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    """An RGB image of smooth noise, which JPEG hardly changes. size: (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, size[::-1]))


def write_voc(
    root: Path,
    objects: dict[str, str],
    *,
    split: str = "train",
    size: tuple[int, int] = (60, 80),
    size_xml: str | None = None,
) -> Path:
    """objects: stem -> the <object> elements of its XML. size: (height, width) of every image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if size_xml is None:
        size_xml = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    for number, (stem, elements) in enumerate(objects.items()):
        write_image(root / "JPEGImages" / f"{stem}.jpg", size, seed=number)
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>wrong.png</filename>{size_xml}{elements}</annotation>"
        )
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in objects))
    return root


def write_coco(folder: Path, content: dict, size: tuple[int, int] = (60, 80)) -> dict[str, Path]:
    """Write the JSON, and an image for each entry of `images`. Returns read_coco's two paths."""
    for image in content.get("images", []):
        write_image(folder / "images" / image["file_name"], size)
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    return {"annotation_file": file, "image_folder": folder / "images"}


def write_darknet(
    root: Path, texts: dict[str, str | None], *, labels: str | None = None, size: tuple[int, int] = (60, 80)
) -> Path:
    """texts: path of an image below root, without suffix -> the content of its label file; None: no file.

    labels: what replaces images and JPEGImages in the path of a label file; None: it is beside the image.
    """
    for number, (name, text) in enumerate(texts.items()):
        write_image(root / f"{name}.jpg", size, seed=number)
        place = root / f"{name}.txt"
        if labels is not None:
            parts = [labels if part in ("images", "JPEGImages") else part for part in Path(name).parts]
            place = root.joinpath(*parts[:-1], f"{parts[-1]}.txt")
        if text is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, newline="")
    return root
