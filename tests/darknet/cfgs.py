"""Darknet cfg files of our builders at any width, written section by section."""

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
    for n, counts in enumerate(DARKNET19):
        yield from [pool()] if n else []
        yield from (conv(scale_channels(count, width), 1 if i % 2 else 3) for i, count in enumerate(counts))


def yolov2(width: float, classes: int, anchors: str = "voc") -> str:
    wide = scale_channels(1024, width)
    parts = [
        net(),
        *backbone(width),
        conv(wide, 3),
        conv(wide, 3),
        section("route", layers="-9"),
        conv(scale_channels(64, width), 1),
    ]
    parts += [
        section("reorg", stride=2),
        section("route", layers="-1,-4"),
        conv(wide, 3),
        linear(5 * (5 + classes)),
        region(anchors, classes),
    ]
    return "\n".join(parts)


def tiny(width: float, classes: int, *, anchors: str = "tiny_voc", last: int = 1024) -> str:
    parts = [net()]
    for n, count in enumerate((16, 32, 64, 128, 256, 512)):
        parts += [conv(scale_channels(count, width), 3), pool(1 if n == 5 else 2)]
    parts += [conv(scale_channels(count, width), 3) for count in (1024, last)]
    return "\n".join([*parts, linear(5 * (5 + classes)), region(anchors, classes)])


def darknet19(width: float, classes: int) -> str:
    return "\n".join(
        [net(), *backbone(width), linear(classes), section("avgpool"), section("softmax", groups=1)]
    )


def write(folder: Path, text: str, name: str = "net.cfg") -> Path:
    path = folder / name
    path.write_text(text)
    return path
