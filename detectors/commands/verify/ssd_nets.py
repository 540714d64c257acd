"""SSD's networks with random parameters (net_ssd*.npz), and other programs' parameter names (name_maps.json).

The parameters come from one stream of uniform numbers u, in the order of `caffe_keys`. Kernels are
(2u - 1) sqrt(6 / fan_in), biases (2u - 1) / 20, and L2Norm's scales 15 + 10u. The image is drawn from the
next seed, RGB in 0..1. The network's input is 255 (image - mean).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    known_difference,
    merge,
)
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.ssd_recordings import BUILDERS
from detectors.commands.verify.streams import pcg
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs
from detectors.training.initial import parameter_names
from detectors.training.initial.ssd_ports import COCO_OUTPUTS, COCO_UNUSED, identify

MEAN = (0.48235, 0.45882, 0.40784)
RELATIVE = 1e-4  # of a level's standard deviation
RESIZE_RULES = {"torchvision": parameter_names.torchvision, "ssd_pytorch": parameter_names.ssd_pytorch}


def ssd_net_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One net_ssd<side>_*.npz."""
    yield Fixture(name.stem, partial(_net, folder.arrays(name), name.stem))


def name_maps(folder: Folder, name: Path) -> Iterator[Fixture]:
    """name_maps.json: for each program, its state dict keys -> Caffe's names.

    One entry holds the rows of COCO's classes in torchvision's head instead.
    """
    for program, names in folder.json(name).items():
        yield Fixture(f"{name.stem}/{program}", partial(_names, program, names))


def _net(arrays: Arrays, stem: str) -> Iterator[Comparison]:
    arrays.skip("transform_diff")
    match = re.match(r"net_ssd(\d+)_", stem)
    if match is None or int(match[1]) not in BUILDERS:
        raise ValueError(f"{stem}: the name must begin with net_ssd300_ or net_ssd512_")
    side = int(match[1])
    detector = BUILDERS[side](num_classes=int(arrays["num_classes"]) - 1).eval()
    yield from _fill(detector, arrays)
    if "keys" in arrays:
        rule = parameter_names.torchvision(len(arrays["level_stats"]))
        names = [rule.get(key) for key in arrays["keys"].tolist()]
        yield agree("torchvision's names", names, arrays["caffe_keys"].tolist())
    image = pcg(int(arrays["seed"]) + 1, 3 * side * side).astype(np.float32).reshape(1, 3, side, side)
    yield agree("image: sha256", hashlib.sha256(image.tobytes()).hexdigest(), str(arrays["img_sha256"]))
    yield compare_numbers("image: first numbers", image.ravel()[:8], arrays["img_head"], EXACT)
    pixels = 255 * (torch.from_numpy(image) - torch.tensor(MEAN).view(1, 3, 1, 1))
    with torch.no_grad():
        maps = detector.neck(detector.backbone(pixels))
        outputs = detector.head(maps)
    levels = detector.grid((side, side)).levels
    counts = [level.num_anchors for level in levels]
    yield _level_statistics(outputs, arrays["level_stats"], counts)
    yield from _samples(outputs, arrays, counts)
    yield from _maps(maps, arrays["feat_stats"])


def _fill(detector: Detector, arrays: Arrays) -> Iterator[Comparison]:
    """Draws and sets every parameter, and compares the recorded shapes, names, hashes and first numbers."""
    state = {parameter_names.ours(name): tensor for name, tensor in detector.state_dict().items()}
    keys = arrays["caffe_keys"].tolist()
    shapes = [ast.literal_eval(shape) for shape in arrays["shapes"].tolist()]
    shapes_agree = [list(state[key].shape) for key in keys] == [list(shape) for shape in shapes]
    yield compare_numbers("shapes of the parameters", shapes_agree, True, EXACT)
    yield agree("names of the parameters", set(state), set(keys))
    stream = pcg(int(arrays["seed"]), sum(int(np.prod(shape)) for shape in shapes))
    position = 0
    digests = []
    heads = []
    for key, shape in zip(keys, shapes, strict=True):
        values = _scaled(stream[position : position + int(np.prod(shape))], key, shape)
        position += len(values)
        digests.append(hashlib.sha256(values.tobytes()).hexdigest()[:16])
        heads.append(values[:4])
        state[key].copy_(torch.from_numpy(values).view(shape))
    yield agree("parameters: sha256", digests, arrays["wsha"].tolist())
    yield compare_numbers("parameters: first numbers", np.stack(heads), arrays["whead"], EXACT)


def _scaled(uniform: np.ndarray, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform numbers in [0, 1) -> a parameter's values, float32, flat."""
    if key.endswith(".scale"):
        return (15 + 10 * uniform).astype(np.float32)
    bound = np.sqrt(6 / np.prod(shape[1:])) if len(shape) == 4 else 0.05
    return ((2 * uniform - 1) * bound).astype(np.float32)


def _level_statistics(outputs: HeadOutputs, recorded: np.ndarray, counts: list[int]) -> Comparison:
    """The head's raw outputs, level by level.

    recorded: (levels, 10) mean, std, min, max, L2 of loc, then of conf. counts: default boxes of each level.
    """
    comparisons = []
    for kind, tensor, columns in (
        ("loc", outputs.offsets, slice(0, 5)),
        ("conf", outputs.class_logits, slice(5, 10)),
    ):
        levels = zip(tensor[0].split(counts), recorded[:, columns], strict=True)
        for n, (level, expected) in enumerate(levels):
            title = f"{kind} of level {n}"
            statistics = _statistics(level)
            tolerance = Tolerance(absolute=RELATIVE * expected[1])
            norm_tolerance = Tolerance(relative=RELATIVE)
            comparisons.append(compare_numbers(title, statistics[:4], expected[:4], tolerance))
            comparisons.append(compare_numbers(f"{title}: L2", statistics[4], expected[4], norm_tolerance))
    merged = merge(f"{len(counts)} levels: mean, std, min, max, L2", comparisons)
    return replace(merged, tolerance="1e-04 x std of the level")


def _samples(outputs: HeadOutputs, arrays: Arrays, counts: list[int]) -> Iterator[Comparison]:
    """The head's raw outputs at the recorded default boxes, divided by the std of their level."""
    anchors = torch.from_numpy(arrays["sample_priors"])
    for key, tensor, column in (("sample_loc", outputs.offsets, 1), ("sample_conf", outputs.class_logits, 6)):
        std = np.repeat(arrays["level_stats"][:, column], counts)[anchors.numpy()][:, None]
        ours = tensor[0, anchors].double().numpy() / std
        comparison = compare_numbers(key, ours, arrays[key] / std, Tolerance(absolute=RELATIVE))
        yield replace(comparison, tolerance="1e-04 x std of the level")


def _maps(maps: list[Tensor], recorded: np.ndarray) -> Iterator[Comparison]:
    """The feature maps that the head reads.

    recorded: (levels, 4) mean, sample standard deviation, largest |x|, fraction of zeros.
    """
    rows = []
    for feature_map in maps:
        x = feature_map.double()
        zeros = (x == 0).double().mean().item()
        rows.append([x.mean().item(), x.std().item(), x.abs().max().item(), zeros])
    ours = np.array(rows)
    std = recorded[:, 1]
    for n, name in enumerate(("mean", "std", "largest")):
        comparison = compare_numbers(
            f"maps: {name}", ours[:, n] / std, recorded[:, n] / std, Tolerance(absolute=RELATIVE)
        )
        yield replace(comparison, tolerance="1e-04 x std of the map")
    # Rounding decides on which side of the ReLU's 0 a tiny number falls.
    zeros_tolerance = Tolerance(absolute=2e-4)
    yield compare_numbers("maps: fraction of zeros", ours[:, 3], recorded[:, 3], zeros_tolerance)


def _statistics(level: Tensor) -> list[float]:
    """Mean, std, min, max, L2."""
    x = level.double()
    return [x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item(), x.norm().item()]


def _names(program: str, names: Any) -> Iterator[Comparison]:
    if program == "coco91_rows_for_81":
        rows = [row for row in range(COCO_OUTPUTS) if row not in COCO_UNUSED]
        yield agree("rows of COCO's classes", rows, names)
    elif program in RESIZE_RULES:
        levels = sum(caffe.endswith("_mbox_loc.weight") for caffe in names.values())
        yield agree("names", RESIZE_RULES[program](levels), dict(names))
    else:
        levels = sum(caffe.endswith("_mbox_loc.weight") for caffe in names.values())
        comparisons = [
            agree("recognised as a file of", identify(names), None),
            agree("Caffe's names", set(names.values()), set(parameter_names.torchvision(levels).values())),
        ]
        yield known_difference(
            merge("names", comparisons), f"files of {program} are not read here; the network is the same"
        )
