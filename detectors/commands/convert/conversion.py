"""What all conversions share: class names, configuration, filling a detector; and our checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.config.check import check
from detectors.config.composing import composed, merged
from detectors.config.schema import Config, to_plain
from detectors.data.class_names import CLASS_LISTS, COCO_CLASSES, read_names
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from detectors.training.initial import ssd_ports
from detectors.training.transfer import ABSENT, Transfer, fit_tensors

DATA = {"voc": "voc07", "coco": "coco2017"}  # evaluate.py's default data set for these class names
# In a checkpoint's progress: the header of the .weights file that it was made from.
WEIGHTS_HEADER = ("darknet_major", "darknet_minor", "darknet_revision")
# Settings that depend on the weights: another model gets them from the checkpoint.
INHERITED = ("pixel_mean", "pixel_std", "channel_order", "clip_default_boxes")


@dataclass(frozen=True)
class Request:
    """The arguments of a conversion."""

    source: Path
    target: Path
    model: str | None = None  # yaml of conf/model; None: chosen by the file
    names: str | None = None  # key of CLASS_LISTS, or a file; None: chosen by the number of classes
    cfg: Path | None = None  # Darknet's description of the network
    keep_91: bool = False  # keep all of torchvision's outputs for COCO
    partial: bool = False  # load what fits
    overrides: Sequence[str] = ()  # as for train.py


@dataclass
class Conversion:
    """The result: a checkpoint, what was loaded into it, and lines for the user."""

    checkpoint: ckpt.Checkpoint
    transfer: Transfer
    notes: list[str] = field(default_factory=list)


@dataclass
class WeightSource:
    """Weights to load into a detector."""

    title: str
    classes: int | None  # None: a backbone, which fits any number
    tensors: Mapping[str, Tensor]
    origins: Mapping[str, str]  # key of tensors -> name in the file
    key: Callable[[str], str | None]  # our name -> key of tensors
    unused: Mapping[str, str] = field(default_factory=dict)  # name in the file -> why it is not used


def from_checkpoint(stored: ckpt.Checkpoint, request: Request) -> Conversion:
    """Our checkpoint for other classes or another model, or the same without the optimiser's state.

    Averaged weights take the place of the last step's.
    """
    names = stored.class_names
    if request.names is not None:
        names = chosen_class_names(request, len(stored.class_names))
    if request.model is None:
        config = check(merged(stored.config, request.overrides))
    else:
        model = stored.config.get("model")
        if not isinstance(model, dict):
            raise ValueError(f"{stored.path}: its configuration has no model; it was damaged or changed")
        inherited = {key: model.get(key) for key in INHERITED}
        config = configuration(request, request.model, names, inherited)
    if names != stored.class_names:
        config.data.class_names = list(names)

    source = WeightSource(
        title="the checkpoint",
        classes=len(stored.class_names),
        tensors=stored.weights,
        origins={name: name for name in stored.weights},
        key=str,
    )
    transfer = fill(config, names, source, request)
    notes = [
        f"checkpoint of {stored.config.get('name')}, step {stored.step}, "
        f"{len(stored.class_names)} classes{', averaged weights' if stored.ema else ''} -> {config.name}"
    ]
    kept = {key: stored.progress[key] for key in (*WEIGHTS_HEADER, "images_seen") if key in stored.progress}
    step = 0 if transfer.left else stored.step
    return Conversion(weights_only(request, config, names, transfer, step=step, **kept), transfer, notes)


def chosen_class_names(request: Request, classes: int | None) -> tuple[str, ...]:
    """The requested class names, else the usual ones for this many classes. ValueError if there are none."""
    if request.names in CLASS_LISTS:
        return CLASS_LISTS[request.names]
    if request.names is not None:
        return read_names(Path(request.names))
    if classes == ssd_ports.COCO_OUTPUTS - 1:
        return _names_of_91_outputs()
    for names in CLASS_LISTS.values():
        if len(names) == classes:
            return names
    problem = f"the file has {classes} classes" if classes is not None else "a backbone has no classes"
    raise ValueError(
        f"{request.source}: {problem}; "
        "name them with --names voc, --names coco or --names FILE (one name per line)"
    )


def _names_of_91_outputs() -> tuple[str, ...]:
    used = iter(COCO_CLASSES)
    return tuple(
        f"unused {column}" if column in ssd_ports.COCO_UNUSED else next(used)
        for column in range(1, ssd_ports.COCO_OUTPUTS)
    )


def configuration(
    request: Request, model: str, names: tuple[str, ...], settings: Mapping[str, Any]
) -> Config:
    """train.py's configuration of this model, with the weights' settings and then the user's overrides."""
    known = composed(choices(request, model, names))["model"]
    model_overrides = [
        f"model.{key}={'null' if value is None else value}" for key, value in settings.items() if key in known
    ]
    return check(composed(choices(request, model, names, model_overrides)))


def choices(
    request: Request, model: str, names: tuple[str, ...], model_overrides: Sequence[str] = ()
) -> list[str]:
    """Overrides; later ones win. For the class names of VOC or COCO, that data set is the default."""
    data = [f"data={DATA[key]}" for key, known_names in CLASS_LISTS.items() if known_names == names]
    if any(override.startswith("data=") for override in request.overrides):
        data = []
    return [f"model={model}", *data, *model_overrides, *request.overrides]


def fill(config: Config, names: tuple[str, ...], source: WeightSource, request: Request) -> Transfer:
    """The state of a new detector filled with the source's weights.

    ValueError names the first tensor that does not fit or that the file does not have.
    """
    state = assemble.build_detector(config, len(names)).state_dict()
    with torch.device("meta"):
        twin = assemble.build_detector(config, source.classes).state_dict() if source.classes else {}
    keys = {name: source.key(name) for name in state}
    keys = {name: key for name, key in keys.items() if key in source.tensors}  # our name -> key of tensors
    transfer = fit_tensors(
        state,
        {name: source.tensors[key] for name, key in keys.items()},
        where=str(request.source),
        twin=twin,
        origins={name: source.origins[key] for name, key in keys.items()},
        partial=request.partial,
    )
    used = set(keys.values())
    transfer.unused = dict(source.unused)
    for key in source.tensors:
        if key not in used:
            transfer.unused[source.origins[key]] = f"{config.name} has no such parameter"
    _check_complete(transfer, config, source, request)
    return transfer


def _check_complete(transfer: Transfer, config: Config, source: WeightSource, request: Request) -> None:
    absent = [name for name, reason in transfer.left.items() if reason == ABSENT]
    if absent and (not transfer.loaded or (source.classes and not request.partial)):
        raise ValueError(
            f"{request.source}: {source.title} has no {absent[0]}, which {config.name} needs "
            f"({len(absent)} of {len(transfer.state)} tensors are missing): this is another network; "
            "choose the model of the file, or load what fits with --partial"
        )
    if not transfer.loaded:
        name, reason = next(iter(transfer.left.items()))
        raise ValueError(
            f"{request.source}: no tensor of {source.title} fits {config.name} ({name}: {reason}); "
            "choose the model of the file"
        )


def weights_only(
    request: Request, config: Config, names: tuple[str, ...], transfer: Transfer, *, step: int = 0, **progress
) -> ckpt.Checkpoint:
    """A checkpoint without optimiser and random state.

    evaluate.py, predict and init.from take it; trainer.resume does not.
    """
    return ckpt.Checkpoint(
        request.target, step, to_plain(config), names, transfer.state, progress, optimizer={}, random={}
    )
