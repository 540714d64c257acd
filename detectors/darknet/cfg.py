"""Reads a Darknet .cfg of the YOLOv2 family: what each section means, and whether its layers fit together.

Nothing is allocated here, so that a cfg with a wild number in it is refused before any memory is asked for.
Source: src/parser.c of Darknet f6afaab, whose defaults these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from detectors.darknet.sections import (
    AvgPool,
    Convolutional,
    Cost,
    DarknetCfg,
    Dropout,
    Layer,
    MaxPool,
    Net,
    Region,
    Reorg,
    Route,
    SectionSettings,
    Shape,
    Softmax,
)
from detectors.darknet.syntax import Section, read_sections

ACTIVATIONS = ("leaky", "linear", "relu", "logistic")
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool", "soft": "softmax"}
# What one image may cost. YOLOv2 at 608 pixels has 5e7 parameters, 4e7 outputs of all layers and 3e10 multiply-adds.
MOST_PARAMETERS = 2**28
MOST_OUTPUTS = 2**28
MOST_OPERATIONS = 2**43


class _Plan(NamedTuple):
    """What a reader makes of a section."""

    settings: SectionSettings
    output: Shape
    parameters: int = 0
    operations: int = 0


def read_cfg(path: Path | str, text: str | None = None) -> DarknetCfg:
    """Reads and checks a cfg file, or its text if that is given: then `path` only names it in messages.

    ValueError names the file, the line and the section of what does not fit or is not of this family.
    """
    first, *rest = read_sections(path, text)
    if ALIASES.get(first.kind, first.kind) != "net":
        raise first.error("a Darknet cfg begins with [net]")
    net = _net(first)
    shapes: list[Shape] = [(net.channels, net.height, net.width)]
    layers: list[Layer] = []
    operations = 0
    for section in rest:
        kind = ALIASES.get(section.kind, section.kind)
        if kind not in SECTION_READERS:
            raise section.error(f"no such layer in the YOLOv2 family; there are {', '.join(SECTION_READERS)}")
        plan = SECTION_READERS[kind](section, shapes)
        operations += plan.operations
        layers.append(
            Layer(len(layers), section.line, kind, plan.settings, shapes[-1], plan.output, plan.parameters)
        )
        shapes.append(plan.output)
        _check_cost(section, layers, operations)
    if not layers:
        raise first.error("no layer follows")
    _check_last(rest, layers)
    return DarknetCfg(
        Path(path), net, tuple(layers), tuple(line for section in (first, *rest) for line in section.unused)
    )


def _check_cost(section: Section, layers: list[Layer], operations: int) -> None:
    found = (
        ("parameters", sum(layer.parameters for layer in layers), MOST_PARAMETERS),
        ("outputs for one image", sum(prod(layer.output) for layer in layers), MOST_OUTPUTS),
        ("operations for one image", operations, MOST_OPERATIONS),
    )
    for what, count, most in found:
        if count > most:
            raise section.error(
                f"layer {layers[-1].index} brings the network to {count} {what}, above the limit of {most}; is a number wrong?"
            )


def _check_last(sections: list[Section], layers: list[Layer]) -> None:
    for section, layer in zip(sections[:-1], layers[:-1], strict=True):
        if layer.kind == "region":
            raise section.error("must be the last layer")


def _net(section: Section) -> Net:
    section.ignore(
        "time_steps",
        "notruth",
        "random",
        "adam",
        "B1",
        "B2",
        "eps",
        "aspect",
        "center",
        "clip",
        "min_ratio",
        "max_ratio",
    )
    section.ignore("inputs", "min_crop", "max_crop")
    side = {"least": 1, "most": 1 << 15}
    return Net(
        batch=section.whole("batch", 1, least=1),
        subdivisions=section.whole("subdivisions", 1, least=1),
        width=section.whole("width", 0, **side),
        height=section.whole("height", 0, **side),
        channels=section.whole("channels", 0, least=1, most=1 << 10),
        momentum=section.number("momentum", 0.9),
        decay=section.number("decay", 0.0001),
        learning_rate=section.number("learning_rate", 0.001),
        policy=section.text("policy", "constant"),
        burn_in=section.whole("burn_in", 0),
        power=section.number("power", 4.0),
        max_batches=section.whole("max_batches", 0),
        steps=section.wholes("steps"),
        scales=section.numbers("scales"),
        step=section.whole("step", 1),
        scale=section.number("scale", 1.0),
        gamma=section.number("gamma", 1.0),
        angle=section.number("angle", 0.0),
        saturation=section.number("saturation", 1.0),
        exposure=section.number("exposure", 1.0),
        hue=section.number("hue", 0.0),
    )


def _convolutional(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("binary", "xnor", "flipped", "dontload", "dontloadscales")
    section.ignore("dot")
    channels, rows, columns = shapes[-1]
    size = section.whole("size", 1, least=1)
    padding = section.whole("padding", 0)
    found = Convolutional(
        filters=section.whole("filters", 1, least=1),
        size=size,
        stride=section.whole("stride", 1, least=1),
        padding=size // 2 if section.flag("pad") else padding,
        groups=section.whole("groups", 1, least=1),
        batch_normalize=section.flag("batch_normalize"),
        activation=section.text("activation", "logistic"),
    )
    if found.activation not in ACTIVATIONS:
        raise section.error(
            f"activation {found.activation!r} is not one of the family's: {', '.join(ACTIVATIONS)}",
            "activation",
        )
    if channels % found.groups or found.filters % found.groups:
        raise section.error(
            f"must divide the {channels} channels of the input and the {found.filters} filters", "groups"
        )
    out = [(side + 2 * found.padding - size) // found.stride + 1 for side in (rows, columns)]
    if min(out) < 1:
        raise section.error(
            f"a kernel of {size} pixels does not fit its input of {columns} x {rows} with padding {found.padding}",
            "size",
        )
    weights = found.filters * (channels // found.groups) * size * size
    per_filter = 4 if found.batch_normalize else 1
    return _Plan(found, (found.filters, *out), found.filters * per_filter + weights, weights * prod(out))


def _maxpool(section: Section, shapes: Sequence[Shape]) -> _Plan:
    channels, rows, columns = shapes[-1]
    stride = section.whole("stride", 1, least=1)
    size = section.whole("size", stride, least=1)
    found = MaxPool(size, stride, section.whole("padding", size - 1))
    if found.padding > 2 * size - 2:
        raise section.error(
            f"with padding {found.padding} a window of {size} pixels can lie wholly outside the image",
            "padding",
        )
    out = [(side + found.padding - size) // stride + 1 for side in (rows, columns)]
    if min(rows, columns) + found.padding < size:
        raise section.error(
            f"a window of {size} pixels does not fit its input of {columns} x {rows} with padding {found.padding}",
            "size",
        )
    padded = channels * (rows + found.padding) * (columns + found.padding)
    if padded > MOST_OUTPUTS:
        raise section.error(
            f"the padded input has {padded} numbers, above the limit of {MOST_OUTPUTS}", "size"
        )
    return _Plan(found, (channels, *out), operations=channels * prod(out) * size * size)


def _route(section: Section, shapes: Sequence[Shape]) -> _Plan:
    """layers: absolute from 0, or negative counted back from this layer."""
    this = len(shapes) - 1
    chosen = tuple(n if n >= 0 else this + n for n in section.wholes("layers"))
    if not chosen:
        raise section.error("layers=... is missing: which outputs to join")
    if any(not 0 <= n < this for n in chosen):
        raise section.error(
            f"this is layer {this}: give numbers from 0 to {this - 1}, or from -{this} to -1", "layers"
        )
    sources = [shapes[n + 1] for n in chosen]
    if len({shape[1:] for shape in sources}) > 1:
        sizes = ", ".join(
            f"layer {n}: {columns} x {rows}" for n, (_, rows, columns) in zip(chosen, sources, strict=True)
        )
        raise section.error(
            f"outputs of different sizes cannot be joined ({sizes}); is the network's width or height a multiple of 32?",
            "layers",
        )
    return _Plan(Route(chosen), (sum(shape[0] for shape in sources), *sources[0][1:]))


def _reorg(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("reverse", "flatten", "extra")
    channels, rows, columns = shapes[-1]
    stride = section.whole("stride", 1, least=1)
    if channels % stride**2 or rows % stride or columns % stride:
        raise section.error(
            f"the input of {channels} channels, {columns} x {rows}, must divide by {stride**2} in channels and {stride} in size",
            "stride",
        )
    return _Plan(Reorg(stride), (channels * stride**2, rows // stride, columns // stride))


def _avgpool(section: Section, shapes: Sequence[Shape]) -> _Plan:
    return _Plan(AvgPool(), (shapes[-1][0], 1, 1))


def _softmax(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("tree", "spatial")
    section.ignore("noloss")
    found = Softmax(section.whole("groups", 1, least=1), section.number("temperature", 1.0))
    if found.temperature <= 0:
        raise section.error("must be above 0", "temperature")
    if prod(shapes[-1]) % found.groups:
        raise section.error(f"must divide the {prod(shapes[-1])} inputs", "groups")
    return _Plan(found, (prod(shapes[-1]), 1, 1))


def _dropout(section: Section, shapes: Sequence[Shape]) -> _Plan:
    found = Dropout(section.number("probability", 0.5))
    if not 0 <= found.probability < 1:
        raise section.error("must be at least 0 and below 1", "probability")
    return _Plan(found, shapes[-1])


def _cost(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.ignore("type", "scale", "ratio", "noobj", "thresh")
    return _Plan(Cost(), shapes[-1])


def _region(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("tree", "map", "background")
    section.ignore("absolute", "log", "sqrt", "classfix", "max", "mask_scale", "max_boxes")
    if section.whole("coords", 4) != 4:
        raise section.error("YOLOv2 has 4", "coords")
    count, classes = section.whole("num", 1, least=1), section.whole("classes", 20, least=1)
    anchors = section.numbers("anchors")
    if len(anchors) != 2 * count or min(anchors) <= 0:
        raise section.error(
            f"num={count} needs {2 * count} numbers above 0, width and height of each anchor; {len(anchors)} are given",
            "anchors",
        )
    channels, rows, columns = shapes[-1]
    if channels != count * (5 + classes):
        raise section.error(
            f"{count} anchors and {classes} classes need {count} * (5 + {classes}) = {count * (5 + classes)} channels, "
            f"and the layer before gives {channels}: set its filters, or the classes here"
        )
    found = Region(
        anchors=tuple(zip(anchors[::2], anchors[1::2], strict=True)),
        classes=classes,
        softmax=section.flag("softmax"),
        rescore=section.flag("rescore"),
        bias_match=section.flag("bias_match"),
        thresh=section.number("thresh", 0.5),
        coord_scale=section.number("coord_scale", 1.0),
        object_scale=section.number("object_scale", 1.0),
        noobject_scale=section.number("noobject_scale", 1.0),
        class_scale=section.number("class_scale", 1.0),
        jitter=section.number("jitter", 0.2),
        random=section.flag("random"),
    )
    return _Plan(found, (channels, rows, columns))


SECTION_READERS: dict[str, Callable[[Section, Sequence[Shape]], _Plan]] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "route": _route,
    "reorg": _reorg,
    "region": _region,
    "avgpool": _avgpool,
    "softmax": _softmax,
    "cost": _cost,
    "dropout": _dropout,
}
