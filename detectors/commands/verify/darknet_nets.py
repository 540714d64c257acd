"""Darknet's networks, layer by layer: net (small cfgs), full (the original cfgs at their size), weights
(files with both headers).

Parameters and inputs are stored as seeds (streams.py). Keys: gpu/... and cpu/... are Darknet's two builds,
which differ in batch norm; layer_mean_std_min_max has a row for each layer, over the whole batch and with the
population's standard deviation.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.commands.verify import region_layer
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    merge,
)
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.commands.verify.streams import darknet_images, darknet_parameters
from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.sections import DarknetCfg
from detectors.darknet.weights import Header, convolutions, load_weights, read_header, save_weights

BUILDS = ("gpu", "cpu")
# 1e-5 is the recordings' own tolerance. Darknet's float32 alone brings the few largest values of a deep net
# up to 2.5e-6 of their size away from a computation in float64, hence the second part.
LAYERS = Tolerance(absolute=1e-5, relative=3e-6)


def small(folder: Folder, name: Path) -> Iterator[Fixture]:
    """net.json and one npz for each of its cases"""
    for case, settings in folder.json(name).items():
        arrays = name.with_name(f"{name.stem}_{case}.npz")
        yield Fixture(f"{name.stem}/{case}", partial(_small, folder, name, settings, arrays))


def full(folder: Folder, name: Path) -> Iterator[Fixture]:
    """full.json"""
    cases = folder.json(name)
    arrays = folder.arrays(name.with_suffix(".npz"))
    for case, settings in cases.items():
        yield Fixture(f"{name.stem}/{case}", partial(_full, folder, name, settings, arrays.under(case)))


def weights_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """weights.json and the files in weights/"""
    for case, settings in folder.json(name).items():
        yield Fixture(f"{name.stem}/{case}", partial(_weights, folder, name, case, settings))


def config_of(folder: Folder, name: Path, case: Settings) -> DarknetCfg:
    """The cfg that a case names, relative to its JSON file."""
    return read_cfg(folder.path(name.parent / case["cfg"]))


def parameters_of(case: Settings, config: DarknetCfg) -> Iterator[Comparison | np.ndarray]:
    """First the comparisons of the stream with what the case and the cfg say of it, last the stream itself: a
    .weights file's body.
    """
    with torch.device("meta"):
        layers = convolutions(DarknetNetwork(config))
    shapes = [
        [c.conv.out_channels, c.conv.in_channels, c.conv.kernel_size[0], int(c.norm is not None)]
        for c in layers
    ]
    yield compare_numbers("convolutions of the cfg", shapes, case["convs"], EXACT)
    stream = darknet_parameters(case["convs"], case["weight_seed"])
    yield agree("parameters: count", [config.parameters, len(stream)], [case["params"]] * 2)
    yield agree("parameters: sha256", hashlib.sha256(stream.tobytes()).hexdigest(), case["stream_sha256"])
    yield stream


def loaded_network(
    config: DarknetCfg, stream: np.ndarray, build: str = "gpu", seen: int = 0
) -> DarknetNetwork:
    """The cfg's network, filled through a .weights file."""
    network = DarknetNetwork(config, batch_norm=build)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.weights"
        with path.open("wb") as file:
            file.write(Header(seen=seen).to_bytes())
            stream.tofile(file)
        load_weights(network, path)
    return network.eval()


def _small(folder: Folder, name: Path, case: Settings, file: Path) -> Iterator[Comparison]:
    arrays = folder.arrays(file)
    config = config_of(folder, name, case)
    *checks, stream = parameters_of(case, config)
    yield from checks
    images = _images(case, config, case["batch"])
    for build in BUILDS:
        with torch.no_grad():
            net = loaded_network(config, stream, build)
            outputs = net.outputs(images)
        recorded = arrays.under(build)
        yield from _layers(build, outputs, recorded)
        if build == "gpu":
            raw = (
                _raw(net, images)[:1] if config.region else None
            )  # Darknet's boxes are those of the first image
            for k, det in enumerate(case.get("dets", ())):
                yield from region_layer.detections(
                    raw, config.region, tuple(images.shape[-2:]), det, recorded.under(f"det{k}"), f"det{k}"
                )


def _images(case: Settings, config: DarknetCfg, batch: int) -> Tensor:
    size = (case.get("height", config.net.height), case.get("width", config.net.width))
    return torch.from_numpy(darknet_images(case["input_seed"], batch, config.net.channels, *size))


@torch.no_grad()
def _raw(net: DarknetNetwork, images: Tensor) -> Tensor:
    return net.raw(images)


def _layers(build: str, outputs: list[Tensor], recorded: Arrays) -> Iterator[Comparison]:
    """Every layer's statistics, and all values of those layers that are stored whole."""
    yield compare_numbers(
        f"{build} all {len(outputs)} layers: statistics",
        _statistics(outputs),
        recorded["layer_mean_std_min_max"],
        LAYERS,
    )
    stored = {key: int(match[1]) for key in recorded if (match := re.fullmatch(r"layer(\d+)", key))}
    compared = [
        compare_numbers(key, _like(outputs[n], recorded[key]), recorded[key], LAYERS)
        for key, n in stored.items()
    ]
    if compared:
        yield merge(f"{build} values of {len(compared)} layers", compared)


def _statistics(outputs: list[Tensor]) -> np.ndarray:
    """(layers, 4) mean, std, min, max"""
    wide = [x.double() for x in outputs]
    return np.array(
        [[x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item()] for x in wide]
    )


def _like(output: Tensor, recorded: np.ndarray) -> Tensor:
    """A classifier's outputs may be stored with or without the axes of size 1."""
    return output.reshape(recorded.shape) if output.numel() == recorded.size else output


def _full(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    config = config_of(folder, name, case)
    *checks, stream = parameters_of(case, config)
    yield from checks
    ends = np.concatenate([stream[:8], stream[-4:]])
    yield compare_numbers(
        "parameters: first and last", ends, np.array([*case["first8"], *case["last4"]], np.float32), EXACT
    )
    lengths = [Header(*version).size + 4 * len(stream) for version in ((0, 2), (0, 1))]
    yield compare_numbers(
        "lengths of the files", lengths, [case["file_bytes_hdr2"], case["file_bytes_hdr1"]], EXACT
    )
    images = _images(case, config, 1)
    for build in BUILDS:
        net = loaded_network(config, stream, build)
        with torch.no_grad():
            outputs = net.outputs(images)
        recorded = arrays.under(build)
        statistics = _statistics(outputs)
        yield compare_numbers(
            f"{build} all {len(outputs)} layers: statistics",
            statistics,
            recorded["layer_mean_std_min_max"],
            LAYERS,
        )
        for key in [key for key in recorded if key.endswith("_value")]:
            index = arrays[key.replace("_value", "_index")].astype(np.int64)
            values = outputs[int(key[len("layer") :].removesuffix("_value"))].flatten()[
                torch.from_numpy(index)
            ]
            yield compare_numbers(
                f"{build} {key.removesuffix('_value')}: {len(index)} values", values, recorded[key], LAYERS
            )
        if build == "gpu" and case.get("dets"):
            yield from _best(_raw(net, images), config, case["dets"], arrays)


def _best(raw: Tensor, config: DarknetCfg, det: Settings, arrays: Arrays) -> Iterator[Comparison]:
    """The best detections after suppression; box number and class, score, box."""
    settings, size = config.region, (config.net.height, config.net.width)
    before = region_layer.scores(raw, settings, size, det["thresh"], nms_iou=1.0)
    after = region_layer.scores(raw, settings, size, det["thresh"], nms_iou=det["nms"])
    yield compare_numbers(
        "detections: before and after NMS",
        [len(before), len(after)],
        [det["n_prob"], det["n_prob_nms"]],
        EXACT,
    )
    index = [tuple(pair) for pair in arrays["det_top_idx"].tolist()]
    best = dict(sorted(after.items(), key=lambda entry: -entry[1])[: len(index)])
    recorded = dict(zip(index, arrays["det_top_prob"].tolist(), strict=True))
    yield from region_layer.compare_scores(f"{len(index)} best detections", best, recorded)
    boxes = region_layer.framed_boxes(raw, settings, size, det)[[number for number, _ in index]]
    yield compare_numbers(
        f"{len(index)} best detections: boxes", boxes, arrays["det_top_box"], region_layer.box_tolerance(det)
    )


def _weights(folder: Folder, name: Path, file: str, case: Settings) -> Iterator[Comparison]:
    """Reads a file, compares its parameters with the stream, and writes it again."""
    config = config_of(folder, name, case)
    *checks, stream = parameters_of(case, config)
    yield from checks
    path = folder.path(name.parent / "weights" / file)
    data = path.read_bytes()
    header = read_header(path)
    yield compare_numbers(
        "header", [*header, header.size], [*case["header"], case["seen"], case["header_bytes"]], EXACT
    )
    yield agree("length", len(data), case["bytes"])
    if "sha256" in case:
        yield agree("sha256", hashlib.sha256(data).hexdigest(), case["sha256"])
    net = DarknetNetwork(config)
    report = load_weights(net, path)
    numbers = np.concatenate([t.detach().numpy().ravel() for layer in report.loaded for t in layer.tensors()])
    yield compare_numbers("parameters as loaded", numbers, stream, EXACT)
    with tempfile.TemporaryDirectory() as place:
        save_weights(net, Path(place) / file, header=header)
        written = (Path(place) / file).read_bytes()
    yield agree("written again: bytes", hashlib.sha256(written).hexdigest(), hashlib.sha256(data).hexdigest())
