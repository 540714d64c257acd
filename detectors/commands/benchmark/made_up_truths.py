"""Ground truth for speed: numbers of boxes and sizes as in VOC and in COCO, places and labels at random."""

from __future__ import annotations

import numpy as np
import torch

from detectors.structures import Targets

# Boxes per image are max(1, Poisson(Gamma(shape, mean / shape))): 2.5 on average as in VOC2007 without
# difficult objects, 7.2 as in COCO, with a long tail. A box's sqrt(area) over the image's side is log-normal.
MEANS = {"voc": 2.2, "coco": 7.1}
GAMMA_SHAPE = 1.0
LOG_SIZES = {"voc": -1.3, "coco": -2.1}  # mean of log(sqrt(area) / side)
SIZE_SPREAD = 0.75  # its standard deviation
ASPECT_SPREAD = 0.35  # standard deviation of log(width / height) / 2
MOST = {"voc": 40, "coco": 90}  # boxes of an image
CLASS_COUNTS = {"voc": 20, "coco": 80}


def made_up_targets(
    kind: str, batch: int, size: tuple[int, int], *, seed: int = 0, per_image: int | None = None
) -> Targets:
    """kind: "voc" or "coco". per_image: the same number of boxes in every image, instead of random ones.

    Boxes lie inside the input of `size` (height, width), and are at least 2 % of its sides.
    """
    random = np.random.default_rng(seed)
    counts = np.full(batch, per_image) if per_image else made_up_counts(kind, batch, random)
    most = int(counts.max(initial=0))
    side = np.exp(random.normal(LOG_SIZES[kind], SIZE_SPREAD, (batch, most, 1)))
    aspect = np.exp(random.normal(0, ASPECT_SPREAD, (batch, most, 1)))
    wh = np.clip(np.concatenate([side * aspect, side / aspect], -1), 0.02, 0.95)
    corner = random.random((batch, most, 2)) * (1 - wh)
    height, width = size
    boxes = np.concatenate([corner, corner + wh], -1) * [width, height, width, height]
    valid = np.arange(most) < counts[:, None]
    labels = random.integers(CLASS_COUNTS[kind], size=(batch, most))
    return Targets(
        torch.from_numpy(np.where(valid[..., None], boxes, 0)).float(),
        torch.from_numpy(np.where(valid, labels, 0)),
        torch.from_numpy(valid),
    )


def made_up_counts(kind: str, images: int, random: np.random.Generator) -> np.ndarray:
    """(images,) boxes in each image."""
    rate = random.gamma(GAMMA_SHAPE, MEANS[kind] / GAMMA_SHAPE, images)
    return random.poisson(rate).clip(1, MOST[kind])
