"""SSD's networks with drawn parameters (net_ssd*.npz) and the names that other programs give to them
(name_maps.json).

Parameters come from one stream in the order of `caffe_keys`: kernels (2u - 1) sqrt(6 / fan_in), biases (2u -
1) / 20, L2Norm's scale 15 + 10 u. The image is drawn from the next seed, RGB of 0..1; the network takes 255
(image - mean).
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.commands.convert import parameter_names
from detectors.commands.convert.ssd_ports import COCO_OUTPUTS, COCO_UNUSED
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    absent,
    agree,
    compare_numbers,
    merge,
)
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.ssd_recordings import BUILDERS
from detectors.commands.verify.streams import pcg
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs

MEAN = (0.48235, 0.45882, 0.40784)
RELATIVE = 1e-4  # of a level's spread
RESIZE_RULES = {"torchvision": parameter_names.torchvision, "ssd_pytorch": parameter_names.ssd_pytorch}


def ssd_net_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One net_ssd<side>_*.npz"""
    yield Fixture(name.stem, partial(_net, folder.arrays(name), name.stem))


def name_maps(folder: Folder, name: Path) -> Iterator[Fixture]:
    """name_maps.json: state dict key -> Caffe's name, for several programs; torchvision's rows of COCO's
    classes.
    """
    for program, listed in folder.json(name).items():
        yield Fixture(f"{name.stem}/{program}", partial(_names, program, listed))


def _net(arrays: Arrays, stem: str) -> Iterator[Comparison]:
    arrays.skip("transform_diff")
    match = re.match(r"net_ssd(\d+)_", stem)
    if match is None or int(match[1]) not in BUILDERS:
        raise ValueError(f"{stem}: the name must tell which network it is, net_ssd300_... or net_ssd512_...")
    side = int(match[1])
    detector = BUILDERS[side](num_classes=int(arrays["num_classes"]) - 1).eval()
    yield from _fill(detector, arrays)
    if "keys" in arrays:
        rule = parameter_names.torchvision(len(arrays["level_stats"]))
        yield agree(
            "torchvision's names",
            [rule.get(key) for key in arrays["keys"].tolist()],
            arrays["caffe_keys"].tolist(),
        )
    image = pcg(int(arrays["seed"]) + 1, 3 * side * side).astype(np.float32).reshape(1, 3, side, side)
    yield agree("image: sha256", hashlib.sha256(image.tobytes()).hexdigest(), str(arrays["img_sha256"]))
    yield compare_numbers("image: first numbers", image.ravel()[:8], arrays["img_head"], EXACT)
    with torch.no_grad():
        maps = detector.neck(
            detector.backbone(255 * (torch.from_numpy(image) - torch.tensor(MEAN).view(1, 3, 1, 1)))
        )
        outputs = detector.head(maps)
    yield from _outputs(detector, outputs, maps, arrays, side)


def _fill(detector: Detector, arrays: Arrays) -> Iterator[Comparison]:
    """Sets every parameter, and compares what was drawn with the recording's hashes and first numbers."""
    state = {parameter_names.ours(name): tensor for name, tensor in detector.state_dict().items()}
    keys = arrays["caffe_keys"].tolist()
    shapes = [ast.literal_eval(shape) for shape in arrays["shapes"].tolist()]
    yield compare_numbers(
        "shapes of the parameters",
        [list(state[key].shape) for key in keys] == [list(s) for s in shapes],
        True,
        EXACT,
    )
    yield agree("names of the parameters", set(state), set(keys))
    stream = pcg(int(arrays["seed"]), sum(int(np.prod(s)) for s in shapes))
    place = 0
    digests = []
    heads = []
    for key, shape in zip(keys, shapes, strict=True):
        values = _scaled(stream[place : place + int(np.prod(shape))], key, shape)
        place += len(values)
        digests.append(hashlib.sha256(values.tobytes()).hexdigest()[:16])
        heads.append(values[:4])
        state[key].copy_(torch.from_numpy(values).view(shape))
    yield agree("parameters: sha256", digests, arrays["wsha"].tolist())
    yield compare_numbers("parameters: first numbers", np.stack(heads), arrays["whead"], EXACT)


def _scaled(uniform: np.ndarray, key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith(".scale"):
        return (15 + 10 * uniform).astype(np.float32)
    return ((2 * uniform - 1) * (np.sqrt(6 / np.prod(shape[1:])) if len(shape) == 4 else 0.05)).astype(
        np.float32
    )


def _outputs(
    detector: Detector, outputs: HeadOutputs, maps: list[Tensor], arrays: Arrays, side: int
) -> Iterator[Comparison]:
    """Raw head outputs level by level, at chosen default boxes, and the maps that the heads look at."""
    counts = [level.rows * level.columns * level.per_location for level in detector.grid((side, side)).levels]
    recorded = arrays["level_stats"]  # (levels, 10): mean, std, min, max, L2 of loc, then of conf
    compared = []
    for kind, tensor, columns in (
        ("loc", outputs.offsets, slice(0, 5)),
        ("conf", outputs.class_logits, slice(5, 10)),
    ):
        for n, (level, expected) in enumerate(
            zip(tensor[0].split(counts), recorded[:, columns], strict=True)
        ):
            tolerance = Tolerance(absolute=RELATIVE * expected[1])
            compared.append(
                compare_numbers(f"{kind} of level {n}", _statistics(level)[:4], expected[:4], tolerance)
            )
            compared.append(
                compare_numbers(
                    f"{kind} of level {n}: L2",
                    _statistics(level)[4],
                    expected[4],
                    Tolerance(relative=RELATIVE),
                )
            )
    yield _with_tolerance(
        merge(f"{len(counts)} levels: mean, std, min, max, L2", compared), "1e-04 x std of the level"
    )

    chosen = torch.from_numpy(arrays["sample_priors"])
    for key, tensor, column in (("sample_loc", outputs.offsets, 1), ("sample_conf", outputs.class_logits, 6)):
        spread = np.repeat(recorded[:, column], counts)[chosen.numpy()][:, None]
        comparison = compare_numbers(
            key,
            tensor[0, chosen].double().numpy() / spread,
            arrays[key] / spread,
            Tolerance(absolute=RELATIVE),
        )
        yield _with_tolerance(comparison, "1e-04 x std of the level")
    expected = arrays["feat_stats"]  # (levels, 4): mean, the sample's std, largest |x|, share of zeros
    wide = [x.double() for x in maps]
    features = np.array(
        [
            [x.mean().item(), x.std().item(), x.abs().max().item(), (x == 0).double().mean().item()]
            for x in wide
        ]
    )
    for n, name in enumerate(("mean", "std", "largest")):
        ours = features[:, n] / expected[:, 1]
        yield _with_tolerance(
            compare_numbers(
                f"maps: {name}", ours, expected[:, n] / expected[:, 1], Tolerance(absolute=RELATIVE)
            ),
            "1e-04 x std of the map",
        )
    zeros = Tolerance(absolute=2e-4)  # a number near 0 may be rounded to either side of the ReLU
    yield compare_numbers("maps: share of zeros", features[:, 3], expected[:, 3], zeros)


def _statistics(level: Tensor) -> list[float]:
    x = level.double()
    return [x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item(), x.norm().item()]


def _with_tolerance(comparison: Comparison, tolerance: str) -> Comparison:
    """The same with the tolerance in words."""
    return Comparison(**{**vars(comparison), "tolerance": tolerance})


def _names(program: str, listed) -> Iterator[Comparison]:
    if program == "coco91_rows_for_81":
        yield agree(
            "rows of COCO's classes", [n for n in range(COCO_OUTPUTS) if n not in COCO_UNUSED], listed
        )
    elif program in RESIZE_RULES:
        levels = sum(caffe.endswith("_mbox_loc.weight") for caffe in listed.values())
        yield agree("names", RESIZE_RULES[program](levels), dict(listed))
    else:
        yield absent("names", f"files of {program} are not read here")
