"""Rules about the parts that the settings describe. Each is built for them: only it knows what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from detectors.anchors import DefaultBoxes
from detectors.config.build import build
from detectors.config.schema import CLASSIFICATION, Config
from detectors.models.classifier import Classifier
from detectors.wordtree.tree_sources import load_tree

LOSS_FILES = {"RegionLoss": "region", "MultiBoxLoss": "multibox", "CrossEntropyLoss": "cross_entropy"}


def part_problems(config: Config) -> Iterator[str]:
    """What is wrong with augmentation, model, loss and optimizer of settings that are right themselves."""
    yield from _augmentation_agrees_with_evaluation(config)
    yield from _parts_can_be_built(config)


def _augmentation_agrees_with_evaluation(config: Config) -> Iterator[str]:
    """An augmentation that fits images into the input itself must do so as the evaluation does."""
    augmentation = yield from _try("augment", config.augment)
    if augmentation is not None and augmentation.resize not in (None, config.input.resize):
        name = config.augment["_target_"].rpartition(".")[2].removesuffix("_augmentation")
        what = (
            f"input.resize={config.input.resize!r}: augment={name} trains as "
            f"input.resize={augmentation.resize} would evaluate"
        )
        yield f"{what}; set input.resize={augmentation.resize}, or another augment"


def _parts_can_be_built(config: Config) -> Iterator[str]:
    """Builds the parts on the meta device, without memory: only they know their sizes, names and ranges."""
    classes = yield from _number_of_classes(config)
    if classes is None:
        return
    with torch.device("meta"):
        model = yield from _try("model", config.model, num_classes=classes)
        loss = yield from _try("loss", config.loss)
        optimizer = config.optimizer
        if model is None:  # then nothing is known of the names that optimizer.rates can mean
            optimizer = {name: value for name, value in optimizer.items() if name != "rates"}
        module = model or nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        yield from _try("optimizer", optimizer, module=module)
    if model is None:
        return
    builder = config.model["_target_"].rpartition(".")[2]
    kind = CLASSIFICATION if isinstance(model, Classifier) else "detection"
    if kind != config.task:
        yield f"task={config.task}: {builder} is a model of {kind}; leave task to the model's yaml"
        return
    size_taken = model.check_size if isinstance(model, Classifier) else model.anchors
    try:
        size_taken(tuple(config.input.size))
    except ValueError as error:
        yield f"input.size={config.input.size}: {builder} cannot take it: {error}"
    else:
        yield from _scales_can_be_taken(config, model, size_taken)
    if loss is not None and not isinstance(loss, type(model.loss)):
        what = (
            f"loss._target_={config.loss['_target_']}: {builder} is trained with {type(model.loss).__name__}"
        )
        own = LOSS_FILES.get(type(model.loss).__name__, "...")
        fix = f"set loss={own}, or choose another model"
        yield f"{what}; {fix}"


def _number_of_classes(config: Config) -> Iterator[str]:
    """A generator that returns it, or None for a broken tree. 1 if only the files know the classes."""
    data = config.data
    if data.tree is None:
        return len(data.class_names or ["any"])
    try:
        return len(load_tree(data.tree))
    except (FileNotFoundError, ValueError) as error:
        yield f"data.tree: {error}"
        return None


def _scales_can_be_taken(
    config: Config, model: nn.Module, size_taken: Callable[[tuple[int, int]], Any]
) -> Iterator[str]:
    """SSD's default boxes are made for one size; YOLOv2 takes every multiple of its stride.

    size_taken: raises ValueError for a size that the model cannot take.
    """
    builder = config.model["_target_"].rpartition(".")[2]
    place = "input.multi_scale"
    scales = config.input.multi_scale
    sides = scales.sides() if scales else range(0)
    anchors = None if isinstance(model, Classifier) else model.anchors
    if isinstance(anchors, DefaultBoxes) and any(anchors.size != (side, side) for side in sides):
        height, width = anchors.size
        what = (
            f"{place}: {builder} is trained at {height} x {width} alone, for which its default boxes are made"
        )
        yield f"{what}; set {place}=null, or choose a YOLOv2"
        return
    for side in sides:
        try:
            size_taken((side, side))
        except ValueError as error:
            what = f"{place}: {builder} cannot take every side from {scales.min} to {scales.max}: {error}"
            yield f"{what}; set {place}=null, or other sides"
            return


def _try(group: str, node: Mapping[str, Any], **given: Any) -> Any:
    """Builds a part; a ValueError becomes a problem. A generator that returns the part, or None."""
    try:
        return build(node, **given)
    except ValueError as error:
        yield f"{group}: {error}"
