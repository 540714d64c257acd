"""A generated data set in VOC's layout: six classes of textured, rotated, partly hidden shapes on clutter.

It is small enough to learn in a minute without a GPU, and hard enough to expose a broken detector: many
sizes, aspect ratios and angles, up to five shapes that hide each other, clutter that looks like parts of
shapes, images without any shape. Each class has its own hues, because 600 images are too few for a narrow
network to learn six outlines at every angle from scratch (AP50 .47 after a minute, .92 with the hues). What
remains hard is to find, separate and frame the shapes. Image k of a split is a pure function of (seed, split,
k, size).
"""

from __future__ import annotations

import colorsys
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

CLASSES = ("cross", "disc", "ring", "square", "star", "triangle")
SHAPES_VERSION = 3  # increase it when the images change; it is part of the cache folder's name
COUNTS = (0.04, 0.14, 0.22, 0.26, 0.20, 0.14)  # probability of 0, 1, ... 5 shapes per image; the mean is 2.9
SIDE_RANGE = (0.2, 0.55)  # longer side of an unrotated shape / side of the image, log-uniform
ASPECT_RANGE = 1.5  # largest ratio of the sides of an unrotated shape
VISIBLE = 0.65  # smallest visible fraction of a shape
HUES = (0.33, 0.83, 0.0, 0.5, 0.17, 0.67)  # of each class, 0..1 around the colour circle
HUE_SPREAD = 0.07  # largest deviation to either side
SUBPIXEL = 4  # fractional bits of OpenCV's vertex coordinates
SHAPES_QUALITY = 92

logger = logging.getLogger(__name__)


class ShapeKind(NamedTuple):
    """Which shapes an image has."""

    labels: tuple[int, ...] = tuple(range(len(CLASSES)))
    single: bool = False  # one shape in each image

    @classmethod
    def of(cls, classes: Sequence[str] | None, single: bool) -> ShapeKind:
        """ValueError for classes that there are not, or none."""
        chosen = CLASSES if classes is None else tuple(classes)
        if not chosen or set(chosen) - set(CLASSES):
            raise ValueError(f"shapes of the classes {list(chosen)}: choose some of {', '.join(CLASSES)}")
        return cls(tuple(label for label, name in enumerate(CLASSES) if name in chosen), single)

    def suffix(self) -> str:
        """For the name of the folder; "" for the shapes of all classes together."""
        names = "_".join(CLASSES[label] for label in self.labels)
        some = f"-{names}" if len(self.labels) < len(CLASSES) else ""
        return f"{some}-single" if self.single else some


ANY_SHAPES = ShapeKind()


def write_shapes(
    *,
    folder: str | os.PathLike,
    seed: int = 0,
    train: int = 600,
    val: int = 150,
    size: int = 160,
    classes: Sequence[str] | None = None,
    single: bool = False,
) -> Path:
    """Write the data set, unless it exists. Returns its root, for read_voc with image sets "train" and "val".

    train, val: numbers of images. size: side of the images in pixels. classes: of the shapes in them; None:
    all. single: one shape in each image.

    The data set is written atomically, as a temporary folder that is renamed. If two processes start at once,
    one of them discards its copy. ValueError for a folder that cannot be written.
    """
    kind = ShapeKind.of(classes, single)
    if min(train, val) < 1 or size < 32:
        raise ValueError(
            f"shapes with train={train}, val={val}, size={size}: "
            "train and val must be at least 1, and size at least 32 pixels"
        )
    name = f"shapes-v{SHAPES_VERSION}-seed{seed}-train{train}-val{val}-size{size}{kind.suffix()}"
    root = Path(folder).absolute() / name
    if root.is_dir():
        return root
    started = time.monotonic()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".shapes-", dir=root.parent) as draft:
            # A subfolder, because only the owner may read the temporary folder itself.
            folder_draft = Path(draft) / root.name
            _write_splits(folder_draft, seed, {"train": train, "val": val}, size, kind)
            os.replace(folder_draft, root)
    except OSError as error:
        if not root.is_dir():  # otherwise another process was first, with the same files
            what = f"the generated images cannot be written there ({error.strerror})"
            fix = "set paths.cache to a folder that can be written"
            raise ValueError(f"{root.parent}: {what}; {fix}") from error
    logger.info("wrote %d generated images to %s (%.1f s)", train + val, root, time.monotonic() - started)
    return root


def _write_splits(root: Path, seed: int, counts: dict[str, int], size: int, kind: ShapeKind) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number, (split, count) in enumerate(counts.items()):
        stems = [f"{split}_{index:05d}" for index in range(count)]
        for index, stem in enumerate(stems):
            image, labels, boxes = draw_shapes(np.random.default_rng((seed, number, index)), size, kind)
            encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, SHAPES_QUALITY])[1]
            (root / "JPEGImages" / f"{stem}.jpg").write_bytes(encoded.tobytes())
            (root / "Annotations" / f"{stem}.xml").write_text(_xml(stem, size, labels, boxes))
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))


def draw_shapes(
    rng: np.random.Generator, size: int, kind: ShapeKind = ANY_SHAPES
) -> tuple[np.ndarray, list[int], list[tuple[int, int, int, int]]]:
    """One image: (size, size, 3) uint8 RGB; labels, indices into CLASSES; boxes.

    The boxes are xyxy with continuous edges, tight around the visible pixels of each shape.
    """
    canvas = _background(rng, size)
    owner = np.full((size, size), -1, dtype=np.int16)  # the shape that each pixel belongs to
    labels: list[int] = []
    full: list[int] = []  # pixels of each shape, hidden ones and those outside the image included
    for _ in range(1 if kind.single else rng.choice(len(COUNTS), p=COUNTS)):
        label = kind.labels[int(rng.integers(len(kind.labels)))]
        coverage, (top, left), pixels = _place(rng, label, owner, full)
        if coverage is None:
            continue
        rows = slice(top, top + coverage.shape[0])
        columns = slice(left, left + coverage.shape[1])
        patch = canvas[rows, columns]
        patch += coverage[..., None] * (_texture(rng, coverage.shape, label) - patch)
        owner[rows, columns][coverage >= 0.5] = len(labels)
        labels.append(label)
        full.append(pixels)
    canvas = cv2.GaussianBlur(canvas, (3, 3), rng.uniform(0.3, 0.6))
    canvas = canvas + rng.normal(0, rng.uniform(2, 7), canvas.shape)
    boxes = [_tight_box(owner == number) for number in range(len(labels))]
    return np.clip(canvas, 0, 255).astype(np.uint8), labels, boxes


def _place(
    rng: np.random.Generator, label: int, owner: np.ndarray, full: list[int]
) -> tuple[np.ndarray | None, tuple[int, int], int]:
    """A new shape where it hides no other too much: coverage (h, w) 0..1, corner (row, column), pixels.

    The coverage is clipped to the image; `pixels` is the size of the shape before clipping. The coverage is
    None if 20 tries do not find a place.
    """
    size = len(owner)
    for _ in range(20):
        coverage = _coverage(rng, label, size)
        pixels = int((coverage >= 0.5).sum())
        extent = np.array(coverage.shape)
        # At most a tenth of either side is outside the image.
        corner = np.floor(rng.uniform(-0.1 * extent, size - 0.9 * extent)).astype(int)
        low = np.maximum(corner, 0)
        high = np.minimum(corner + extent, size)
        start = low - corner
        stop = high - corner
        part = coverage[start[0] : stop[0], start[1] : stop[1]]
        new_owner = owner.copy()
        new_owner[low[0] : high[0], low[1] : high[1]][part >= 0.5] = len(full)
        visible = np.bincount(new_owner[new_owner >= 0], minlength=len(full) + 1)
        if (visible >= VISIBLE * np.array([*full, pixels])).all():
            return part, (int(low[0]), int(low[1])), pixels
    return None, (0, 0), 0


def _coverage(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """(h, w) float32 0..1: how much of each pixel a randomly rotated shape covers, in a tight frame."""
    long = size * np.exp(rng.uniform(*np.log(SIDE_RANGE)))
    half = rng.permutation([1, ASPECT_RANGE ** -rng.uniform()]) * long / 2
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outlines = [outline * half @ rotation for outline in _outlines(rng, CLASSES[label])]
    low = np.floor(np.min([outline.min(0) for outline in outlines], axis=0)) - 1
    width, height = (np.ceil(np.max([outline.max(0) for outline in outlines], axis=0)) + 2 - low).astype(int)
    mask = np.zeros((height, width), dtype=np.uint8)
    points = [np.round((outline - low) * 2**SUBPIXEL).astype(np.int32) for outline in outlines]
    cv2.fillPoly(mask, points, 255, lineType=cv2.LINE_AA, shift=SUBPIXEL)
    return mask.astype(np.float32) / 255


def _outlines(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Outlines (n, 2), coordinates -1..1; the second one is a hole."""

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
    # A cross: three points at one corner, rotated by each quarter turn.
    arm = rng.uniform(0.28, 0.38)
    corner = np.array([(arm, -1), (arm, -arm), (1, -arm)])
    quarter_turn = np.array([(0, 1), (-1, 0)])
    return [np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, turns) for turns in range(4)])]


def _texture(rng: np.random.Generator, shape: tuple[int, int], label: int) -> np.ndarray:
    """(h, w, 3) float32: a pattern of a bright and a darker shade of the class's hue, lit from one side."""
    hue = (HUES[label] + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1
    bright = _colour(hue, rng.uniform(0.55, 1), rng.uniform(0.75, 1))
    dark = bright * rng.uniform(0.45, 0.8)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    period = rng.uniform(5, 12)  # pixels
    u = (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period)
    v = (rows * np.cos(angle) - columns * np.sin(angle)) * (2 * np.pi / period)
    stripes = np.sin(u)
    waves = np.sin(u) * np.sin(v)
    noise = rng.normal(0, 0.6, shape)
    pattern = (np.zeros(shape), stripes, waves, np.sign(waves), noise)[rng.integers(5)]
    mix = (0.5 + 0.5 * np.clip(pattern, -1, 1))[..., None] * rng.uniform(0.4, 1)
    light = 1 + rng.uniform(0, 0.2) * np.cos(u * period / (2 * max(shape)))[..., None]
    return ((bright * (1 - mix) + dark * mix) * light).astype(np.float32)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) RGB 0..255; all arguments 0..1."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) float32: soft, nearly grey patches with lines, arcs, dots and zigzags on them.

    Nothing looks like a whole shape, which would be an object without a box.
    """
    cells = int(rng.integers(2, 8))
    tint = rng.uniform(50, 140) + rng.normal(0, 8, 3)
    light = rng.normal(0, rng.uniform(5, 25), (cells, cells, 1))
    soft = tint + light + rng.normal(0, 5, (cells, cells, 3))
    canvas = cv2.resize(soft.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(3, 13)):
        _draw_clutter(rng, canvas)
    return canvas


def _draw_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a line, an arc, a dot or a zigzag. canvas: (size, size, 3)."""
    size = len(canvas)
    scale = size / 160
    colour = (canvas.mean((0, 1)) + rng.normal(0, 30) + rng.normal(0, 10, 3)).tolist()
    x, y, other_x, other_y = (int(value) for value in rng.integers(-10, size + 10, 4))
    thickness = max(1, round(scale * rng.integers(1, 4)))
    kind = rng.integers(4)
    if kind == 0:
        cv2.line(canvas, (x, y), (other_x, other_y), colour, thickness, cv2.LINE_AA)
    elif kind == 1:
        axes = tuple(int(value) for value in rng.integers(4, 40, 2) * scale)
        start = int(rng.integers(360))  # degrees
        rotation = int(rng.integers(180))
        end = start + int(rng.integers(30, 160))
        cv2.ellipse(canvas, (x, y), axes, rotation, start, end, colour, thickness, cv2.LINE_AA)
    elif kind == 2:
        cv2.circle(canvas, (x, y), max(1, round(scale * rng.integers(1, 4))), colour, -1, cv2.LINE_AA)
    else:
        zigzag = np.array([x, y]) + rng.normal(0, 14 * scale, (int(rng.integers(3, 6)), 2))
        cv2.polylines(canvas, [zigzag.astype(np.int32)], False, colour, thickness, cv2.LINE_AA)


def _tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(h, w) bool -> xyxy with continuous edges."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _xml(stem: str, size: int, labels: list[int], boxes: list[tuple[int, int, int, int]]) -> str:
    """VOC's annotation file. Its coordinates are 1-based, and the last pixel is included."""
    objects = "".join(
        f"  <object>\n    <name>{CLASSES[label]}</name>\n    <difficult>0</difficult>\n    <bndbox>"
        f"<xmin>{xmin + 1}</xmin><ymin>{ymin + 1}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        "</bndbox>\n  </object>\n"
        for label, (xmin, ymin, xmax, ymax) in zip(labels, boxes, strict=True)
    )
    sides = f"<width>{size}</width><height>{size}</height><depth>3</depth>"
    return (
        f"<annotation>\n  <filename>{stem}.jpg</filename>\n  <size>{sides}</size>\n{objects}</annotation>\n"
    )
