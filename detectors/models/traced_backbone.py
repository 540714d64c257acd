"""Any of torchvision's classifiers as a backbone: its graph, cut behind the last map of each stride.

The tracer is that of torchvision.models.feature_extraction; names of parameters stay torchvision's.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torchvision import models
from torchvision.models.feature_extraction import NodePathTracer
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation, StochasticDepth

from detectors.models.pixels import IMAGENET_MEAN, IMAGENET_STD

# Stay modules, as in torchvision's own extractor: stochastic depth must know whether it is in training.
LEAVES = [Conv2dNormActivation, SqueezeExcitation, StochasticDepth]
TRACED_SIDE = 256  # pixels of the image with which shapes are traced
WIDTH_KEYWORDS = {  # of torchvision's models that can be made narrower
    "mobilenet_v2": "width_mult",
    "mobilenet_v3_large": "width_mult",
    "mobilenet_v3_small": "width_mult",
}


class TracedMaps(NamedTuple):
    """The graph of a classifier and its last map of each stride; see last_maps."""

    graph: fx.Graph
    nodes: dict[int, str]  # stride -> name in the graph
    channels: dict[int, int]
    names: dict[int, str]  # stride -> torchvision's name of the operation, such as layer3.1.relu_1


class TracedBackbone(nn.Module):
    """A classifier of torchvision up to the deepest of the maps that are wanted; it has no other layers.

    Weights are drawn by torchvision's rules; nothing is downloaded.
    """

    pixel_mean = IMAGENET_MEAN
    pixel_std = IMAGENET_STD

    def __init__(self, name: str, strides: Sequence[int], width: float = 1.0):
        """name: of torchvision.models.list_models(). strides: of the maps, rising.

        ValueError for an unknown name, a model without a map of a stride, or one that has no other widths.
        """
        super().__init__()
        traced = traced_maps(name, width)
        if absent := [stride for stride in strides if stride not in traced.nodes]:
            there = ", ".join(map(str, sorted(traced.nodes))) or "none"
            raise ValueError(
                f"backbone={name}: no feature map of stride {absent[0]}, with a side that is just this part "
                f"of the image's (it has: {there}); choose another backbone, such as resnet18"
            )
        self.name = name
        self.strides = tuple(strides)
        self.channels = tuple(traced.channels[stride] for stride in strides)
        self.sources = tuple(traced.names[stride] for stride in strides)
        self.body = _cut(_classifier(name, width), traced, strides)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> one map (B, channels, about H / stride, about W / stride) for each stride"""
        return self.body(images)


def _cut(classifier: nn.Module, traced: TracedMaps, strides: Sequence[int]) -> fx.GraphModule:
    """A module that returns the maps, with the layers that they need and no others."""
    graph = copy.deepcopy(traced.graph)
    nodes = {node.name: node for node in graph.nodes}
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = (tuple(nodes[traced.nodes[stride]] for stride in strides),)
    whole = fx.GraphModule(classifier, graph)
    whole.graph.eliminate_dead_code()
    return fx.GraphModule(whole, whole.graph, "Backbone")  # copies only what the graph calls


@cache
def traced_maps(name: str, width: float = 1.0) -> TracedMaps:
    """Traces a classifier of torchvision, without memory for its weights. ValueError: see TracedBackbone."""
    with torch.device("meta"):
        classifier = _classifier(name, width)
        image = torch.empty(1, 3, TRACED_SIDE, TRACED_SIDE)
    try:
        graph, names = _trace(classifier.eval())
        trained, _ = _trace(classifier.train())
        shapes = _Shapes(fx.GraphModule(classifier.eval(), graph))
        shapes.run(image)
    except Exception as error:  # torch.fx and the models raise many kinds
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"backbone={name}: torch.fx cannot trace it for images of any size ({what})"
        ) from error
    if [node.name for node in graph.nodes] != [node.name for node in trained.nodes]:
        raise ValueError(
            f"backbone={name}: its graph in training differs from that in evaluation; choose another"
        )
    maps = last_maps(graph, shapes.of)
    return TracedMaps(
        graph,
        {stride: node.name for stride, node in maps.items()},
        {stride: shapes.of[node][1] for stride, node in maps.items()},
        {stride: names[node] for stride, node in maps.items()},
    )


def last_maps(graph: fx.Graph, shapes: dict[fx.Node, torch.Size]) -> dict[int, fx.Node]:
    """Stride -> the last map of this stride through which all later maps are computed.

    So it lies between blocks: the inside of a residual block does not count, because the block's input passes
    it by. shapes: of every operation's result that is a tensor, for an image of TRACED_SIDE pixels.
    """
    place = {node: i for i, node in enumerate(graph.nodes)}
    last_use = 0  # of all results so far
    maps = {}
    for node, i in place.items():
        shape = shapes.get(node, ())
        if last_use <= i and len(shape) == 4 and shape[2] == shape[3] > 1 and TRACED_SIDE % shape[2] == 0:
            maps[TRACED_SIDE // shape[2]] = node
        if node.op == "placeholder" or (shape and node.op != "get_attr"):
            last_use = max([last_use, *(place[user] for user in node.users)])
    return maps


def _trace(classifier: nn.Module) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """The graph, and torchvision's name of each operation."""
    tracer = NodePathTracer(leaf_modules=LEAVES)
    return tracer.trace(classifier), dict(tracer.node_to_qualname)


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self.extra_traceback = False
        self.of: dict[fx.Node, torch.Size] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.of[n] = result.shape
        return result


def _classifier(name: str, width: float) -> nn.Module:
    """A new classifier. ValueError for an unknown name, or a width that it cannot have."""
    known = models.list_models(module=models)
    if name not in known:
        close = get_close_matches(name, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(
            f"backbone={name}: neither this package nor torchvision has it{hint} "
            "(darknet19, tiny_darknet, torchvision.models.list_models(), or timm/NAME)"
        )
    keywords = {}
    if width != 1.0:
        if name not in WIDTH_KEYWORDS:
            narrow = ", ".join(WIDTH_KEYWORDS)
            raise ValueError(
                f"width={width}: torchvision's {name} has one width; set model.width=1, or choose a backbone "
                f"with others: darknet19, tiny_darknet, {narrow}"
            )
        keywords[WIDTH_KEYWORDS[name]] = width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that inception's initialisation is slow
        try:
            return models.get_model(name, weights=None, **keywords)
        except NotImplementedError:  # RegNets compute their layout with tensors, which "meta" cannot
            with torch.device("cpu"):
                return models.get_model(name, weights=None, **keywords).to("meta")
