"""The group `init`: what the weights of a new run are before its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detectors.config.build import build
from detectors.config.schema import Config
from detectors.darknet.weights import SEEN_BUFFER
from detectors.models.detector import Detector
from detectors.training.checkpoint import find_checkpoint
from detectors.training.initial.class_rows import class_layers, copy_class_rows
from detectors.training.initial.last_layers import randomize_last
from detectors.training.initial.named_weights import NamedWeights, named_weights
from detectors.training.initial.weight_files import WeightFile, read_weight_file
from detectors.training.transfer import Transfer, fit_tensors

# Settings of a model that give its first layer's input and its anchors their meaning.
INPUT_MEANINGS = ("pixel_mean", "pixel_std", "channel_order", "anchors", "sizes")


def initial_weights(place: str | None) -> WeightFile | None:
    """The file that init.from names; None for none.

    FileNotFoundError or ValueError that says how to get one.
    """
    if place is None:
        return None
    try:
        return read_weight_file(find_checkpoint(place))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"init.from: {error}; docs/transfer.md lists what can be read; "
            "init.from=null starts from random weights"
        ) from error


def initialise(
    detector: Detector, source: WeightFile | None, config: Config, class_names: Sequence[str]
) -> list[str]:
    """Does to a new detector what `init` says. source: what initial_weights gave.

    Returns lines that say what was done.
    """
    lines = [] if source is None else start_from(detector, source, config, class_names)
    if config.init.randomize == "last":
        lines += randomize_last(detector, config.input.size, config.seed)
    return lines


def start_from(
    detector: Detector, source: WeightFile, config: Config, class_names: Sequence[str]
) -> list[str]:
    """Copies a file's weights into a new detector where names and shapes agree, and rows of classes by name.

    Returns lines that say what was loaded and what was not. The loss starts anew, as with Darknet's `partial`
    and -clear. ValueError if nothing fits, or if a number that would be loaded is not finite.
    """
    try:
        weights = named_weights(source, detector, config)
    except ValueError as error:
        raise ValueError(f"init.from: {error}") from error
    transfer = _fit(detector, weights, config, tuple(class_names), where=str(source.path))
    if not transfer.loaded and not transfer.partly:
        raise ValueError(
            f"{source.path}: none of its {len(weights.tensors)} tensors fits {config.name}; "
            "set init.from to weights of this network, or fewer init.without"
        )
    for name in (*transfer.loaded, *transfer.partly):
        if not transfer.state[name].isfinite().all():
            raise ValueError(f"{source.path}: {name} holds NaN or infinity; use another file")
    detector.load_state_dict(transfer.state, strict=False)
    first, *rest = transfer.summary()
    warnings = _changed_meaning(transfer, weights, config, class_names)
    return [f"{weights.title} of {source.path}: {first}", *rest, *warnings]


def _fit(
    detector: Detector, weights: NamedWeights, config: Config, classes: tuple[str, ...], *, where: str
) -> Transfer:
    targets = _without_loss(detector.state_dict())
    held = [name for name in targets if name.startswith(tuple(config.init.without))]
    sources = {name: tensor for name, tensor in _without_loss(weights.tensors).items() if name not in held}
    by_class = {}
    if weights.class_names and weights.class_names != classes:
        by_class = {name: shared for name, shared in class_layers(detector).items() if name not in held}
    whole = {name: tensor for name, tensor in sources.items() if name not in by_class}
    with torch.device("meta"):
        count = len(weights.class_names) or 1
        twin = build(config.model, num_classes=count, loss=build(config.loss)).state_dict()
    transfer = fit_tensors(
        targets, whole, where=where, twin=twin, origins=weights.origins or None, partial=True
    )
    for name in by_class:
        del transfer.left[name]
    copy_class_rows(transfer, weights, by_class, classes=classes)
    transfer.left |= dict.fromkeys(held, "init.without")
    absent = {name: "nothing here has this name" for name in sources if name not in targets}
    transfer.unused = absent | dict(weights.unused)
    return transfer


def _without_loss(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Also without Darknet's count of images, a buffer of a cfg's network."""
    counts = tuple(name for name in state if name.endswith(f".{SEEN_BUFFER}"))
    return {name: t for name, t in state.items() if not name.startswith("loss.") and name not in counts}


def _changed_meaning(
    transfer: Transfer, weights: NamedWeights, config: Config, class_names: Sequence[str]
) -> Iterator[str]:
    """Warnings about weights that fit by size but were trained for other pixels, anchors or classes."""
    before = weights.settings
    for name in INPUT_MEANINGS:
        if name in before and name in config.model and not _equal(before[name], config.model[name]):
            yield (
                f"trained with {name}={before[name]}, but model.{name}={config.model[name]} here; "
                "make them equal"
            )
    if not weights.class_names and any(name.startswith("head.") for name in transfer.loaded):
        yield (
            f"the file does not name its {len(class_names)} classes, and its head fits by size alone; "
            "init.without=[head] starts it anew"
        )


def _equal(before: Any, now: Any) -> bool:
    """Whether two settings are the same; YAML's lists and tuples are alike."""
    plain = [list(value) if isinstance(value, list | tuple) else value for value in (before, now)]
    return plain[0] == plain[1]
