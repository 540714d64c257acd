"""Darknet's weights <-> checkpoints."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from detectors.anchors import YoloAnchors
from detectors.commands.convert.conversion import (
    WEIGHTS_HEADER,
    Converted,
    WeightSource,
    Wish,
    choices,
    chosen_class_names,
    configuration,
    fill,
    weights_only,
)
from detectors.config.check import check
from detectors.config.schema import Config, composed, merged
from detectors.darknet import sections
from detectors.darknet.cfg import read_cfg
from detectors.darknet.cfg_detector import darknet_detector
from detectors.darknet.region import region_loss_settings
from detectors.darknet.syntax import read_text
from detectors.darknet.weights import Header, load_weights, save_weights
from detectors.models.detector import Detector
from detectors.structures import HeadOutputs
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint

PARTIAL_FILE = re.compile(r"\.conv\.\d+$")  # darknet19_448.conv.23: the first 23 layers


def from_darknet(wish: Wish) -> Converted:
    """A .weights file in the network of its cfg, or in one of ours with the same layers (wish.model). A file that ends early, such as
    darknet19_448.conv.23, is a backbone: its name says so, or wish.partial.

    ValueError if it does not fit, or if our network does not compute what the cfg says.
    """
    network = None if wish.cfg is None else read_cfg(wish.cfg)
    region = network and network.region
    if wish.model is None and region is None:
        what = (
            "Darknet's weights do not say which network they are of"
            if network is None
            else f"{wish.cfg} has no [region]: no detector"
        )
        raise ValueError(
            f"{wish.source}: {what}; give the detector's --cfg FILE, or --model with a yaml of conf/model of the same layers"
        )
    names = chosen_class_names(wish, region and region.classes)
    config = darknet_configuration(wish, names, network)
    classes = region.classes if region else len(names)
    detector = assemble.build_detector(config, classes)
    report = load_weights(
        detector, wish.source, partial=wish.partial or PARTIAL_FILE.search(wish.source.name) is not None
    )
    if region and wish.model and not report.unchanged:
        _check_same(detector, wish, classes)
    left = tuple(f"{layer.name}." for layer in report.unchanged)
    origins = {f"{layer.name}.": f"convolution {n}" for n, layer in enumerate(report.loaded, 1)}
    tensors = {
        name: tensor for name, tensor in detector.state_dict().items() if not (left and name.startswith(left))
    }
    where = {
        name: next((text for place, text in origins.items() if name.startswith(place)), "the header")
        for name in tensors
    }
    transfer = fill(
        config, names, WeightSource("the file", None if left else classes, tensors, where, key=str), wish
    )
    version = dict(zip(WEIGHTS_HEADER, report.header, strict=False))
    notes = [
        *list(report.lines())[:1],
        f"{len(report.loaded)} convolutions loaded, {len(report.unchanged)} left as they were -> {config.name}",
    ]
    progress = {**version, "images_seen": report.header.seen}
    return Converted(weights_only(wish, config, names, transfer, **progress), transfer, notes)


def darknet_configuration(wish: Wish, names: tuple[str, ...], network: sections.DarknetCfg | None) -> Config:
    """That of the chosen model, or of a detector that holds the cfg; input size, anchors and loss are the cfg's, if there is one."""
    size = [] if network is None else [f"input.size=[{network.net.height},{network.net.width}]"]
    asked = replace(wish, overrides=[*size, *wish.overrides])
    if wish.model is not None:
        anchors = (
            {}
            if network is None or network.region is None
            else {"anchors": [list(pair) for pair in network.region.anchors]}
        )
        return configuration(asked, wish.model, names, anchors)
    late = [override for override in asked.overrides if override.lstrip("+").startswith(("model.", "loss."))]
    early = [override for override in asked.overrides if override not in late]
    model = {
        "_target_": "detectors.darknet.cfg_detector.darknet_detector",
        "cfg": read_text(wish.cfg),
        "score_threshold": 0.005,
        "nms_iou": 0.45,
    }
    plain = composed(choices(replace(asked, overrides=early), "yolov2", names))
    loss = plain["loss"] | region_loss_settings(network.region)
    return check(merged(plain | {"name": wish.cfg.stem, "model": model, "loss": loss}, late))


def _check_same(detector: Detector, wish: Wish, classes: int) -> None:
    """ValueError unless a detector of ours gives what the layers of the cfg give, with the same weights, on random pixels."""
    other = darknet_detector(num_classes=classes, cfg=read_text(wish.cfg))
    load_weights(other, wish.source)
    size = [side * other.anchors.stride for side in (3, 4)]
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        found, expected = (_flat(x.eval()(images)) for x in (detector, other))
    worst = (found - expected).abs().max() if found.shape == expected.shape else torch.inf
    if not worst <= 1e-3 * (1 + expected.abs().max()):
        raise ValueError(
            f"{wish.model} is not the network of {wish.cfg} (outputs differ by {worst:.3g}); choose another --model, or none"
        )


def _flat(outputs: HeadOutputs) -> Tensor:
    """(B, A, 5 + C)"""
    return torch.cat([outputs.offsets, outputs.objectness[..., None], outputs.class_logits], -1)


def to_darknet(checkpoint: Checkpoint) -> list[str]:
    """Writes checkpoint.path as a .weights file, with the version of the header that it came with (else 0.2, 20 bytes).

    ValueError for a detector that is none of Darknet's.
    """
    detector, config = assemble.load_detector(checkpoint, torch.device("cpu"))
    if not isinstance(detector.anchors, YoloAnchors):
        raise ValueError(
            f"{config.name} is no network of Darknet's: only YOLOv2's family can be written as .weights"
        )
    version = [int(checkpoint.progress[key]) for key in WEIGHTS_HEADER if key in checkpoint.progress]
    seen = int(checkpoint.progress.get("images_seen", 0))
    header = Header(*version, seen=seen) if version else Header(seen=seen)
    save_weights(detector, checkpoint.path, header=header)
    return [
        f"header of version {header.major}.{header.minor}, {header.size} bytes, {header.seen} training images seen"
    ]
