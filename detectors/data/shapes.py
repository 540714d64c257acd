"""A generated data set: six kinds of textured, rotated, partly hidden shapes on cluttered backgrounds, written in VOC's layout.

Small enough to learn in a minute without a GPU, and hard enough that a broken detector shows: many sizes, aspect ratios and angles, up to
five shapes that hide one another, clutter that looks like their parts, images without any. Each class has hues of its own, since 600
images are too few for a narrow network to learn six outlines at every angle from nothing (AP50 .47 after a minute, .92 with the hint): what
is hard is to find, part and frame the shapes. Image k of a split is a pure function of (seed, split, k, size).
"""

from __future__ import annotations

import colorsys
import logging
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("cross", "disc", "ring", "square", "star", "triangle")
SHAPES_VERSION = 3  # raise it with every change of what is drawn: it is part of the cache folder's name
COUNTS = (
    0.04,
    0.14,
    0.22,
    0.26,
    0.20,
    0.14,
)  # probability of 0, 1, 2, ... shapes in an image: 2.9 on average
SIDE_RANGE = (0.2, 0.55)  # longer side of a shape's own frame over the image's side, drawn log-uniformly
ASPECT_RANGE = 1.5  # a shape's own frame is at most so many times as long as wide, before it is turned
VISIBLE = 0.65  # no shape is hidden more than this leaves
HUES = (0.33, 0.83, 0.0, 0.5, 0.17, 0.67)  # of a class, 0..1 around the colour circle
HUE_SPREAD = 0.07  # either side
SUBPIXEL = 4  # bits after the point in OpenCV's vertex coordinates
SHAPES_QUALITY = 92

logger = logging.getLogger(__name__)


def write_shapes(
    *, folder: str | os.PathLike, seed: int = 0, train: int = 600, val: int = 150, size: int = 160
) -> Path:
    """The data set's root (for read_voc, image sets "train" and "val"); written if it is not there yet. size: side of the images, pixels.

    It is made in a temporary folder that is then renamed, so that it is there as a whole or not at all; of two processes that start at
    once, one throws its copy away. ValueError for a folder that cannot be written.
    """
    if min(train, val) < 1 or size < 32:
        raise ValueError(
            f"shapes with train={train}, val={val}, size={size}: both splits need an image, and a side of 32 pixels or more"
        )
    root = Path(folder).absolute() / f"shapes-v{SHAPES_VERSION}-seed{seed}-train{train}-val{val}-size{size}"
    if root.is_dir():
        return root
    started = time.monotonic()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shapes-", dir=root.parent) as draft:
            made = (
                Path(draft) / root.name
            )  # a folder that the umask gives its rights; the temporary one is the owner's alone
            _write_splits(made, seed, {"train": train, "val": val}, size)
            os.replace(made, root)
    except OSError as error:
        if not root.is_dir():  # otherwise another process was first, with the same files
            fix = "set data.root, or paths.cache, to a folder that can be written"
            raise ValueError(
                f"{root.parent}: the generated images cannot be written there ({error.strerror}); {fix}"
            ) from error
    logger.info("wrote %d generated images into %s (%.1f s)", train + val, root, time.monotonic() - started)
    return root


def _write_splits(root: Path, seed: int, counts: dict[str, int], size: int) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        stems = [f"{split}_{index:05d}" for index in range(count)]
        for index, stem in enumerate(stems):
            image, labels, boxes = draw_shapes(np.random.default_rng((seed, number, index)), size)
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, SHAPES_QUALITY])[1]
            (root / "JPEGImages" / f"{stem}.jpg").write_bytes(encoded.tobytes())
            (root / "Annotations" / f"{stem}.xml").write_text(_xml(stem, size, labels, boxes))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def draw_shapes(
    rng: np.random.Generator, size: int
) -> tuple[np.ndarray, list[int], list[tuple[int, int, int, int]]]:
    """One image: (size, size, 3) uint8 RGB, labels into CLASSES, boxes xyxy with continuous edges, tight around what is visible."""
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, dtype=np.int16)  # the shape that each pixel belongs to
    labels: list[int] = []
    full: list[int] = []  # pixels of each shape if nothing hid it, those outside the image included
    for _ in range(rng.choice(len(COUNTS), p=COUNTS)):
        label = int(rng.integers(len(CLASSES)))
        coverage, corner, pixels = _place(rng, label, owner, full)
        if coverage is None:
            continue
        rows, columns = (
            slice(start, start + length) for start, length in zip(corner, coverage.shape, strict=True)
        )
        patch = canvas[rows, columns]
        patch += coverage[..., None] * (_texture(rng, coverage.shape, label) - patch)
        owner[rows, columns][coverage >= 0.5] = len(labels)
        labels.append(label)
        full.append(pixels)
    canvas = cv2.GaussianBlur(canvas, (3, 3), rng.uniform(0.3, 0.6)) + rng.normal(
        0, rng.uniform(2, 7), canvas.shape
    )
    return (
        np.clip(canvas, 0, 255).astype(np.uint8),
        labels,
        [_tight_box(owner == number) for number in range(len(labels))],
    )


def _place(
    rng: np.random.Generator, label: int, owner: np.ndarray, full: list[int]
) -> tuple[np.ndarray | None, tuple[int, int], int]:
    """(coverage 0..1 cut to the image, its corner (row, column), pixels before the cut); None after 20 tries that hide too much."""
    size = len(owner)
    for _ in range(20):
        coverage = _coverage(rng, label, size)
        pixels = int((coverage >= 0.5).sum())
        reach = np.array(coverage.shape)
        corner = np.floor(rng.uniform(-0.1 * reach, size - 0.9 * reach)).astype(
            int
        )  # at most a tenth of either side out of the image
        low, high = np.maximum(corner, 0), np.minimum(corner + reach, size)
        part = coverage[tuple(slice(*ends) for ends in zip(low - corner, high - corner, strict=True))]
        after = owner.copy()
        after[low[0] : high[0], low[1] : high[1]][part >= 0.5] = len(full)
        visible = np.bincount(after[after >= 0], minlength=len(full) + 1)
        if (visible >= VISIBLE * np.array([*full, pixels])).all():
            return part, (int(low[0]), int(low[1])), pixels
    return None, (0, 0), 0


def _coverage(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """(h, w) float32 in 0..1: how much of each pixel a turned shape covers, in a frame that just holds it."""
    long = size * np.exp(rng.uniform(*np.log(SIDE_RANGE)))
    half = rng.permutation([1, ASPECT_RANGE ** -rng.uniform()]) * long / 2
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = [outline * half @ turn for outline in _outlines(rng, CLASSES[label])]
    low = np.floor(np.min([outline.min(0) for outline in outlines], axis=0)) - 1
    width, height = (np.ceil(np.max([outline.max(0) for outline in outlines], axis=0)) + 2 - low).astype(int)
    mask = np.zeros((height, width), dtype=np.uint8)
    points = [np.round((outline - low) * 2**SUBPIXEL).astype(np.int32) for outline in outlines]
    cv2.fillPoly(mask, points, 255, lineType=cv2.LINE_AA, shift=SUBPIXEL)
    return mask.astype(np.float32) / 255


def _outlines(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Outlines (n, 2) within -1..1; a second one is a hole."""

    def around(count: int, radius: float | np.ndarray = 1.0) -> np.ndarray:
        angles = np.arange(count) * 2 * np.pi / count
        return np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radius, (-1, 1))

    if name == "disc":
        return [around(48)]
    if name == "ring":
        return [around(48), around(48, rng.uniform(0.5, 0.65))]
    if name == "square":
        return [np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])]
    if name == "triangle":
        return [np.array([(-1, -0.9), (1, -0.9), (0, 0.9)])]
    if name == "star":
        return [around(10, np.tile([1, 0.42], 5))]
    arm = rng.uniform(0.28, 0.38)  # a cross: one corner's three points, turned four times
    corner = np.array([(arm, -1), (arm, -arm), (1, -arm)])
    quarter = np.array([(0, 1), (-1, 0)])
    return [np.concatenate([corner @ np.linalg.matrix_power(quarter, turns) for turns in range(4)])]


def _texture(rng: np.random.Generator, shape: tuple[int, int], label: int) -> np.ndarray:
    """(h, w, 3) float32: a strong colour of the class's range and a darker one, in a pattern, with light from one side."""
    bright = _colour(
        (HUES[label] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1, rng.uniform(0.55, 1), rng.uniform(0.75, 1)
    )
    dark = bright * rng.uniform(0.45, 0.8)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 12)
    u = (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period)
    v = (rows * np.cos(angle) - columns * np.sin(angle)) * (2 * np.pi / period)
    stripes, waves, noise = np.sin(u), np.sin(u) * np.sin(v), rng.normal(0, 0.6, shape)
    pattern = (np.zeros(shape), stripes, waves, np.sign(waves), noise)[rng.integers(5)]
    mix = (0.5 + 0.5 * np.clip(pattern, -1, 1))[..., None] * rng.uniform(0.4, 1)
    light = 1 + rng.uniform(0, 0.2) * np.cos(u * period / (2 * max(shape)))[..., None]
    return ((bright * (1 - mix) + dark * mix) * light).astype(np.float32)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) RGB 0..255; all arguments 0..1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32: soft patches, nearly grey, and on them lines, arcs, dots and zigzags: nothing that could be
    taken for a shape, which would be a truth without a label."""
    cells = int(rng.integers(2, 8))
    tint, light = (
        rng.uniform(50, 140) + rng.normal(0, 8, 3),
        rng.normal(0, rng.uniform(5, 25), (cells, cells, 1)),
    )
    soft = tint + light + rng.normal(0, 5, (cells, cells, 3))
    canvas = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    scale = size / 160
    for _ in range(rng.integers(3, 13)):
        colour = (canvas.mean((0, 1)) + rng.normal(0, 30) + rng.normal(0, 10, 3)).tolist()
        x, y, other_x, other_y = (int(value) for value in rng.integers(-10, size + 10, 4))
        thickness = max(1, round(scale * rng.integers(1, 4)))
        kind = rng.integers(4)
        if kind == 0:
            cv2.line(canvas, (x, y), (other_x, other_y), colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(value) for value in rng.integers(4, 40, 2) * scale)
            start = int(rng.integers(360))
            cv2.ellipse(
                canvas,
                (x, y),
                axes,
                int(rng.integers(180)),
                start,
                start + int(rng.integers(30, 160)),
                colour,
                thickness,
                cv2.LINE_AA,
            )
        elif kind == 2:
            cv2.circle(canvas, (x, y), max(1, round(scale * rng.integers(1, 4))), colour, -1, cv2.LINE_AA)
        else:
            zigzag = np.array([x, y]) + rng.normal(0, 14 * scale, (int(rng.integers(3, 6)), 2))
            cv2.polylines(canvas, [zigzag.astype(np.int32)], False, colour, thickness, cv2.LINE_AA)
    return canvas


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _xml(stem: str, size: int, labels: list[int], boxes: list[tuple[int, int, int, int]]) -> str:
    """In VOC's coordinates: 1-based, the last pixel included."""
    objects = "".join(
        f"  <object>\n    <name>{CLASSES[label]}</name>\n    <difficult>0</difficult>\n    <bndbox>"
        f"<xmin>{xmin + 1}</xmin><ymin>{ymin + 1}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>\n  </object>\n"
        for label, (xmin, ymin, xmax, ymax) in zip(labels, boxes, strict=True)
    )
    sides = f"<width>{size}</width><height>{size}</height><depth>3</depth>"
    return (
        f"<annotation>\n  <filename>{stem}.jpg</filename>\n  <size>{sides}</size>\n{objects}</annotation>\n"
    )
