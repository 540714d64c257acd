"""From pixels to a network's input of any size, by the letterbox or the stretching of its training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detectors.data.augment.transforms import Transform, build_transform, no_augmentation
from detectors.structures import ImageInfo


class InputFraming:
    def __init__(self, resize: str):
        """resize: letterbox or stretch, as input.resize."""
        self.resize = resize
        self._transforms: dict[tuple[int, int], Transform] = {}  # by input size

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, ImageInfo]:
        """(h, w, 3) uint8 RGB -> (3, H, W) uint8 of `size` (height, width), and how it was put there.

        ValueError for an image of which a letterbox leaves nothing.
        """
        if size not in self._transforms:
            self._transforms[size] = build_transform(
                augment=no_augmentation(), size=size, resize=self.resize, train=False
            )
        framed = self._transforms[size](image, np.zeros((0, 4)), np.zeros(0, np.int64), 0)
        height, width = image.shape[:2]
        # A letterbox keeps one row or column of a side that would vanish; nothing can be found in it.
        if self.resize == "letterbox" and min(height, width) * min(framed.scale_xy) < 1:
            rows, columns = size
            raise ValueError(
                f"an image of {width} x {height} pixels has no room in a letterbox of {columns} x {rows}; "
                "crop it"
            )
        info = ImageInfo(0, "", "", image.shape[:2], framed.scale_xy, framed.shift_xy)
        return torch.from_numpy(framed.image).permute(2, 0, 1), info
