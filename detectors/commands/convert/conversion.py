"""What all conversions share: class names, configuration, a detector filled with what was found; and checkpoints as a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.commands.convert import ssd_ports
from detectors.config.check import check
from detectors.config.schema import Config, composed, merged, to_plain
from detectors.data.class_names import CLASS_LISTS, COCO_CLASSES, read_names
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.transfer import ABSENT, Transfer, fit_tensors

DATA = {"voc": "voc07", "coco": "coco2017"}  # what evaluate.py then takes if nothing else is said
WEIGHTS_HEADER = (
    "darknet_major",
    "darknet_minor",
    "darknet_revision",
)  # in a checkpoint's progress: the header of the .weights file it was
INHERITED = (
    "pixel_mean",
    "pixel_std",
    "channel_order",
    "clip_default_boxes",
)  # what a model inherits from the weights


@dataclass(frozen=True)
class Wish:
    """What a person wants of a conversion."""

    source: Path
    target: Path
    model: str | None = None  # yaml of conf/model; None follows from the file
    names: str | None = (
        None  # key of CLASS_LISTS or a file with one name a line; None follows from the number of classes
    )
    cfg: Path | None = None  # Darknet's description of the network
    keep_91: bool = False  # all of torchvision's outputs for COCO
    partial: bool = False  # load what fits
    overrides: Sequence[str] = ()  # as for train.py


@dataclass
class Converted:
    """A checkpoint made of another file, and what there is to say about it."""

    checkpoint: ckpt.Checkpoint
    transfer: Transfer
    notes: list[str] = field(default_factory=list)


@dataclass
class WeightSource:
    """Weights that go into a detector."""

    title: str
    classes: int | None  # None: a backbone, for any number
    tensors: Mapping[str, Tensor]
    origins: Mapping[str, str]  # key of tensors -> name in the file
    key: Callable[[str], str | None]  # our name -> key of tensors
    unused: Mapping[str, str] = field(default_factory=dict)  # name in the file -> why nothing takes it


def from_checkpoint(stored: ckpt.Checkpoint, wish: Wish) -> Converted:
    """Our own checkpoint, for other classes or another model; without a wish, the same without the optimiser's state."""
    names = stored.class_names if wish.names is None else chosen_class_names(wish, len(stored.class_names))
    if wish.model is None:
        config = check(merged(stored.config, wish.overrides))
    else:
        config = configuration(
            wish, wish.model, names, {key: stored.config["model"].get(key) for key in INHERITED}
        )
    if names != stored.class_names:
        config.data.class_names = list(names)

    source = WeightSource(
        "the checkpoint",
        len(stored.class_names),
        stored.model,
        {name: name for name in stored.model},
        key=str,
    )
    transfer = fill(config, names, source, wish)
    notes = [
        f"checkpoint of {stored.config['name']}, step {stored.step}, {len(stored.class_names)} classes -> {config.name}"
    ]
    kept = {key: stored.progress[key] for key in (*WEIGHTS_HEADER, "images_seen") if key in stored.progress}
    step = 0 if transfer.left else stored.step
    return Converted(weights_only(wish, config, names, transfer, step=step, **kept), transfer, notes)


def chosen_class_names(wish: Wish, classes: int | None) -> tuple[str, ...]:
    """The names that were asked for; else the usual ones for this number of classes, of which the user is told. ValueError if none are."""
    if wish.names in CLASS_LISTS:
        return CLASS_LISTS[wish.names]
    if wish.names is not None:
        return read_names(Path(wish.names))
    if classes == ssd_ports.COCO_OUTPUTS - 1:
        used = iter(COCO_CLASSES)
        return tuple(
            f"unused {column}" if column in ssd_ports.COCO_UNUSED else next(used)
            for column in range(1, ssd_ports.COCO_OUTPUTS)
        )
    if names := next((names for names in CLASS_LISTS.values() if len(names) == classes), None):
        return names
    what = f"the file has {classes} classes" if classes is not None else "a backbone knows no classes"
    raise ValueError(
        f"{wish.source}: {what}; name them with --names voc, --names coco or --names FILE (one name a line)"
    )


def configuration(wish: Wish, model: str, names: tuple[str, ...], settings: Mapping[str, Any]) -> Config:
    """What train.py would be given for this model, with the settings that come with the weights; the person's overrides win over both."""
    known = composed(choices(wish, model, names))["model"]
    given = [
        f"model.{key}={'null' if value is None else value}" for key, value in settings.items() if key in known
    ]
    return check(composed(choices(wish, model, names, given)))


def choices(wish: Wish, model: str, names: tuple[str, ...], given: Sequence[str] = ()) -> list[str]:
    """Overrides in the order in which the later wins; data of VOC or COCO where the class names are theirs."""
    data = [f"data={DATA[key]}" for key, known in CLASS_LISTS.items() if known == names]
    chosen = any(override.startswith("data=") for override in wish.overrides)
    return [f"model={model}", *([] if chosen else data), *given, *wish.overrides]


def fill(config: Config, names: tuple[str, ...], source: WeightSource, wish: Wish) -> Transfer:
    """The state of a new detector with the source's weights in it. ValueError names what does not fit, or what the file lacks."""
    state = assemble.build_detector(config, len(names)).state_dict()
    with torch.device("meta"):
        twin = assemble.build_detector(config, source.classes).state_dict() if source.classes else {}
    taken = {ours: key for ours in state if (key := source.key(ours)) in source.tensors}
    tensors = {ours: source.tensors[key] for ours, key in taken.items()}
    origins = {ours: source.origins[key] for ours, key in taken.items()}
    transfer = fit_tensors(
        state, tensors, where=str(wish.source), twin=twin, origins=origins, partial=wish.partial
    )
    spare = source.tensors.keys() - set(taken.values())
    transfer.unused = {
        **source.unused,
        **{source.origins[k]: f"{config.name} has no such parameter" for k in source.tensors if k in spare},
    }
    absent = [name for name, why in transfer.left.items() if why == ABSENT]
    if not transfer.loaded or (source.classes and absent and not wish.partial):
        raise ValueError(
            f"{wish.source}: {source.title} has no {absent[0]}, which {config.name} needs ({len(absent)} of {len(state)} are missing): "
            "another network; choose the model that the file was made for, or load what fits with --partial"
        )
    return transfer


def weights_only(
    wish: Wish, config: Config, names: tuple[str, ...], transfer: Transfer, *, step: int = 0, **progress
) -> ckpt.Checkpoint:
    """A checkpoint without optimiser and random state: evaluate.py, predict and trainer.init_from take it, trainer.resume does not."""
    return ckpt.Checkpoint(
        wish.target, step, to_plain(config), names, transfer.state, progress, optimizer={}, random={}
    )
