"""trainer.init_from: a new run that starts from the weights of another one, as far as they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from detectors.config.build import build
from detectors.config.schema import Config
from detectors.models.detector import Detector
from detectors.training.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from detectors.training.transfer import Transfer, fit_tensors

PIXEL_SETTINGS = ("pixel_mean", "pixel_std", "channel_order")  # what the first layer expects of its input


def initial_weights(place: str) -> Checkpoint:
    """The checkpoint that trainer.init_from names.

    FileNotFoundError or ValueError that says how to get one.
    """
    try:
        return load_checkpoint(find_checkpoint(place))
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(
            f"trainer.init_from: {error}; detectors convert makes checkpoints of other programs' weights; "
            "trainer.init_from=null starts from random ones"
        ) from error


def start_from(
    detector: Detector, checkpoint: Checkpoint, config: Config, class_names: Sequence[str]
) -> list[str]:
    """Copies a checkpoint's weights into a new detector where names and shapes agree; its averaged ones, if
    it has some.

    Returns lines that say what was loaded and what was not. The loss starts anew, as with Darknet's `partial`
    and
    -clear. ValueError if nothing fits.
    """
    targets = _without_loss(detector.state_dict())
    held = [name for name in targets if name.startswith(tuple(config.trainer.init_without))]
    sources = {name: tensor for name, tensor in _without_loss(checkpoint.weights).items() if name not in held}
    with torch.device("meta"):
        classes = len(checkpoint.class_names)
        twin = build(config.model, num_classes=classes, loss=build(config.loss)).state_dict()
    transfer = fit_tensors(targets, sources, where=str(checkpoint.path), twin=twin, partial=True)
    transfer.left |= dict.fromkeys(held, "trainer.init_without")
    transfer.unused = {name: "nothing here has this name" for name in sources if name not in targets}
    if not transfer.loaded:
        raise ValueError(
            f"{checkpoint.path}: none of its {len(checkpoint.weights)} tensors fits {config.name}; "
            "set trainer.init_from to weights of this network, or fewer trainer.init_without"
        )
    detector.load_state_dict(transfer.state, strict=False)
    first, *rest = transfer.summary()
    warnings = _changed_meaning(transfer, checkpoint, config, class_names)
    kind = "averaged weights" if checkpoint.ema else "weights"
    return [f"{kind} of {checkpoint.path}: {first}", *rest, *warnings]


def _without_loss(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("loss.")}


def _changed_meaning(
    transfer: Transfer, checkpoint: Checkpoint, config: Config, class_names: Sequence[str]
) -> Iterator[str]:
    """Warnings about weights that fit by size but were trained for other pixel values or other classes."""
    before = checkpoint.config.get("model")
    before = before if isinstance(before, dict) else {}
    for name in PIXEL_SETTINGS:
        if name in before and name in config.model and not _equal(before[name], config.model[name]):
            yield (
                f"trained with {name}={before[name]}, but model.{name}={config.model[name]} here; "
                "make them equal"
            )
    has_head = any(name.startswith("head.") for name in transfer.loaded)
    same_size = len(class_names) == len(checkpoint.class_names)
    if has_head and same_size and tuple(class_names) != checkpoint.class_names:
        yield (
            "its classes have other names or another order, and its head fits by size alone; "
            "trainer.init_without=[head] starts it anew"
        )


def _equal(before: object, now: object) -> bool:
    """Whether two settings are the same; YAML's lists and tuples are alike."""
    plain = [list(value) if isinstance(value, list | tuple) else value for value in (before, now)]
    return plain[0] == plain[1]
