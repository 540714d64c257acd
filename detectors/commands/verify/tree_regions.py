"""Darknet's region layer with a tree: region_tree_train.json, region_tree_decode.json and cfg.json.

A row of `truth` whose x and y are above 100,000 says that of its image only the label is known: a node, in
place of a class. The first such row of an image counts, and nothing else of that image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from detectors.coders import YoloBoxCoder
from detectors.commands.verify import darknet_nets, region_decoding, region_layer, streams
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, agree, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.commands.verify.tree_recordings import tree_of, walked
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.region import darknet_index, head_outputs, region_matcher
from detectors.darknet.sections import DarknetCfg, Region
from detectors.darknet.weights import convolutions
from detectors.targets import TargetEncoder
from detectors.wordtree.tree_files import read_map
from detectors.wordtree.tree_softmax import TreeSoftmax

DARKNET_MAP = 200  # entries of a data file's map that get_region_detections reads
NET_KEYS = {"w": "width", "h": "height", "c": "channels", "batch": "batch", "subdivisions": "subdivisions"}
NET_KEYS |= {"max_batches": "max_batches", "burn_in": "burn_in"}
REGION_KEYS = ("classes", "softmax", "rescore", "bias_match", "random", "thresh", "jitter")
REGION_KEYS += ("coord_scale", "object_scale", "noobject_scale", "class_scale")


def tree_training(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_tree_train.json, and its npz."""
    return folder.fixtures(name, partial(_training, folder, name))


def tree_decoding(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_tree_decode.json, and its npz."""
    return folder.fixtures(name, partial(_decoding, folder, name))


def tree_cfgs(folder: Folder, name: Path) -> Iterator[Fixture]:
    """cfg.json, and its npz."""
    return folder.fixtures(name, partial(_cfg, folder, name))


def _region(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Region:
    tree = tree_of(folder, name, case)
    nodes = case.get("map")
    region = region_layer.region_settings(case, arrays["anchors"])
    return replace(region, tree=tree, map=None if nodes is None else tuple(nodes))


def _training(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    region = _region(folder, name, case, arrays)
    yield from region_layer.training_comparisons(region, case, arrays)
    raw = torch.from_numpy(arrays["input"])
    cells = (case["H"], case["W"])
    targets = region_layer.region_targets(arrays["truth"], cells, tagged=True)
    outputs = head_outputs(raw, region)
    grid = region_layer.cell_grid(region, cells)
    encoded = TargetEncoder(region_matcher(region), YoloBoxCoder())(targets, grid, outputs)
    loss = region_layer.seen_loss(region, seen=case["seen"], batch=case["batch"])
    chosen = loss.tree.labelled_images(outputs, encoded, grid)
    yield agree("class_only", chosen.labelled.tolist(), list(case["class_only"]))
    numbers = darknet_index(chosen.anchor, cells, len(region.anchors)).tolist()
    ours = [(image, numbers[image]) for image in chosen.labelled.nonzero()[:, 0].tolist()]
    recorded = [(choice["image"], choice["index"]) for choice in case["class_only_chosen"]]
    yield agree("class_only_chosen", ours, recorded)


def _decoding(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    region = _region(folder, name, case, arrays)
    raw = torch.from_numpy(arrays["input"])
    yield compare_numbers("output", region_layer.activate(raw, region), arrays["output"], region_layer.VALUES)
    yield compare_numbers("absolute", _absolute(raw, region), arrays["absolute"], region_layer.VALUES)
    for k, det in enumerate(case["dets"]):
        yield from _detections(folder, name, raw, region, (case["neth"], case["netw"]), det, arrays, k)


def _absolute(raw: torch.Tensor, region: Region) -> torch.Tensor:
    """The layer's output with Pr(node) in place of Pr(node | parent), in Darknet's layout."""
    output = region_layer.activate(raw, region).unflatten(1, (len(region.anchors), -1))
    logits = raw.unflatten(1, (len(region.anchors), -1))[:, :, 5:].movedim(2, -1)
    output[:, :, 5:] = TreeSoftmax(region.tree).log_probabilities(logits).exp().movedim(-1, 2)
    return output.flatten(1, 2)


def _detections(
    folder: Folder,
    name: Path,
    raw: torch.Tensor,
    region: Region,
    size: tuple[int, int],
    det: Settings,
    arrays: Arrays,
    k: int,
) -> Iterator[Comparison]:
    """One image. With a map, the recording's classes are positions in it, and ours are nodes."""
    recorded = arrays.under(f"det{k}")
    scores = {"threshold": det["tree_thresh"]}
    labels = None
    if det.get("map"):
        labels = read_map(folder.path(name.parent / det["map"]), region.tree)[:DARKNET_MAP]
        scores["detection_map"] = labels
    elif "top" in recorded:
        outputs = head_outputs(raw, region)
        top = walked(TreeSoftmax(region.tree), outputs.class_logits[0], det["tree_thresh"], twice=True)
        places = darknet_index(torch.arange(len(top)), tuple(raw.shape[-2:]), len(region.anchors))
        yield compare_numbers(f"det{k} top", top, recorded["top"][places.numpy()], EXACT)
    yield from region_decoding.compare_detections(
        raw, region, size, det, recorded, f"det{k}", labels=labels, **scores
    )


def _cfg(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    config = darknet_nets.config_of(folder, name, case)
    for named in config.contents:
        folder.path(name.parent / named)  # it was read
    region = config.region
    net = {key: getattr(config.net, ours) for key, ours in NET_KEYS.items()}
    yield agree("net", net, {key: case["net"][key] for key in net})
    layer = config.layers[-1]
    tree = getattr(layer.settings, "tree", None)
    if case["tree"] is not None:
        yield agree("tree", tree, tree_of(folder, name, case))
    sizes = [len(tree), tree.groups] if tree else [0, 0]
    yield agree("nodes, groups", sizes, [case["last_layer"]["tree_n"], case["last_layer"]["tree_groups"]])
    yield agree("type", f"type of last layer: {layer.kind}", case["reading"])
    if region is not None:
        yield from _region_keys(region, case)
    yield from _cfg_outputs(case, config, arrays)


def _region_keys(region: Region, case: Settings) -> Iterator[Comparison]:
    last = case["last_layer"]
    ours = [float(getattr(region, key)) for key in REGION_KEYS]
    yield compare_numbers(
        "region", np.array(ours, np.float32), [last[key] for key in REGION_KEYS], region_layer.VALUES
    )
    yield compare_numbers("anchors", np.array(region.anchors).ravel(), case["anchors"], region_layer.VALUES)
    yield agree("map", list(region.map or ()), list(case["map"] or ()))


def _cfg_outputs(case: Settings, config: DarknetCfg, arrays: Arrays) -> Iterator[Comparison]:
    """The layers' outputs with made-up weights, and the detections."""
    with torch.device("meta"):
        layers = convolutions(DarknetNetwork(config))
    shapes = [[*layer.conv.weight.shape[:3], int(layer.norm is not None)] for layer in layers]
    yield compare_numbers("convolutions", shapes, case["convs"], EXACT)
    yield agree("parameters", config.parameters, case["parameters"])
    stream = streams.darknet_parameters(case["convs"], case["weight_seed"])
    network = darknet_nets.loaded_network(config, stream)
    size = (config.net.height, config.net.width)
    images = torch.from_numpy(streams.darknet_images(case["input_seed"], 1, config.net.channels, *size))
    with torch.no_grad():
        outputs = network.outputs(images)
    for key, output in (("before_last", outputs[-2]), ("output", outputs[-1])):
        if key in arrays:
            recorded = arrays[key]
            yield compare_numbers(key, output.reshape(recorded.shape), recorded, region_layer.VALUES)
    for k, det in enumerate(case.get("dets", [])):
        yield from region_decoding.compare_detections(
            outputs[-2],
            config.region,
            size,
            det,
            arrays.under(f"det{k}"),
            f"det{k}",
            **({} if config.region.tree is None else {"threshold": det["tree_thresh"]}),
        )
