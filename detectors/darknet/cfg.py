"""Reads a Darknet .cfg of the YOLOv2 family: what each section means, and whether the layers fit together.

Nothing is allocated here, so a cfg with an absurd number is refused before it can exhaust the memory.
Source, also of the defaults: src/parser.c of Darknet f6afaab.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import NamedTuple

from detectors.darknet.section_files import read_section_map, read_section_tree, section_contents
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
# Those of Darknet, then those of later versions of it, whose weights would be wrong with relu.
OTHER_ACTIVATIONS = (
    *("loggy", "elu", "selu", "relie", "plse", "hardtan", "lhtan", "ramp", "tanh", "stair"),
    *("mish", "hard_mish", "swish", "gelu", "relu6", "revleaky"),
    *("normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval"),
)
POLICIES = ("random", "poly", "constant", "step", "exp", "sigmoid", "steps")
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool", "soft": "softmax"}
# Limits for one image. YOLOv2 at 608 pixels: 5e7 parameters, 4e7 outputs of all layers, 3e10 multiply-adds.
MAX_PARAMETERS = 2**28
MAX_OUTPUTS = 2**28
MAX_OPERATIONS = 2**43


class _Plan(NamedTuple):
    """A layer as its section describes it. operations: multiply-adds for one image."""

    settings: SectionSettings
    output: Shape
    parameters: int = 0
    operations: int = 0


def read_cfg(
    path: Path | str, text: str | None = None, contents: Mapping[str, str] | None = None
) -> DarknetCfg:
    """Reads and checks a cfg file, or `text` if it is given; `path` is then used in messages only.

    contents: of the trees and maps that it names, if these files are stored elsewhere; see Section.file.
    ValueError names file, line and section if something does not fit or does not belong to the YOLOv2 family.
    """
    first, *rest = read_sections(path, text)
    for section in rest:
        section.contents = contents or {}
    if ALIASES.get(first.kind, first.kind) != "net":
        raise first.error("a Darknet cfg begins with [net]")
    net = _net(first)
    layers = _layers(rest, (net.channels, net.height, net.width))
    if not layers:
        raise first.error("there are no layers after it")
    _check_region_is_last(rest, layers)
    unused = tuple(line for section in (first, *rest) for line in section.unused)
    notes = tuple(line for section in (first, *rest) for line in section.notes)
    named = [section_contents(*pair) for pair in zip(rest, (layer.settings for layer in layers), strict=True)]
    texts = {name: content for each in named for name, content in each.items()}
    return DarknetCfg(Path(path), net, tuple(layers), unused, notes, texts)


def _layers(sections: list[Section], image_shape: Shape) -> list[Layer]:
    shapes = [image_shape]
    layers: list[Layer] = []
    operations = 0
    for section in sections:
        kind = ALIASES.get(section.kind, section.kind)
        if kind not in SECTION_READERS:
            known = ", ".join(SECTION_READERS)
            raise section.error(f"the YOLOv2 family has no such layer; known layers: {known}")
        plan = SECTION_READERS[kind](section, shapes)
        layer = Layer(
            len(layers), section.line, kind, plan.settings, shapes[-1], plan.output, plan.parameters
        )
        layers.append(layer)
        shapes.append(plan.output)
        operations += plan.operations
        _check_cost(section, layers, operations)
    return layers


def _check_cost(section: Section, layers: list[Layer], operations: int) -> None:
    costs = (
        ("parameters", sum(layer.parameters for layer in layers), MAX_PARAMETERS),
        ("outputs for one image", sum(prod(layer.output) for layer in layers), MAX_OUTPUTS),
        ("operations for one image", operations, MAX_OPERATIONS),
    )
    for what, count, limit in costs:
        if count > limit:
            raise section.error(
                f"with layer {layers[-1].index} the network has {count} {what}, above the limit of {limit}; "
                "is a number wrong?"
            )


def _check_region_is_last(sections: list[Section], layers: list[Layer]) -> None:
    for section, layer in zip(sections[:-1], layers[:-1], strict=True):
        if layer.kind == "region":
            raise section.error("must be the last layer")


def _net(section: Section) -> Net:
    section.ignore("time_steps", "notruth", "random", "adam", "B1", "B2", "eps")
    section.ignore("aspect", "center", "clip", "min_ratio", "max_ratio", "inputs", "min_crop", "max_crop")
    policy = section.word("policy", POLICIES, default="constant", otherwise="constant")
    steps, scales = _milestones(section, policy)
    return Net(
        batch=section.integer("batch", 1, minimum=1),
        subdivisions=section.integer("subdivisions", 1, minimum=1),
        width=section.integer("width", 0, minimum=1, maximum=1 << 15),
        height=section.integer("height", 0, minimum=1, maximum=1 << 15),
        channels=section.integer("channels", 0, minimum=1, maximum=1 << 10),
        momentum=section.number("momentum", 0.9),
        decay=section.number("decay", 0.0001),
        learning_rate=section.number("learning_rate", 0.001),
        policy=policy,
        burn_in=section.integer("burn_in", 0),
        power=section.number("power", 4.0),
        max_batches=section.integer("max_batches", 0),
        steps=steps,
        scales=scales,
        step=section.integer("step", 1),
        scale=section.number("scale", 1.0),
        gamma=section.number("gamma", 1.0),
        angle=section.number("angle", 0.0),
        saturation=section.number("saturation", 1.0),
        exposure=section.number("exposure", 1.0),
        hue=section.number("hue", 0.0),
    )


def _milestones(section: Section, policy: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """steps and scales, which only policy=steps reads. Of scales, those for a step count."""
    if policy != "steps":
        section.ignore("steps", "scales")
        return (), ()
    steps = section.integers("steps")
    scales = section.numbers("scales")
    if not steps or len(scales) < len(steps):
        raise section.error(
            "policy=steps needs a scale for each step; "
            f"{len(steps)} steps and {len(scales)} scales are given",
            "scales",
        )
    return steps, scales[: len(steps)]


def _convolutional(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("binary", "xnor", "flipped", "dontload", "dontloadscales")
    section.ignore("dot")
    channels, rows, columns = shapes[-1]
    size = section.integer("size", 1, minimum=1)
    padding = section.integer("padding", 0)
    settings = Convolutional(
        filters=section.integer("filters", 1, minimum=1),
        size=size,
        stride=section.integer("stride", 1, minimum=1),
        padding=size // 2 if section.flag("pad") else padding,
        groups=section.integer("groups", 1, minimum=1),
        batch_normalize=section.flag("batch_normalize"),
        activation=section.word(
            "activation", (*ACTIVATIONS, *OTHER_ACTIVATIONS), default="logistic", otherwise="relu"
        ),
    )
    _check_convolutional(section, settings, channels)
    out_rows, out_columns = (
        (side + 2 * settings.padding - size) // settings.stride + 1 for side in (rows, columns)
    )
    if min(out_rows, out_columns) < 1:
        raise section.error(
            f"a kernel of {size} pixels is larger than its input of {columns} x {rows} "
            f"with padding {settings.padding}",
            "size",
        )
    weights = settings.filters * (channels // settings.groups) * size * size
    per_filter = 4 if settings.batch_normalize else 1
    return _Plan(
        settings,
        output=(settings.filters, out_rows, out_columns),
        parameters=settings.filters * per_filter + weights,
        operations=weights * out_rows * out_columns,
    )


def _check_convolutional(section: Section, settings: Convolutional, channels: int) -> None:
    if settings.activation not in ACTIVATIONS:
        raise section.error(
            f"activation {settings.activation!r} is not supported; choose from {', '.join(ACTIVATIONS)}",
            "activation",
        )
    if channels % settings.groups or settings.filters % settings.groups:
        raise section.error(
            f"must divide the {channels} channels of the input and the {settings.filters} filters", "groups"
        )


def _maxpool(section: Section, shapes: Sequence[Shape]) -> _Plan:
    channels, rows, columns = shapes[-1]
    stride = section.integer("stride", 1, minimum=1)
    size = section.integer("size", stride, minimum=1)
    padding = section.integer("padding", size - 1)
    if padding > 2 * size - 2:
        raise section.error(
            f"with padding {padding} a window of {size} pixels can lie completely outside the image",
            "padding",
        )
    if min(rows, columns) + padding < size:
        raise section.error(
            f"a window of {size} pixels is larger than its input of {columns} x {rows} "
            f"with padding {padding}",
            "size",
        )
    padded = channels * (rows + padding) * (columns + padding)
    if padded > MAX_OUTPUTS:
        raise section.error(
            f"the padded input has {padded} numbers, above the limit of {MAX_OUTPUTS}", "size"
        )
    out_rows, out_columns = ((side + padding - size) // stride + 1 for side in (rows, columns))
    operations = channels * out_rows * out_columns * size * size
    return _Plan(MaxPool(size, stride, padding), (channels, out_rows, out_columns), operations=operations)


def _route(section: Section, shapes: Sequence[Shape]) -> _Plan:
    """layers: counted from 0, or, if negative, backwards from this layer."""
    index = len(shapes) - 1  # of this layer
    layers = tuple(n if n >= 0 else index + n for n in section.integers("layers"))
    if not layers:
        raise section.error("layers=... is missing: the layers whose outputs are joined")
    if any(not 0 <= n < index for n in layers):
        raise section.error(
            f"this is layer {index}: choose from 0 to {index - 1}, or from -{index} to -1", "layers"
        )
    sources = [shapes[n + 1] for n in layers]
    _check_route(section, layers, sources)
    return _Plan(Route(layers), (sum(shape[0] for shape in sources), *sources[0][1:]))


def _check_route(section: Section, layers: Sequence[int], sources: Sequence[Shape]) -> None:
    if len({shape[1:] for shape in sources}) == 1:
        return
    sizes = ", ".join(
        f"layer {n}: {columns} x {rows}" for n, (_, rows, columns) in zip(layers, sources, strict=True)
    )
    raise section.error(
        f"outputs of different sizes cannot be joined ({sizes}); "
        "are the network's width and height multiples of 32?",
        "layers",
    )


def _reorg(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("reverse", "flatten", "extra")
    channels, rows, columns = shapes[-1]
    stride = section.integer("stride", 1, minimum=1)
    if channels % stride**2 or rows % stride or columns % stride:
        raise section.error(
            f"the input has {channels} channels of {columns} x {rows}: "
            f"channels must be a multiple of {stride**2}, width and height of {stride}",
            "stride",
        )
    return _Plan(Reorg(stride), (channels * stride**2, rows // stride, columns // stride))


def _avgpool(section: Section, shapes: Sequence[Shape]) -> _Plan:
    return _Plan(AvgPool(), (shapes[-1][0], 1, 1))


def _softmax(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("spatial")
    section.ignore("noloss")
    inputs = prod(shapes[-1])
    groups = section.integer("groups", 1, minimum=1)
    temperature = section.number("temperature", 1.0)
    if temperature <= 0:
        raise section.error("must be above 0", "temperature")
    if inputs % groups:
        raise section.error(f"must divide the {inputs} inputs", "groups")
    tree = read_section_tree(section, inputs)
    if tree is not None and groups != 1:
        raise section.error("with a tree, groups must be 1", "groups")
    return _Plan(Softmax(groups, temperature, tree), (inputs, 1, 1))


def _dropout(section: Section, shapes: Sequence[Shape]) -> _Plan:
    probability = section.number("probability", 0.5)
    if not 0 <= probability < 1:
        raise section.error("must be at least 0 and below 1", "probability")
    return _Plan(Dropout(probability), shapes[-1])


def _cost(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.ignore("type", "scale", "ratio", "noobj", "thresh")
    return _Plan(Cost(), shapes[-1])


def _region(section: Section, shapes: Sequence[Shape]) -> _Plan:
    section.refuse("background")
    section.ignore("absolute", "log", "sqrt", "classfix", "max", "mask_scale", "max_boxes")
    if section.integer("coords", 4) != 4:
        raise section.error("YOLOv2 has 4", "coords")
    num_anchors = section.integer("num", 1, minimum=1)
    classes = section.integer("classes", 20, minimum=1)
    anchors = section.numbers("anchors")
    _check_region(section, num_anchors, classes, anchors, channels=shapes[-1][0])
    tree = read_section_tree(section, classes)
    settings = Region(
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
        tree=tree,
        map=read_section_map(section, tree),
    )
    return _Plan(settings, shapes[-1])


def _check_region(
    section: Section, num_anchors: int, classes: int, anchors: tuple[float, ...], *, channels: int
) -> None:
    positive = sum(number > 0 for number in anchors)
    if not len(anchors) == positive == 2 * num_anchors:
        others = f", and {len(anchors) - positive} not above 0 (an empty place is 0)"
        raise section.error(
            f"num={num_anchors} needs {2 * num_anchors} numbers above 0, width and height of each anchor; "
            f"{positive} are given{others if len(anchors) > positive else ''}",
            "anchors",
        )
    needed = num_anchors * (5 + classes)
    if channels != needed:
        raise section.error(
            f"{num_anchors} anchors and {classes} classes need {num_anchors} * (5 + {classes}) = {needed} "
            f"channels, but the previous layer has {channels}: change its filters, or the classes here"
        )


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
