"""Converts other programs' SSD and VGG-16 to checkpoints and back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detectors.anchors import ssd300_levels, ssd512_levels
from detectors.commands.convert.conversion import (
    Conversion,
    Request,
    WeightSource,
    chosen_class_names,
    configuration,
    fill,
    weights_only,
)
from detectors.models.pixels import PIXEL_MEAN
from detectors.training.checkpoint import Checkpoint
from detectors.training.initial import parameter_names, ssd_ports


def from_ssd(weights: ssd_ports.PortWeights, request: Request) -> Conversion:
    """Weights of another program's SSD, or of VGG-16 as the backbone of an untrained SSD."""
    port = ssd_ports.PORTS[weights.kind]
    notes = []
    if weights.kind == "torchvision" and weights.outputs == ssd_ports.COCO_OUTPUTS and not request.keep_91:
        weights = ssd_ports.select_outputs(weights, ssd_ports.used_coco_columns())
        notes.append(
            "81 of 91 outputs are kept, background and COCO's 80 classes, and the softmax is over these; "
            "--keep-91 keeps all"
        )
    classes = weights.outputs - 1 if port.is_detector else None
    names = chosen_class_names(request, classes)
    model = request.model or _ssd_model(weights)
    config = configuration(request, model, names, weights.settings)
    if port.is_detector:
        content = f"{weights.levels} feature maps, {weights.outputs} outputs"
    else:
        content = "a backbone; neck and heads are initialised"
    sizes = config.model.get("sizes")
    mean = config.model.get("pixel_mean")
    notes.insert(0, f"{port.title}: {content} -> {model}, default boxes of {sizes}, pixels RGB - {mean}")
    source = WeightSource(
        title=port.title,
        classes=classes,
        tensors=weights.tensors,
        origins=weights.origins,
        key=parameter_names.ours,
        unused=weights.unused,
    )
    transfer = fill(config, names, source, request)
    return Conversion(weights_only(request, config, names, transfer), transfer, notes)


def _ssd_model(weights: ssd_ports.PortWeights) -> str:
    """The yaml with a file's network and default boxes.

    torchvision's default boxes are always COCO's, ssd.pytorch's are VOC's for 21 outputs only.
    """
    is_backbone = not ssd_ports.PORTS[weights.kind].is_detector
    has_voc_boxes = is_backbone or (weights.kind == "ssd.pytorch" and weights.outputs == 21)
    return ("ssd512" if weights.levels == 7 else "ssd300") + ("" if has_voc_boxes else "_coco")


def to_ssd(checkpoint: Checkpoint, kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of torchvision or ssd.pytorch, and which settings it needs there.

    ValueError if the program does not have this network.
    """
    model = checkpoint.config["model"]
    tensors = ssd_ports.write_port(checkpoint.model, kind, channel_order=model.get("channel_order", "rgb"))
    mean = model.get("pixel_mean", PIXEL_MEAN)
    std = model.get("pixel_std", (1.0, 1.0, 1.0))
    is_ssd512 = len(tensors) > 71
    levels = ssd512_levels(model["sizes"]) if is_ssd512 else ssd300_levels(model["sizes"])
    sizes = [level.min_size for level in levels] + [levels[-1].max_size]
    notes = [
        f"the weights expect RGB pixels in 0..255, minus {list(mean)}, divided by {list(std)}, "
        f"and default boxes of {sizes} pixels"
    ]
    if kind == "torchvision" and not is_ssd512:
        arguments = _torchvision_arguments(len(checkpoint.class_names) + 1, mean, std)
        notes.append(f"ssd300_vgg16(weights=None, weights_backbone=None, {arguments}) takes it")
        if model["sizes"] != "coco":
            scales = [round(size / 300, 4) for size in sizes]
            notes.append(
                "ssd300_vgg16's default boxes are COCO's: set its attribute anchor_generator to a "
                f"DefaultBoxGenerator with scales={scales}"
            )
    return tensors, notes


def _torchvision_arguments(num_classes: int, mean: Sequence[float], std: Sequence[float]) -> str:
    """Of ssd300_vgg16. num_classes: with background."""
    arguments = f"num_classes={num_classes}"
    torchvisions_mean = ssd_ports.PORTS["torchvision"].pixel_mean
    mean_differs = max(abs(a - b) for a, b in zip(mean, torchvisions_mean, strict=True)) > 0.01
    if mean_differs or set(std) != {1.0}:
        arguments += f", image_mean={[round(value / 255, 6) for value in mean]}"
        arguments += f", image_std={[round(value / 255, 8) for value in std]}"
    return arguments
