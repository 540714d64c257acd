"""Anchors: YOLOv2's shapes and SSD's default boxes, both as an AnchorGrid in pixels of the model input.

Order of the A axis in both: level, row, column, anchor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from detectors.structures import AnchorGrid, Level

# Widths and heights in cells of 32 pixels, from Darknet's cfg files.
YOLO_ANCHORS: dict[str, list[tuple[float, float]]] = {
    "voc": [
        (1.3221, 1.73145),
        (3.19275, 4.00944),
        (5.05587, 8.09892),
        (9.47112, 4.84053),
        (11.2364, 10.0071),
    ],
    "coco": [
        (0.57273, 0.677385),
        (1.87446, 2.06253),
        (3.33843, 5.47434),
        (7.88282, 3.52778),
        (9.77052, 9.16828),
    ],
    "tiny_voc": [(1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)],
    "yolo9000": [(0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974)],
}


@dataclass(frozen=True)
class DefaultBoxLevel:
    """The default boxes of one SSD feature map.

    A square of min_size, one of sqrt(min_size * max_size), and two boxes per aspect ratio. `stride` is
    Caffe's `step`, which need not be size / rows: SSD300 has 38 rows of 8 px and 3 rows of 100 px.
    """

    rows: int
    columns: int
    stride: float  # pixels between centres
    min_size: float  # pixels
    max_size: float  # pixels
    aspect_ratios: tuple[float, ...] = (2.0,)  # width / height; the inverse of each is added

    @property
    def per_location(self) -> int:
        return 2 + 2 * len(self.aspect_ratios)

    def shapes_wh(self) -> list[tuple[float, float]]:
        """Caffe's order (prior_box_layer.cpp): min, sqrt(min * max), then each ratio and its inverse."""
        middle = sqrt(self.min_size * self.max_size)
        shapes = [(self.min_size, self.min_size), (middle, middle)]
        for ratio in self.aspect_ratios:
            long = self.min_size * sqrt(ratio)
            short = self.min_size / sqrt(ratio)
            shapes += [(long, short), (short, long)]
        return shapes


def ssd300_levels(sizes: str | Sequence[float] = "voc") -> list[DefaultBoxLevel]:
    """SSD300: 8,732 boxes. COCO's are smaller: on conv4_3 7 % of the side instead of 10 %.

    sizes: see default_box_sizes.
    """
    published = {"voc": (30, 60, 111, 162, 213, 264, 315), "coco": (21, 45, 99, 153, 207, 261, 315)}
    ratios = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    return _levels(
        (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300), default_box_sizes(sizes, published), ratios
    )


def ssd512_levels(sizes: str | Sequence[float] = "voc") -> list[DefaultBoxLevel]:
    """SSD512: 24,564 boxes. sizes: see default_box_sizes.

    The sizes are integers, because Caffe's script truncates them; ports with floats differ in 24,552 boxes.
    """
    published = {
        "voc": (35, 76, 153, 230, 307, 384, 460, 537),
        "coco": (20, 51, 133, 215, 296, 378, 460, 542),
    }
    ratios = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
    return _levels(
        (64, 32, 16, 8, 4, 2, 1), (8, 16, 32, 64, 128, 256, 512), default_box_sizes(sizes, published), ratios
    )


def default_box_sizes(
    sizes: str | Sequence[float], published: Mapping[str, tuple[int, ...]]
) -> tuple[float, ...]:
    """The min_size of each level and the max_size of the last, in pixels.

    sizes: a key of `published`, or the list itself. ValueError if it is neither.
    """
    if isinstance(sizes, str):
        if sizes not in published:
            raise ValueError(
                f"sizes={sizes!r}: default boxes are published for {' and '.join(published)}; "
                "choose one, or give a list"
            )
        return published[sizes]
    count = len(next(iter(published.values())))
    if len(sizes) != count or sizes[0] <= 0 or any(high <= low for low, high in pairwise(sizes)):
        example = list(next(iter(published.values())))
        raise ValueError(
            f"sizes={list(sizes)}: must be {count} ascending numbers of pixels (one more than levels), "
            f"such as {example}"
        )
    return tuple(sizes)


def _levels(
    cells: Sequence[int], strides: Sequence[float], sizes: Sequence[float], ratios: Sequence[tuple]
) -> list[DefaultBoxLevel]:
    return [
        DefaultBoxLevel(rows, rows, stride, min_size, max_size, aspect_ratios)
        for rows, stride, (min_size, max_size), aspect_ratios in zip(
            cells, strides, pairwise(sizes), ratios, strict=True
        )
    ]


class YoloAnchors:
    """YOLOv2's anchors: K shapes in every cell of one grid.

    They are centred in their cell, which matters to the prior term only.
    """

    def __init__(self, anchors: Sequence[Sequence[float]], stride: int = 32):
        """anchors: K pairs (width, height) in cells of `stride` pixels, as in Darknet's cfg.

        ValueError if they are not positive pairs.
        """
        if not anchors or any(len(shape) != 2 or min(shape) <= 0 for shape in anchors):
            raise ValueError(
                f"anchors={list(anchors)}: YOLOv2 needs pairs (width, height) in cells, all above 0, "
                "such as [[1.3, 1.7], [3.2, 4.0]]"
            )
        self.shapes_cells = tuple((float(w), float(h)) for w, h in anchors)
        self.stride = stride
        self.per_location = [len(self.shapes_cells)]

    def __call__(self, size: tuple[int, int]) -> AnchorGrid:
        """size: (height, width) of the model input. ValueError if a side is not a multiple of the stride."""
        if any(side <= 0 or side % self.stride for side in size):
            raise ValueError(
                f"input size {tuple(size)} (height, width): this YOLOv2 needs multiples of its stride "
                f"{self.stride}"
            )
        level = Level(
            size[0] // self.stride, size[1] // self.stride, float(self.stride), self.per_location[0]
        )
        return _grid([level], [[(w * self.stride, h * self.stride) for w, h in self.shapes_cells]], size)


class DefaultBoxes:
    """SSD's default boxes (Caffe's PriorBox layer). As in Caffe's models, they are not clipped to the image.

    clip: what ports do instead. "cxcywh" clamps centre and size to the image (ssd.pytorch, lufficc), "wh"
    the size only (torchvision).
    """

    def __init__(self, levels: Sequence[DefaultBoxLevel], size: tuple[int, int], clip: str | None = None):
        if clip not in (None, "cxcywh", "wh"):
            raise ValueError(
                f"clip={clip!r}: choose null (Caffe), 'cxcywh' (ssd.pytorch) or 'wh' (torchvision)"
            )
        self.levels = tuple(levels)
        self.size = tuple(size)
        self.clip = clip
        self.per_location = [level.per_location for level in levels]

    def __call__(self, size: tuple[int, int]) -> AnchorGrid:
        """size: (height, width) of the model input. ValueError if the levels were made for another size."""
        if tuple(size) != self.size:
            raise ValueError(
                f"input size {tuple(size)} (height, width): these default boxes belong to {self.size}; "
                f"set input.size={list(self.size)}"
            )
        levels = [
            Level(level.rows, level.columns, float(level.stride), level.per_location) for level in self.levels
        ]
        grid = _grid(levels, [level.shapes_wh() for level in self.levels], size)
        if self.clip is None:
            return grid
        limit = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32)
        clipped = torch.minimum(grid.boxes_cxcywh.clamp(min=0), limit)
        if self.clip == "wh":
            clipped = torch.cat([grid.boxes_cxcywh[:, :2], clipped[:, 2:]], 1)
        return AnchorGrid(clipped, grid.stride, grid.cell, grid.size, grid.levels)


def _grid(
    levels: list[Level], shapes_wh: list[list[tuple[float, float]]], size: tuple[int, int]
) -> AnchorGrid:
    """Every shape at the centre of every cell. Computed in float64, stored in float32."""
    cells = [_cells(level) for level in levels]
    strides = [
        torch.full((len(cell),), level.stride, dtype=torch.float64)
        for cell, level in zip(cells, levels, strict=True)
    ]
    wh = [
        torch.tensor(shapes, dtype=torch.float64).repeat(level.rows * level.columns, 1)
        for shapes, level in zip(shapes_wh, levels, strict=True)
    ]
    cell = torch.cat(cells)  # (A, 2)
    stride = torch.cat(strides)  # (A,)
    boxes_cxcywh = torch.cat([(cell + 0.5) * stride[:, None], torch.cat(wh)], 1)  # (A, 4)
    return AnchorGrid(
        boxes_cxcywh.float(), stride.float(), cell.float(), (int(size[0]), int(size[1])), tuple(levels)
    )


def _cells(level: Level) -> Tensor:
    """(rows * columns * K, 2) column and row of each anchor of a level."""
    row, column, _ = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (level.rows, level.columns, level.per_location)),
        indexing="ij",
    )
    return torch.stack([column.flatten(), row.flatten()], 1)
