"""Single operations of Darknet (ops.json): reorg, max pooling, resizing, augmentation of images and labels.

Images are (C, H, W) in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors import layers
from detectors.commands.verify import darknet_augment
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.darknet import framing

IMAGE = Tolerance(absolute=2e-6)
# The gradients of overlapping windows are added, and the order of a float32 sum changes its last bit.
SUMS = Tolerance(relative=5e-7)


def ops_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """ops.json"""
    return folder.fixtures(name, _run)


def _run(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    if case["op"] not in OPERATIONS:
        raise ValueError(f"unknown op {case['op']!r}; known are {', '.join(OPERATIONS)}")
    return OPERATIONS[case["op"]](case, arrays)


def _reorg(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    """Forward pass of 0, 1, 2, ...; backward pass of the same numbers in reverse order."""
    for key, recipe in (("input", "arange"), ("delta", "reversed arange, output-shaped")):
        if case[key] != recipe:
            raise ValueError(f"{key} {case[key]!r}: only {recipe!r} is supported")
    # float64, because float32 rounds large integers
    x = torch.arange(np.prod(case["shape"]), dtype=torch.float64).reshape(case["shape"]).requires_grad_()
    operation = layers.darknet_reorg_reverse if case["reverse"] else layers.darknet_reorg
    delta = torch.arange(x.numel() - 1, -1, -1, dtype=torch.float64)
    yield from _forward_and_backward(operation(x, case["stride"]), x, delta, arrays, EXACT)


def _maxpool(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    x = torch.from_numpy(arrays["input"]).requires_grad_()
    pool = layers.DarknetMaxPool(case["stride"], size=case["size"], padding=case.get("padding"))
    yield from _forward_and_backward(pool(x), x, torch.from_numpy(arrays["delta"]), arrays, SUMS)


def _forward_and_backward(
    y: Tensor, x: Tensor, delta: Tensor, arrays: Arrays, backward_tolerance: Tolerance
) -> Iterator[Comparison]:
    """y: the operation's output for x. delta: the gradient of y."""
    yield compare_numbers("output", y, arrays["output"], EXACT)
    y.backward(delta.reshape(y.shape))
    yield compare_numbers("delta_in", x.grad, arrays["delta_in"], backward_tolerance)


def _letterbox(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    computed = framing.darknet_letterbox(arrays["input"], (case["h"], case["w"]))
    yield compare_numbers("output", computed, arrays["output"], IMAGE)


def _resize(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    computed = framing.darknet_resize(arrays["input"], (case["h"], case["w"]))
    yield compare_numbers("output", computed, arrays["output"], IMAGE)


def _place(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    computed = darknet_augment.place(
        arrays["input"],
        canvas_size=(case["h"], case["w"]),
        size=(case["nh"], case["nw"]),
        corner=(case["dy"], case["dx"]),
    )
    yield compare_numbers("output", computed, arrays["output"], IMAGE)


def _distort(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    computed = darknet_augment.darknet_distort(
        arrays["input"], hue=case["hue"], saturation=case["sat"], exposure=case["exp"]
    )
    yield compare_numbers("output", computed, arrays["output"], IMAGE)


def _boxes(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    """As in load_data_detection: shift -dx / w, scale nw / w. Columns: class, cx, cy, w, h."""
    labels = arrays["labels"]
    recorded = arrays["output"]
    computed = darknet_augment.correct_boxes(
        labels[:, 1:],
        shift=(-case["dx"] / case["w"], -case["dy"] / case["h"]),
        scale=(case["nw"] / case["w"], case["nh"] / case["h"]),
        flip=bool(case["flip"]),
    )
    yield compare_numbers("classes", labels[:, 0], recorded[:, 0], EXACT)
    yield compare_numbers("boxes", computed, recorded[:, 1:], IMAGE)


OPERATIONS: dict[str, Callable[[Settings, Arrays], Iterator[Comparison]]] = {
    "reorg": _reorg,
    "maxpool": _maxpool,
    "letterbox": _letterbox,
    "resize": _resize,
    "place": _place,
    "distort": _distort,
    "correct_boxes": _boxes,
}
