"""Some of the images of a set, with their boxes: a share of them as the val split."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from detectors.annotations import Annotations
from detectors.data.checks import to_offsets


def shared_out(annotations: Annotations, share: float, seed: int, *, val: bool) -> Annotations:
    """The val split, `share` of the images drawn by `seed`, or the rest. Both keep the order of the images.

    Each has at least one image. ValueError for a single image, which cannot be shared out.
    """
    count = len(annotations)
    if count < 2:
        raise ValueError(f"data.val_share={share}: {count} images cannot be shared out; leave it out")
    held_out = min(max(1, round(share * count)), count - 1)
    order = np.random.default_rng(seed).permutation(count)
    return chosen_images(annotations, np.sort(order[:held_out] if val else order[held_out:]))


def chosen_images(annotations: Annotations, rows: np.ndarray) -> Annotations:
    """Some images of one set, in the order of `rows` (n,), with their boxes."""
    counts = np.diff(annotations.offsets)[rows]
    offsets = to_offsets(counts)
    boxes = np.repeat(annotations.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    parts = {field.name: getattr(annotations, field.name) for field in fields(Annotations)}
    for name in ("image_ids", "paths"):
        parts[name] = [parts[name][row] for row in rows.tolist()]
    for name in ("boxes_original", "labels", "difficult", "crowd", "areas"):
        parts[name] = parts[name][boxes]
    if annotations.image_labels is not None:
        parts["image_labels"] = annotations.image_labels[rows]
    return Annotations(**parts | {"sizes": annotations.sizes[rows], "offsets": offsets})
