"""Converts Darknet's weights to checkpoints and back."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from detectors.anchors import YoloAnchors
from detectors.commands.convert.conversion import (
    WEIGHTS_HEADER,
    Conversion,
    Request,
    WeightSource,
    choices,
    chosen_class_names,
    configuration,
    fill,
    weights_only,
)
from detectors.config.check import check
from detectors.config.composing import composed, merged
from detectors.config.schema import Config
from detectors.darknet import sections
from detectors.darknet.cfg import read_cfg
from detectors.darknet.cfg_detector import darknet_detector
from detectors.darknet.region import region_loss_settings
from detectors.darknet.syntax import read_cfg_text
from detectors.darknet.weights import Header, LoadReport, load_weights, save_weights
from detectors.models.backbones import own_parts
from detectors.models.classifier import Classifier
from detectors.models.darknet19 import Darknet19, TinyDarknet
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint
from detectors.training.initial.weight_files import PARTIAL_FILE
from detectors.wordtree.tree_files import readable_names, tree_text


def from_darknet(request: Request) -> Conversion:
    """A .weights file in the network of its cfg, or in our network with the same layers (request.model).

    A file that ends early, such as darknet19_448.conv.23, is a backbone; its name or request.partial says so.
    ValueError if the weights do not fit, or if our network does not compute the same as the cfg's.
    """
    cfg = None if request.cfg is None else read_cfg(request.cfg)
    for line in (*cfg.notes, *cfg.unused) if cfg else ():
        sys.stderr.write(f"note: {line}\n")
    region = cfg and cfg.region
    if request.model is None and region is None:
        problem = "Darknet's weights do not say which network they belong to"
        if cfg is not None:
            problem = f"{request.cfg} has no [region], so it is not a detector"
        raise ValueError(
            f"{request.source}: {problem}; "
            "give the detector's --cfg FILE, or --model with a yaml of conf/model that has the same layers"
        )
    names = _class_names(request, region)
    config = darknet_configuration(request, names, cfg)
    classes = region.classes if region else len(names)
    detector = assemble.build_detector(config, classes)
    partial = request.partial or PARTIAL_FILE.search(request.source.name) is not None
    report = load_weights(detector, request.source, partial=partial)
    if region and request.model and not report.unchanged:
        _check_same_outputs(detector, request, classes)
    transfer = fill(config, names, _weight_source(detector, report, classes), request)
    notes = [
        next(report.lines()),
        f"{len(report.loaded)} convolutions loaded, {len(report.unchanged)} unchanged -> {config.name}",
    ]
    progress = dict(zip(WEIGHTS_HEADER, report.header, strict=False))
    progress["images_seen"] = report.header.seen
    return Conversion(weights_only(request, config, names, transfer, **progress), transfer, notes)


def _class_names(request: Request, region: sections.Region | None) -> tuple[str, ...]:
    """The names of a tree are the tree's, or those of a file in which they may repeat."""
    if region is None or region.tree is None:
        return chosen_class_names(request, region and region.classes)
    return region.tree.names if request.names is None else readable_names(Path(request.names), region.tree)


def _weight_source(detector: Detector, report: LoadReport, classes: int) -> WeightSource:
    """The loaded part of a detector."""
    unchanged = tuple(f"{layer.name}." for layer in report.unchanged)
    tensors = {
        name: tensor for name, tensor in detector.state_dict().items() if not name.startswith(unchanged)
    }
    origins = dict.fromkeys(tensors, "the header")
    for n, layer in enumerate(report.loaded, 1):
        for name in tensors:
            if name.startswith(f"{layer.name}."):
                origins[name] = f"convolution {n}"
    return WeightSource("the file", None if unchanged else classes, tensors, origins, key=str)


def darknet_configuration(
    request: Request, names: tuple[str, ...], cfg: sections.DarknetCfg | None
) -> Config:
    """The configuration of the chosen model, or of a detector that contains the cfg.

    Input size, anchors and loss are the cfg's, if there is one.
    """
    if cfg is not None:
        size = f"input.size=[{cfg.net.height},{cfg.net.width}]"
        request = replace(request, overrides=[size, *request.overrides])
    if request.model is not None:
        settings = {}
        if cfg is not None and cfg.region is not None:
            settings["anchors"] = [list(anchor) for anchor in cfg.region.anchors]
        return configuration(request, request.model, names, settings)
    # Overrides of model and loss come last, since the cfg replaces both.
    late = [
        override for override in request.overrides if override.lstrip("+").startswith(("model.", "loss."))
    ]
    early = [override for override in request.overrides if override not in late]
    model = {
        "_target_": "detectors.darknet.cfg_detector.darknet_detector",
        "cfg": read_cfg_text(request.cfg),
        "score_threshold": 0.005,
        "nms_iou": 0.45,
    }
    if cfg.contents:
        model["contents"] = dict(cfg.contents)
    base = composed(choices(replace(request, overrides=early), "yolov2", names))
    loss = base["loss"] | region_loss_settings(cfg.region)
    if cfg.region.tree is not None:
        base["data"] = base["data"] | {"tree": tree_text(cfg.region.tree)}
    return check(merged(base | {"name": request.cfg.stem, "model": model, "loss": loss}, late))


def _check_same_outputs(detector: Detector, request: Request, classes: int) -> None:
    """ValueError unless our detector and the cfg's layers, with these weights, agree on random pixels."""
    contents = read_cfg(request.cfg).contents  # of files that lie beside it
    reference = darknet_detector(num_classes=classes, cfg=read_cfg_text(request.cfg), contents=contents)
    load_weights(reference, request.source)
    size = [cells * reference.anchors.stride for cells in (3, 4)]
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        outputs = _concatenate(detector.eval()(images))
        expected = _concatenate(reference.eval()(images))
    difference = (outputs - expected).abs().max() if outputs.shape == expected.shape else torch.inf
    if not difference <= 1e-3 * (1 + expected.abs().max()):
        raise ValueError(
            f"{request.model} is not the network of {request.cfg} (outputs differ by {difference:.3g}); "
            "choose another --model, or none"
        )


def _concatenate(outputs: HeadOutputs) -> Tensor:
    """(B, A, 5 + C)"""
    return torch.cat([outputs.offsets, outputs.objectness[..., None], outputs.class_logits], -1)


def _is_darknets(network: Detector | Classifier) -> bool:
    if isinstance(network, Classifier):
        return isinstance(network.backbone, Darknet19 | TinyDarknet)
    return isinstance(network.anchors, YoloAnchors) and bool(own_parts(network.backbone))


def to_darknet(checkpoint: Checkpoint) -> list[str]:
    """Writes checkpoint.path as a .weights file. Header version: its source's, else 0.2 (20 bytes).

    ValueError for a network that Darknet does not have.
    """
    network, config = assemble.load_network(checkpoint, torch.device("cpu"))
    if not _is_darknets(network):
        raise ValueError(
            f"{config.name} is not a Darknet network: only the YOLOv2 family and its classifier, with "
            "Darknet's own backbones, can be written as .weights"
        )
    version = []
    if all(key in checkpoint.progress for key in WEIGHTS_HEADER):
        version = [int(checkpoint.progress[key]) for key in WEIGHTS_HEADER]
    seen = int(checkpoint.progress.get("images_seen", 0))
    header = Header(*version, seen=seen) if version else Header(seen=seen)
    save_weights(network, checkpoint.path, header=header)
    version_text = f"{header.major}.{header.minor}"
    return [f"header version {version_text}, {header.size} bytes, {header.seen} training images seen"]
