"""The network that is exported, and what its file says of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from detectors.config.composing import output_folder
from detectors.config.schema import Config
from detectors.data.augment.fitting import GREY
from detectors.models.classifier import Classifier
from detectors.models.detector import Detector
from detectors.models.exported import EXPORT_FORMAT
from detectors.training.named_network import named_network
from detectors.training.provenance import installed_version


class ExportSource(NamedTuple):
    """A network in evaluation mode on the CPU, with the input size of its file."""

    network: Detector | Classifier
    config: Config
    class_names: tuple[str, ...]
    folder: Path  # where the file goes
    stem: str  # of its name
    checkpoint: str | None = None  # its file's name; None for a network of no run
    step: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.config.input.size[0], self.config.input.size[1]


def export_source(args: argparse.Namespace) -> ExportSource:
    """A run's network, or a new one of a yaml. ValueError for a size or a setting that it cannot take."""
    named = named_network(args.place, args.overrides)
    for note in named.notes:
        print(note)
    parts = (named.network, named.config, named.class_names)
    if named.checkpoint is None:
        source = ExportSource(*parts, folder=output_folder() / "export", stem=args.place)
    else:
        path = named.checkpoint.path
        source = ExportSource(*parts, path.parent, path.stem, path.name, named.checkpoint.step)
    network = source.network
    if args.size:
        source.config.input.size = list(args.size)
    if isinstance(network, Detector):
        network.grid(source.size)  # raises for a wrong size
        for name in ("score_threshold", "nms_iou"):
            if getattr(args, name) is not None:
                setattr(network.postprocess, name, getattr(args, name))
    else:
        network.check_size(source.size)
        if args.with_boxes:
            raise ValueError(f"--with-boxes: {args.place} is a classifier; leave it out")
    return source


def export_metadata(source: ExportSource, *, outputs: tuple[str, ...], with_boxes: bool) -> dict[str, Any]:
    """What the file says of itself; docs/export.md lists the keys."""
    network = source.network
    metadata = {
        "format": EXPORT_FORMAT,
        "detectors_version": installed_version("detectors"),
        "name": source.config.name,
        "task": source.config.task,
        "class_names": list(source.class_names),
        "size": list(source.size),
        "resize": source.config.input.resize,
        "padding": GREY,
        "channel_order": "rgb",
        "pixel_mean": network.pixel_mean.flatten().tolist(),
        "pixel_std": network.pixel_std.flatten().tolist(),
        "network_channel_order": network.channel_order,
        "outputs": list(outputs),
        "precision": "float32",
        "checkpoint": source.checkpoint,
        "step": source.step,
    }
    if isinstance(network, Detector):
        post = network.postprocess
        metadata |= {
            "with_boxes": with_boxes,
            "score_rule": getattr(post.score_rule, "__name__", type(post.score_rule).__name__),
            "coder": type(post.coder).__name__,
            "score_threshold": post.score_threshold,
            "nms_iou": post.nms_iou,
            "candidates_per_class": post.candidates_per_class,
            "max_detections": post.max_detections,
        }
    return metadata
