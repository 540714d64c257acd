"""Darknet cfg files for the networks of our builders, at any width."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from detectors.anchors import YOLO_ANCHORS
from detectors.layers import scale_channels

DARKNET19 = (
    (32,),
    (64,),
    (128, 64, 128),
    (256, 128, 256),
    (512, 256, 512, 256, 512),
    (1024, 512, 1024, 512, 1024),
)


def section(kind: str, **options) -> str:
    return "\n".join([f"[{kind}]", *(f"{key}={value}" for key, value in options.items()), ""])


def conv(filters: int, size: int) -> str:
    return section(
        "convolutional", batch_normalize=1, filters=filters, size=size, stride=1, pad=1, activation="leaky"
    )


def linear(filters: int) -> str:
    return section("convolutional", filters=filters, size=1, stride=1, pad=1, activation="linear")


def pool(stride: int = 2) -> str:
    return section("maxpool", size=2, stride=stride)


def region(anchors: str, classes: int) -> str:
    numbers = ",  ".join(f"{w},{h}" for w, h in YOLO_ANCHORS[anchors])
    return section(
        "region",
        anchors=numbers,
        bias_match=1,
        classes=classes,
        coords=4,
        num=5,
        softmax=1,
        rescore=1,
        object_scale=5,
        thresh=".6",
    )


def net(side: int = 64) -> str:
    return section("net", batch=1, subdivisions=1, width=side, height=side, channels=3)


def backbone(width: float) -> Iterable[str]:
    for stage, filters in enumerate(DARKNET19):
        if stage:
            yield pool()
        for n, count in enumerate(filters):
            yield conv(scale_channels(count, width), 1 if n % 2 else 3)


def yolov2(width: float, classes: int, anchors: str = "voc") -> str:
    filters = scale_channels(1024, width)
    sections = [
        net(),
        *backbone(width),
        conv(filters, 3),
        conv(filters, 3),
        section("route", layers="-9"),
        conv(scale_channels(64, width), 1),
        section("reorg", stride=2),
        section("route", layers="-1,-4"),
        conv(filters, 3),
        linear(5 * (5 + classes)),
        region(anchors, classes),
    ]
    return "\n".join(sections)


def tiny(width: float, classes: int, *, anchors: str = "tiny_voc", last: int = 1024) -> str:
    sections = [net()]
    for n, count in enumerate((16, 32, 64, 128, 256, 512)):
        sections += [conv(scale_channels(count, width), 3), pool(1 if n == 5 else 2)]
    sections += [conv(scale_channels(count, width), 3) for count in (1024, last)]
    sections += [linear(5 * (5 + classes)), region(anchors, classes)]
    return "\n".join(sections)


def darknet19(width: float, classes: int) -> str:
    sections = [net(), *backbone(width), linear(classes), section("avgpool"), section("softmax", groups=1)]
    return "\n".join(sections)


def write(folder: Path, text: str, name: str = "net.cfg") -> Path:
    path = folder / name
    path.write_text(text)
    return path
