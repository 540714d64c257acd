"""Annotations and a transform -> samples: decoding, mixing, and broken files.

Sample k of epoch e is a pure function of (seed, e, k) and its size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detectors.annotations import Annotations
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import TransformedSample
from detectors.data.images import ImageError, ImageReader
from detectors.data.problems import Problem
from detectors.data.sampling import Key, SourceMix
from detectors.structures import Batch, ImageInfo

# Random streams of a sample, see DetectionDataset._entropy: the choice of images, augmentation, mixing.
DRAW, PART, MIX = range(3)
TRIES = 50  # images tried for one place in a batch before loading fails
ON_ERROR = ("stop", "replace", "leave_out")


class TransformCall(Protocol):
    """See Transform. One with a max_zoom has the size of the model input, too."""

    @property
    def size(self) -> tuple[int, int]: ...

    def __call__(
        self,
        image: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        seed: int,
        size: tuple[int, int] | None = None,
    ) -> TransformedSample: ...


class Sample(NamedTuple):
    image: Tensor  # (H, W, 3) uint8 RGB
    boxes: Tensor  # (n, 4) float32 xyxy, model input
    labels: Tensor  # (n,) int64
    info: ImageInfo  # of mixed images, the first one's
    image_label: int | None = None  # see Targets.image_labels


class Fetched(NamedTuple):
    """What a worker returns: the samples, or after collating the batch; and the problems with its images."""

    samples: list[Sample] | Batch | None  # None: no image of the batch can be used
    problems: list[Problem]
    error: ImageError | None = None  # not raised in the worker, where it would be wrapped in two tracebacks


class DetectionDataset(Dataset):
    """Annotations seen through a transform. The key of a sample is (epoch, index) or a complete Key.

    Samples never have crowd boxes; they have difficult boxes if use_difficult (Darknet leaves them out).
    In evaluation, both matter for the validation loss only; AP reads the Annotations directly.

    on_error: what to do with an image that cannot be used. "stop" raises its ImageError. "replace" tries
    other images, drawn from (seed, epoch, index), in its place. "leave_out" leaves it out of its batch; it
    then has no detections, and its boxes count as missed.
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: TransformCall,
        *,
        seed: int,
        use_difficult: bool = True,
        on_error: str = "stop",
        mixing: Mixing | None = None,
        reader: ImageReader | None = None,
        mix: SourceMix | None = None,
    ):
        """mix: of the sets that the annotations are made of, which only training needs."""
        if on_error not in ON_ERROR:
            raise ValueError(f"on_error={on_error!r}: choose one of {', '.join(ON_ERROR)}")
        self.annotations = annotations
        self.transform = transform
        self.seed = seed
        self.on_error = on_error
        self.mixing = mixing
        self.reader = reader or ImageReader(annotations)
        self.mix = mix
        self.trained_on = ~annotations.crowd  # (T,) bool
        if not use_difficult:
            self.trained_on &= ~annotations.difficult

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample:
        return self._sample(Key(*key), [])

    def __getitems__(self, keys: list[Key]) -> Fetched:
        """The samples of one batch."""
        samples = []
        problems: list[Problem] = []
        for key in keys:
            try:
                samples.append(self._sample(Key(*key), problems))
            except ImageError as error:
                if self.on_error != "leave_out":
                    return Fetched([], problems, error)
                problems.append(error.problem)
        return Fetched(samples, problems)

    def _sample(self, key: Key, problems: list[Problem]) -> Sample:
        """One sample. Problems with its images are added to `problems`."""
        result, info = self._part(key, 0, problems)
        if self.mixing is not None:
            random = np.random.default_rng(self._entropy(key, MIX))
            result = self.mixing(result, lambda part: self._part(key, part, problems)[0], random)
        image_labels = self.annotations.image_labels
        return Sample(
            torch.from_numpy(result.image),
            torch.from_numpy(result.boxes),
            torch.from_numpy(result.labels),
            info,
            None if image_labels is None else int(image_labels[info.index]),
        )

    def _part(self, key: Key, part: int, problems: list[Problem]) -> tuple[TransformedSample, ImageInfo]:
        """Image number `part` of a sample: 0 is the key's own; the others are drawn, and mixed into it."""
        # The augmentation of part 0 uses the stream without a number.
        entropy = self._entropy(key, PART, part) if part else self._entropy(key)
        seed = int(entropy.generate_state(1, np.uint64)[0])
        for row in self._rows(key, part):
            try:
                return self._transformed(row, seed, key.size)
            except ImageError as error:
                if self.on_error != "replace":
                    raise
                problems.append(error.problem)
                last = error
        path, what, kind = last.args
        raise ImageError(
            path, f"{what}. None of the {TRIES} images tried can be used; this is the last one", kind
        )

    def _rows(self, key: Key, part: int) -> Iterator[int]:
        """TRIES rows to try in this order; of several sets, all from the one that has the first."""
        tries = TRIES
        first, end = (0, len(self)) if self.mix is None else self.mix.like(key.index)
        if part == 0:
            yield key.index
            tries -= 1
        random = np.random.default_rng(self._entropy(key, DRAW, part))
        for _ in range(tries):
            yield first + int(random.integers(end - first))

    def _entropy(self, key: Key, *stream: int) -> np.random.SeedSequence:
        """The seed of one of the sample's random streams, which are independent of each other."""
        return np.random.SeedSequence((self.seed, key.epoch, key.index), spawn_key=stream)

    def _transformed(
        self, row: int, seed: int, size: tuple[int, int] | None
    ) -> tuple[TransformedSample, ImageInfo]:
        annotations = self.annotations
        decoded = self.reader.read(row, self._wanted(size))
        rows = np.arange(annotations.offsets[row], annotations.offsets[row + 1])
        rows = rows[self.trained_on[rows]]
        boxes = annotations.boxes_original[rows] / decoded.divisor
        path = annotations.paths[row]
        _require_finite(boxes, path, "in its annotation")
        result = self.transform(decoded.image, boxes, annotations.labels[rows], seed, size)
        _require_finite(result.boxes, path, "after the augmentation")
        info = ImageInfo(
            row,
            annotations.image_ids[row],
            path,
            decoded.size_original,
            (result.scale_xy[0] / decoded.divisor, result.scale_xy[1] / decoded.divisor),
            result.shift_xy,
        )
        return result, info

    def _wanted(self, size: tuple[int, int] | None) -> tuple[float, float] | None:
        """(height, width) in pixels, the largest that the transform can use; None if it does not say.

        Both are derived from the longer side of the input, because Darknet places images in a square of it.
        """
        zoom = getattr(self.transform, "max_zoom", math.inf)
        if math.isinf(zoom):
            return None
        side = max(size or self.transform.size) * zoom
        return side, side


def _require_finite(boxes: np.ndarray, path: str, when: str) -> None:
    """ImageError for a box with NaN or infinity: the matchers would drop it in silence, or spoil the loss."""
    bad = ~np.isfinite(boxes).all(1)
    if bad.any():
        box = ", ".join(f"{value:g}" for value in boxes[bad][0])
        raise ImageError(path, f"a box with NaN or infinity {when}: [{box}]", "broken-object")
