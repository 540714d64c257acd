"""Darknet's networks, layer by layer.

- net.json: small cfgs
- full.json: the original cfgs at their full size
- weights.json: weights files with both kinds of header

Parameters and inputs are stored as seeds (streams.py). Keys gpu/... and cpu/... are Darknet's two builds,
which differ in batch norm. layer_mean_std_min_max has one row for each layer, over the whole batch, with the
population standard deviation.
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

from detectors.commands.verify import darknet_models, region_decoding
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
# 1e-5 is the recordings' own tolerance. The relative part is for the few largest values of a deep network:
# because Darknet computes in float32, they differ from a computation in float64 by up to 2.5e-6 of the value.
LAYERS = Tolerance(absolute=1e-5, relative=3e-6)


def small(folder: Folder, name: Path) -> Iterator[Fixture]:
    """net.json, and one npz for each of its cases."""
    for case, settings in folder.json(name).items():
        arrays = name.with_name(f"{name.stem}_{case}.npz")
        yield Fixture(f"{name.stem}/{case}", partial(_small, folder, name, settings, arrays))


def full(folder: Folder, name: Path) -> Iterator[Fixture]:
    """full.json, and one npz for all of its cases."""
    return folder.fixtures(name, partial(_full, folder, name))


def weights_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """weights.json, and the files in weights/."""
    for case, settings in folder.json(name).items():
        yield Fixture(f"{name.stem}/{case}", partial(_weights, folder, name, case, settings))


def config_of(folder: Folder, name: Path, case: Settings) -> DarknetCfg:
    """The cfg that a case names, relative to its JSON file."""
    return read_cfg(folder.path(name.parent / case["cfg"]))


def parameters_of(case: Settings, config: DarknetCfg) -> Iterator[Comparison | np.ndarray]:
    """Yields comparisons of the parameters with the case and the cfg; last, the parameters themselves.

    The parameters are float32 (n,), the body of a .weights file.
    """
    with torch.device("meta"):
        layers = convolutions(DarknetNetwork(config))
    shapes = [
        [
            layer.conv.out_channels,
            layer.conv.in_channels,
            layer.conv.kernel_size[0],
            int(layer.norm is not None),
        ]
        for layer in layers
    ]
    yield compare_numbers("convolutions of the cfg", shapes, case["convs"], EXACT)
    stream = darknet_parameters(case["convs"], case["weight_seed"])
    yield agree("parameters: count", [config.parameters, len(stream)], [case["params"]] * 2)
    yield agree("parameters: sha256", hashlib.sha256(stream.tobytes()).hexdigest(), case["stream_sha256"])
    yield stream


def loaded_network(
    config: DarknetCfg, stream: np.ndarray, build: str = "gpu", seen: int = 0
) -> DarknetNetwork:
    """The cfg's network in evaluation mode, its parameters loaded through a .weights file.

    build: whose batch norm to use, "gpu" or "cpu". seen: the images seen, for the file's header.
    """
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
            network = loaded_network(config, stream, build)
            outputs = network.outputs(images)
        recorded = arrays.under(build)
        yield from _layers(build, outputs, recorded)
        if build == "gpu":
            for layer, output in darknet_models.model_classes(network, images).items():
                title = f"model=darknet19_classifier: {layer}"
                yield compare_numbers(title, output, recorded[layer].reshape(output.shape), LAYERS)
        if build == "gpu" and case.get("dets"):
            raw = outputs[-2][:1]  # the region layer's input; Darknet's boxes are those of the first image
            for k, det in enumerate(case["dets"]):
                yield from region_decoding.compare_detections(
                    raw, config.region, tuple(images.shape[-2:]), det, recorded.under(f"det{k}"), f"det{k}"
                )


def _images(case: Settings, config: DarknetCfg, batch: int) -> Tensor:
    """(batch, C, H, W), at the case's size if it has one, else at the cfg's."""
    size = (case.get("height", config.net.height), case.get("width", config.net.width))
    return torch.from_numpy(darknet_images(case["input_seed"], batch, config.net.channels, *size))


def _layers(build: str, outputs: list[Tensor], recorded: Arrays) -> Iterator[Comparison]:
    """The statistics of every layer, and all values of the layers that are stored in full."""
    yield _compare_statistics(build, outputs, recorded)
    compared = []
    for key in recorded:
        if match := re.fullmatch(r"layer(\d+)", key):
            output = outputs[int(match[1])]
            compared.append(compare_numbers(key, _like(output, recorded[key]), recorded[key], LAYERS))
    if compared:
        yield merge(f"{build} values of {len(compared)} layers", compared)


def _compare_statistics(build: str, outputs: list[Tensor], recorded: Arrays) -> Comparison:
    """Mean, standard deviation, minimum and maximum of every layer, computed in float64."""
    rows = []
    for output in outputs:
        x = output.double()
        rows.append([x.mean().item(), x.std(correction=0).item(), x.min().item(), x.max().item()])
    title = f"{build} all {len(outputs)} layers: statistics"
    return compare_numbers(title, np.array(rows), recorded["layer_mean_std_min_max"], LAYERS)


def _like(output: Tensor, recorded: np.ndarray) -> Tensor:
    """The output in the recorded shape: a classifier's may be stored without its axes of size 1."""
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
        network = loaded_network(config, stream, build)
        with torch.no_grad():
            outputs = network.outputs(images)
        yield from _full_layers(build, outputs, arrays)
        if build == "gpu":
            for layer, output in darknet_models.model_classes(network, images).items():
                values = output.flatten()[torch.from_numpy(arrays[f"{layer}_index"].astype(np.int64))]
                recorded = arrays.under(build)[f"{layer}_value"]
                yield compare_numbers(f"model=darknet19_classifier: {layer}", values, recorded, LAYERS)
        if build == "gpu" and case.get("dets"):
            yield from _best_detections(outputs[-2], config, case["dets"], arrays)
            yield from darknet_models.model_detections(network, images, case["dets"], arrays)


def _full_layers(build: str, outputs: list[Tensor], arrays: Arrays) -> Iterator[Comparison]:
    """The statistics of every layer, and the layers' values at the stored places."""
    recorded = arrays.under(build)
    yield _compare_statistics(build, outputs, recorded)
    for key in recorded:
        if key.endswith("_value"):
            layer = key.removesuffix("_value")
            index = arrays[f"{layer}_index"].astype(np.int64)
            values = outputs[int(layer.removeprefix("layer"))].flatten()[torch.from_numpy(index)]
            yield compare_numbers(f"{build} {layer}: {len(index)} values", values, recorded[key], LAYERS)


def _best_detections(raw: Tensor, config: DarknetCfg, det: Settings, arrays: Arrays) -> Iterator[Comparison]:
    """The best detections after suppression: box number and class, score, box."""
    settings = config.region
    size = (config.net.height, config.net.width)
    before = region_decoding.detected_scores(raw, settings, size, det["thresh"], nms_iou=1.0)
    after = region_decoding.detected_scores(raw, settings, size, det["thresh"], nms_iou=det["nms"])
    yield compare_numbers(
        "detections: before and after NMS",
        [len(before), len(after)],
        [det["n_prob"], det["n_prob_nms"]],
        EXACT,
    )
    pairs = [tuple(pair) for pair in arrays["det_top_idx"].tolist()]  # (box number, class)
    best = dict(sorted(after.items(), key=lambda entry: -entry[1])[: len(pairs)])
    recorded = dict(zip(pairs, arrays["det_top_prob"].tolist(), strict=True))
    yield from region_decoding.compare_scores(f"{len(pairs)} best detections", best, recorded)
    boxes = region_decoding.framed_boxes(raw, settings, size, det)[[number for number, _ in pairs]]
    yield compare_numbers(
        f"{len(pairs)} best detections: boxes",
        boxes,
        arrays["det_top_box"],
        region_decoding.box_tolerance(det),
    )


def _weights(folder: Folder, name: Path, file: str, case: Settings) -> Iterator[Comparison]:
    """Reads a weights file, compares its parameters with the stream, and writes it again."""
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
    network = DarknetNetwork(config)
    report = load_weights(network, path)
    numbers = np.concatenate([t.detach().numpy().ravel() for layer in report.loaded for t in layer.tensors()])
    yield compare_numbers("parameters as loaded", numbers, stream, EXACT)
    with tempfile.TemporaryDirectory() as temporary:
        save_weights(network, Path(temporary) / file, header=header)
        written = (Path(temporary) / file).read_bytes()
    yield agree("written again: bytes", hashlib.sha256(written).hexdigest(), hashlib.sha256(data).hexdigest())
