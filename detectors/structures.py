"""Shared vocabulary: the shape legend, the records that stages exchange, and the interfaces of a detector.

Shape legend, used in every comment and docstring:

    B  images in a batch            H, W  rows and columns of an image or of a grid, in that order
    M  boxes per image, padded      A     anchors of an image: (level, row, column, anchor)
    C  classes, no background       K     anchors at one location of one level
    N  images of a data set         T     boxes of many images, one after another

`boxes` alone means (xmin, ymin, xmax, ymax), float32, pixels with continuous edges (width = xmax - xmin), in
the frame of the model's input. Another format or frame carries a suffix: `_cxcywh`, `_original`. `size` is
(height, width), `wh` is (width, height). Labels are 0..C-1; background is not a class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor

from detectors.boxes import cxcywh_to_xyxy

T = TypeVar("T", bound=Callable)

BACKGROUND = -1  # EncodedTargets.matched: no box for this anchor
IGNORED = -2  # EncodedTargets.matched: this anchor does not enter the loss


class _Movable:
    """Gives a dataclass of tensors a method `to(device)`; fields that are not tensors stay as they are."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        moved = {f.name: getattr(self, f.name) for f in fields(cast(Any, self)) if f.init}
        for name, value in moved.items():
            if isinstance(value, Tensor | Targets):
                moved[name] = value.to(device, non_blocking=non_blocking)
        return type(self)(**moved)


@dataclass(frozen=True)
class Targets(_Movable):
    """The ground truth of a batch, padded to the same number M of boxes per image. M may be 0.

    >>> import torch
    >>> from detectors import Targets
    >>> boxes = torch.tensor([[[30.0, 40, 120, 200], [0, 0, 0, 0]]])  # one image: a box and a padding row
    >>> targets = Targets(boxes, labels=torch.tensor([[11, 0]]), valid=torch.tensor([[True, False]]))
    >>> targets.to("cpu").valid.sum()
    tensor(1)
    """

    boxes: Tensor  # (B, M, 4) xyxy pixels of the model input; zeros in padding rows
    labels: Tensor  # (B, M) int64, 0..C-1; 0 in padding rows
    valid: Tensor  # (B, M) bool, False in padding rows
    # (B,) int64: the label of an image of which nothing else is known, and which has no valid row; -1: an
    # image with boxes, or without objects. None: the data set has no image with a label alone.
    image_labels: Tensor | None = None


@dataclass(frozen=True)
class ImageInfo:
    """Where an image comes from, and how it was put into the model's frame.

    x_input = x_original * scale_xy[0] + shift_xy[0]; y likewise.
    """

    index: int  # row in the data set (Annotations)
    image_id: str | int  # VOC's file stem or COCO's integer id
    path: str
    size_original: tuple[int, int]  # (height, width)
    scale_xy: tuple[float, float] = (1.0, 1.0)
    shift_xy: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Batch(_Movable):
    images: Tensor  # (B, 3, H, W) uint8 RGB
    targets: Targets
    infos: list[ImageInfo]  # B of them

    def pin_memory(self) -> Batch:
        tensors: dict[str, Any] = {f.name: getattr(self.targets, f.name) for f in fields(self.targets)}
        pinned = {name: tensor.pin_memory() for name, tensor in tensors.items() if tensor is not None}
        return Batch(self.images.pin_memory(), replace(self.targets, **pinned), self.infos)


class Level(NamedTuple):
    """One feature map that a head reads.

    Plain Python numbers: reading them never synchronises with a device.
    """

    rows: int
    columns: int
    stride: float  # input pixels per cell
    per_location: int  # anchors in each cell

    @property
    def num_anchors(self) -> int:
        return self.rows * self.columns * self.per_location


@dataclass(frozen=True)
class AnchorGrid(_Movable):
    """All anchors of one input size, in the frame of the model input."""

    boxes_cxcywh: Tensor  # (A, 4) pixels; YOLO's anchors are centred in their cell
    stride: Tensor  # (A,) pixels per cell
    cell: Tensor  # (A, 2) float: column, row
    size: tuple[int, int]  # (height, width) of the model input
    levels: tuple[Level, ...]
    boxes: Tensor = field(init=False, repr=False)  # (A, 4) xyxy pixels; not clipped to the image

    def __post_init__(self) -> None:
        """Computes the corners: once for a grid, and where torch.compile need not trace it."""
        object.__setattr__(self, "boxes", cxcywh_to_xyxy(self.boxes_cxcywh))

    @property
    def num_anchors(self) -> int:
        return self.boxes_cxcywh.shape[0]


@dataclass(frozen=True)
class HeadOutputs(_Movable):
    """What a detector's forward returns, in training and evaluation alike. float32 also under autocast."""

    offsets: Tensor  # (B, A, 4) in the coder's terms; YOLO's head has applied the sigmoid to the first two
    class_logits: Tensor  # (B, A, C), or (B, A, C + 1) with background in column 0 (SSD)
    objectness: Tensor | None = None  # (B, A) logits, or None (SSD)


class Matches(NamedTuple):
    """Which anchors must find which boxes."""

    matched: Tensor  # (B, A) int64: row of Targets for this anchor, BACKGROUND or IGNORED
    # The anchor of each box, -1 for none. Boxes may share an anchor; `matched` then holds the winner.
    assigned: Tensor  # (B, M) int64


@dataclass(frozen=True)
class EncodedTargets:
    """Targets as seen from the anchors, made by TargetEncoder.

    The matching is stored. The tables (B, A) and (B, A, 4) that follow from it are computed at each access,
    so that a loss pays only for those it reads; it reads each once.
    """

    matched: Tensor  # (B, A) int64, see Matches
    assigned: Tensor  # (B, M) int64, see Matches
    targets: Targets
    grid: AnchorGrid
    coder: BoxCoder

    @property
    def positive(self) -> Tensor:
        """(B, A) bool"""
        return self.matched >= 0

    @property
    def boxes(self) -> Tensor:
        """(B, A, 4) xyxy pixels: the matched box.

        An anchor without a box has itself, so that all numbers are finite. For YOLO its offsets are then
        (0.5, 0.5, 0, 0), which Darknet's prior term pulls towards.
        """
        anchors = self.grid.boxes.expand(len(self.matched), -1, -1)
        if self.targets.labels.shape[1] == 0:
            return anchors
        row = self.matched.clamp(min=0)[..., None].expand(-1, -1, 4)
        return torch.where(self.positive[..., None], self.targets.boxes.gather(1, row), anchors)

    @property
    def offsets(self) -> Tensor:
        """(B, A, 4) coder.encode(boxes)"""
        return self.coder.encode(self.boxes, self.grid)

    @property
    def labels(self) -> Tensor:
        """(B, A) int64 0..C-1; -1 for an anchor without a box"""
        labels = self.targets.labels
        if labels.shape[1] == 0:
            return self.matched.clamp(min=-1)
        return torch.where(self.positive, labels.gather(1, self.matched.clamp(min=0)), -1)


@dataclass(frozen=True)
class Detections(_Movable):
    """Detections of one or many images, one image after another, the best score first in each."""

    image: Tensor  # (T,) int64: position in the batch, or row of Annotations
    boxes: Tensor  # (T, 4) xyxy pixels
    scores: Tensor  # (T,) float32
    labels: Tensor  # (T,) int64, 0..C-1

    def of_image(self, image: int) -> Detections:
        keep = self.image == image
        return Detections(self.image[keep], self.boxes[keep], self.scores[keep], self.labels[keep])

    def above(self, score: float) -> Detections:
        keep = self.scores >= score
        return Detections(self.image[keep], self.boxes[keep], self.scores[keep], self.labels[keep])

    def by_image(self) -> Detections:
        """Sorted by image; within one, the order stays."""
        order = self.image.sort(stable=True).indices
        return Detections(self.image[order], self.boxes[order], self.scores[order], self.labels[order])

    @staticmethod
    def concatenate(parts: list[Detections]) -> Detections:
        """One record from many; an empty list gives an empty record on the CPU."""
        if not parts:
            none = torch.zeros(0, dtype=torch.int64)
            return Detections(none, torch.zeros(0, 4), torch.zeros(0), none.clone())
        return Detections(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Detections)))


def builder(group: str, keywords_of: Callable | None = None) -> Callable[[T], T]:
    """Decorates a function or class that yaml may name as the `_target_` of a group, such as model or loss.

    Nothing else can be a `_target_`, so that a configuration from somebody else cannot call other code. Its
    keyword-only arguments, or those of keywords_of, are its settings. config/signatures.py reads both from
    the source of the module, so a decorated function is written there with this very name.
    """

    def mark(target: T) -> T:
        if keywords_of is not None:
            shown = inspect.signature(keywords_of)
            keywords = [p for p in shown.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
            cast(Any, target).__signature__ = shown.replace(parameters=keywords)
        return target

    return mark


class OutputLayer(NamedTuple):
    """A convolution that gives a detector's outputs. Its channels are (anchor, entry), entry fastest.

    A module publishes its own as `output_layers`. With them a new run knows which rows belong to which class.
    """

    name: str  # within the module that publishes it
    level: int | None  # of AnchorGrid.levels; None: it runs over all of them
    shared: int | None  # entries of an anchor that stand before its classes; None: it gives no classes


class AnchorMaker(Protocol):
    per_location: list[int]  # anchors at one location, for each level; heads size their output with it

    def __call__(self, size: tuple[int, int]) -> AnchorGrid: ...


class BoxCoder(Protocol):
    """Law: decode(encode(boxes)) == boxes (tests/test_laws.py)."""

    def encode(self, boxes: Tensor, grid: AnchorGrid) -> Tensor: ...  # (..., A, 4) xyxy -> offsets

    def decode(self, offsets: Tensor, grid: AnchorGrid) -> Tensor: ...  # (..., A, 4) offsets -> xyxy


class Matcher(Protocol):
    needs_predictions: bool  # whether it needs `predicted`: decoded boxes, detached

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches: ...


class Loss(Protocol):
    """An nn.Module. `statistics` returns numbers for the log; it is called on logged steps only."""

    def __call__(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]: ...

    def statistics(
        self, outputs: HeadOutputs, encoded: EncodedTargets, grid: AnchorGrid
    ) -> dict[str, Tensor]: ...


class Scores(NamedTuple):
    """Scores of labels that are not the columns' numbers, such as one label for each anchor."""

    values: Tensor  # (B, A, K)
    labels: Tensor  # (B, A, K) int64, 0..num_labels-1
    num_labels: int


class ScoreRule(Protocol):
    def __call__(self, outputs: HeadOutputs) -> Tensor | Scores: ...  # (B, A, C), column c for label c


# So that torch.export can take these records apart and rebuild them.
for _record in (HeadOutputs, Detections, AnchorGrid):
    torch.export.register_dataclass(_record, serialized_type_name=f"detectors.{_record.__name__}")
