"""SSD and VGG-16 of other programs <-> checkpoints."""

from __future__ import annotations

from torch import Tensor

from detectors.anchors import ssd300_levels, ssd512_levels
from detectors.commands.convert import parameter_names, ssd_ports
from detectors.commands.convert.conversion import (
    Converted,
    WeightSource,
    Wish,
    chosen_class_names,
    configuration,
    fill,
    weights_only,
)
from detectors.models.ssd import PIXEL_MEAN
from detectors.training.checkpoint import Checkpoint


def from_ssd(found: ssd_ports.PortWeights, wish: Wish) -> Converted:
    """Weights of another program's SSD, or of VGG-16 as the backbone of an SSD that is not trained yet."""
    notes, port = [], ssd_ports.PORTS[found.kind]
    if found.kind == "torchvision" and found.outputs == ssd_ports.COCO_OUTPUTS and not wish.keep_91:
        found = ssd_ports.select_outputs(found, ssd_ports.used_coco_columns())
        notes = [
            "of 91 outputs 81 are kept, background and COCO's 80 classes, and the softmax runs over these; --keep-91 keeps all"
        ]
    classes = found.outputs - 1 if port.whole else None
    names = chosen_class_names(wish, classes)
    model = wish.model or _ssd_model(found)
    config = configuration(wish, model, names, found.settings)
    what = (
        f"{found.levels} maps, {found.outputs} outputs"
        if port.whole
        else "a backbone, so that neck and heads are initialised"
    )
    sizes, mean = (config.model.get(key) for key in ("sizes", "pixel_mean"))
    notes = [f"{port.title}: {what} -> {model}, default boxes of {sizes}, pixels RGB - {mean}", *notes]
    source = WeightSource(
        port.title, classes, found.tensors, found.origins, parameter_names.ours, found.unused
    )
    transfer = fill(config, names, source, wish)
    return Converted(weights_only(wish, config, names, transfer), transfer, notes)


def _ssd_model(found: ssd_ports.PortWeights) -> str:
    """The yaml whose network and default boxes a file has. torchvision always takes COCO's boxes, ssd.pytorch VOC's for 21 outputs only."""
    voc = not ssd_ports.PORTS[found.kind].whole or (found.kind == "ssd.pytorch" and found.outputs == 21)
    return ("ssd512" if found.levels == 7 else "ssd300") + ("" if voc else "_coco")


def to_ssd(checkpoint: Checkpoint, kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of torchvision or ssd.pytorch, and what must be set there. ValueError if they have no such network."""
    model = checkpoint.config["model"]
    tensors = ssd_ports.write_port(checkpoint.model, kind, channel_order=model.get("channel_order", "rgb"))
    mean, std = model.get("pixel_mean", PIXEL_MEAN), model.get("pixel_std", (1.0, 1.0, 1.0))
    levels, side = (ssd512_levels, 512) if len(tensors) > 71 else (ssd300_levels, 300)
    sizes = [level.min_size for level in levels(model["sizes"])] + [levels(model["sizes"])[-1].max_size]
    notes = [
        f"it is for RGB pixels of 0..255, minus {list(mean)}, divided by {list(std)}, and default boxes of {sizes} pixels"
    ]
    if kind == "torchvision" and side == 300:
        keywords = f"num_classes={len(checkpoint.class_names) + 1}"
        if max(abs(a - b) for a, b in zip(mean, ssd_ports.PORTS[kind].pixel_mean, strict=True)) > 0.01 or set(
            std
        ) != {1.0}:
            keywords += f", image_mean={[round(v / 255, 6) for v in mean]}, image_std={[round(v / 255, 8) for v in std]}"
        notes.append(f"ssd300_vgg16(weights=None, weights_backbone=None, {keywords}) takes it")
        if model["sizes"] != "coco":
            scales = [round(size / side, 4) for size in sizes]
            notes.append(
                f"its default boxes are COCO's: set model.anchor_generator, a DefaultBoxGenerator with scales={scales}"
            )
    return tensors, notes
