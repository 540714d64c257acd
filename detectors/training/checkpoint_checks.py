"""What a checkpoint's parts must look like. They may come from others: nothing is used before it is checked.

Each function raises ValueError with one line: the file, the entry, what is wrong, how to go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any, get_type_hints

import torch
from torch import Tensor

from detectors.config.build import LARGEST_INTEGER
from detectors.training.progress import Progress
from detectors.training.run_files import check_fields, kind_of

GO_ON = "it was damaged or changed: use another checkpoint, or train again"
FIELDS = {
    "step": int,
    "config": dict,
    "class_names": list[str],
    "model": dict,
    "progress": dict,
    "optimizer": dict,
    "random": dict,
}
PROGRESS_FIELDS = get_type_hints(Progress)
# A resume needs these; checkpoints of older versions have no others.
REQUIRED_PROGRESS = ("images_seen", "train_seconds", "best")
COMPUTATION = ("foreach", "fused")  # hyperparameters of an optimiser that do not affect what it computes
LARGEST_COUNT = 2**62  # of steps and images: int64 holds it
LARGEST_CONFIG = 100_000  # entries; a few bytes of pickle can stand for any number of them
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def check_content(content: Mapping[str, Any], place: str) -> None:
    """All entries of a checkpoint, as far as they can be checked without building anything."""
    check_fields(content, FIELDS, place, GO_ON)
    if not 0 <= content["step"] < LARGEST_COUNT:
        raise ValueError(f"{place}: step is {kind_of(content['step'])}, must be 0 or more; {GO_ON}")
    names = content["class_names"]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{place}: class_names must name each class once; {GO_ON}")
    check_stored_config(content["config"], place)
    _check_progress(content, place)
    _check_recent(content.get("recent", {}), f"{place}: recent")
    versions = content.get("versions", {})
    check_fields({"versions": versions}, {"versions": dict}, place, GO_ON)
    check_fields(versions, dict.fromkeys(versions, str), f"{place}: versions", GO_ON)
    _check_scaler(content.get("scaler", {}), f"{place}: scaler")
    check_fields(content, {"ema": dict} if "ema" in content else {}, place, GO_ON)
    for part in ("model", "ema"):
        for name, tensor in content.get(part, {}).items():
            if problem := _tensor_problem(tensor):
                raise ValueError(f"{place}: {part}[{name!r}] {problem}; {GO_ON}")


def check_stored_config(config: dict, place: str) -> None:
    """Plain settings that OmegaConf would not interpolate."""
    count = 0
    values: list[Any] = [config]
    while values and count < LARGEST_CONFIG:
        count += 1
        value = values.pop()
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, str) and "${" in value:
            raise ValueError(
                f"{place}: refused, because its configuration holds {value!r}; train.py stores resolved "
                "values, and an interpolation could read this machine's environment"
            )
        elif not isinstance(value, str | int | float | None) or _is_no_number(value):
            raise ValueError(
                f"{place}: its configuration holds {kind_of(value)}, which is not a setting; {GO_ON}"
            )
    if values:
        raise ValueError(f"{place}: its configuration is nested without end; {GO_ON}")


def _is_no_number(value: Any) -> bool:
    """NaN, or an integer beyond int64, which cannot even be printed if it is long enough."""
    return (isinstance(value, int) and abs(value) >= LARGEST_INTEGER) or value != value


def _check_progress(content: Mapping[str, Any], place: str) -> None:
    progress = content["progress"]
    place = f"{place}: progress"
    known = {name: hint for name, hint in PROGRESS_FIELDS.items() if name in progress}
    others = dict.fromkeys(progress.keys() - known.keys(), int)  # convert keeps a weights file's header there
    check_fields(progress, known | others, place, GO_ON)
    for name, value in progress.items():
        if type(value) is int and not 0 <= value < LARGEST_COUNT and name != "best":
            raise ValueError(f"{place}: {name} is {kind_of(value)}, must be 0 or more; {GO_ON}")
    if progress.get("step", content["step"]) != content["step"]:
        raise ValueError(
            f"{place}: step is {progress['step']}, but the checkpoint's is {content['step']}; {GO_ON}"
        )
    for name, kind in (("best_scalars", float | None), ("stop_best", float)):
        numbers = progress.get(name, {})
        check_fields(numbers, dict.fromkeys(numbers, kind), f"{place}: {name}", GO_ON)


def _check_recent(recent: Any, place: str) -> None:
    """{}, or `names` of loss terms and a float tensor `terms` (batches, terms)."""
    if recent == {}:
        return
    if not isinstance(recent, dict):
        raise ValueError(f"{place} is {kind_of(recent)}, must be a dict; {GO_ON}")
    check_fields(recent, {"names": list[str]}, place, GO_ON)
    terms = recent.get("terms")
    if problem := _tensor_problem(terms):
        raise ValueError(f"{place}: terms {problem}; {GO_ON}")
    if not terms.is_floating_point() or terms.shape[1:] != (len(recent["names"]),):
        raise ValueError(f"{place}: terms must be a number for each name and batch; {GO_ON}")


def _check_scaler(scaler: Any, place: str) -> None:
    """{}, or what LossScaler.state returns."""
    if scaler == {}:
        return
    if not isinstance(scaler, dict):
        raise ValueError(f"{place} is {kind_of(scaler)}, must be a dict; {GO_ON}")
    check_fields(scaler, {"scale": float, "growth_tracker": int, "overflows": int}, place, GO_ON)
    if scaler["scale"] <= 0:
        raise ValueError(f"{place}: scale is {scaler['scale']}, must be above 0; {GO_ON}")
    for name in ("growth_tracker", "overflows"):
        if not 0 <= scaler[name] < 2**31:  # int32 holds it
            raise ValueError(f"{place}: {name} is {kind_of(scaler[name])}, must be 0 or more; {GO_ON}")


def stored_progress(progress: Mapping[str, Any], step: int, place: str) -> Progress:
    """The progress of a checkpoint that a run goes on from, at `step`; its types were checked on reading."""
    if absent := [name for name in REQUIRED_PROGRESS if name not in progress]:
        raise ValueError(f"{place}: progress: {absent[0]} is missing; {GO_ON}")
    known = {name: value for name, value in progress.items() if name in PROGRESS_FIELDS}
    known.setdefault("evaluated", step)  # older checkpoints were written after their evaluation
    return Progress(**known | {"step": step})


def _tensor_problem(value: Any) -> str | None:
    """What is wrong with a stored weight or an entry of the optimiser's state; None for a usable tensor."""
    if not isinstance(value, Tensor):
        return f"is {kind_of(value)}, must be a tensor"
    odd = value.is_nested or value.layout != torch.strided
    if odd or value.device.type != "cpu" or value.dtype not in FLOATS + INTEGERS:
        return f"is a tensor of type {value.dtype}, {value.layout}, {value.device.type}, which no network has"
    # Strides of 0 make a huge tensor of a small file.
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"is a tensor of shape {tuple(value.shape)} with fewer numbers"
    if not value.isfinite().all():
        return "holds NaN or infinity: the training had diverged"
    return None


def check_model_state(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], place: str) -> None:
    """Whether a state dict has the names, shapes and kinds of numbers of a network's own."""
    problems = list(_misfits(own, stored))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(
            f"{place}: its weights do not fit the configuration that it names: {problems[0]}{more}; {GO_ON}"
        )


def _misfits(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> Iterator[str]:
    for name, tensor in own.items():
        if name not in stored:
            yield f"{name} is missing"
        elif stored[name].shape != tensor.shape:
            shapes = f"{tuple(stored[name].shape)} in the file and {tuple(tensor.shape)} in the network"
            yield f"{name} is {shapes}"
        elif stored[name].is_floating_point() != tensor.is_floating_point():
            yield f"{name} is {stored[name].dtype} in the file and {tensor.dtype} in the network"
    yield from (f"{name} is in the file and not in the network" for name in stored if name not in own)


def checked_optimizer_state(
    optimizer: torch.optim.Optimizer, stored: Mapping[str, Any], place: str
) -> dict[str, Any]:
    """An optimiser's stored state, if it is that of `optimizer`: groups, hyperparameters, state by parameter.

    Hyperparameters that an older PyTorch did not have get the values of `optimizer`. So do those that say how
    a step is computed: a resume may change the precision.
    """
    place = f"{place}: optimizer"
    check_fields(stored, {"state": dict, "param_groups": list}, place, GO_ON)
    own_groups = optimizer.state_dict()["param_groups"]
    groups = list(stored["param_groups"])
    if len(groups) != len(own_groups):
        raise ValueError(f"{place}: has {len(groups)} groups, this model's has {len(own_groups)}; {GO_ON}")
    parameters = []
    for number, (group, own, live) in enumerate(zip(groups, own_groups, optimizer.param_groups, strict=True)):
        where = f"{place}: param_groups[{number}]"
        if not isinstance(group, dict):
            raise ValueError(f"{where} is {kind_of(group)}, must be a dict; {GO_ON}")
        check_fields(group, {"params": list, "lr": float}, where, GO_ON)
        group = groups[number] = group | {name: own[name] for name in COMPUTATION if name in own}
        for key, value in own.items():
            if not _same_kind(group.get(key, value), value):
                given = kind_of(group[key])
                raise ValueError(f"{where}: {key} is {given}, this model's is {kind_of(value)}; {GO_ON}")
        if group["params"] != own["params"]:
            raise ValueError(f"{where}: it has other parameters than this model's; {GO_ON}")
        sizes = {parameter.ndim for parameter in live["params"]}
        names = {ndim: _state_names(optimizer, group, ndim, where) for ndim in sizes}
        parameters += [(parameter, names[parameter.ndim]) for parameter in live["params"]]
    unknown = [key for key in stored["state"] if type(key) is not int or not 0 <= key < len(parameters)]
    if unknown:
        raise ValueError(f"{place}: state has an entry {unknown[0]!r}, which no parameter has; {GO_ON}")
    if not stored["state"] and any(names for _, names in parameters):
        raise ValueError(f"{place}: state is empty; {GO_ON}")
    for number, state in stored["state"].items():
        _check_parameter_state(state, *parameters[number], f"{place}: state[{number}]")
    return {**stored, "param_groups": [own | group for own, group in zip(own_groups, groups, strict=True)]}


def _same_kind(given: Any, own: Any) -> bool:
    """Numbers for numbers, lists alike; flags and parameter numbers must be equal."""
    if isinstance(own, list | tuple):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(own)
            and all(_same_kind(a, b) for a, b in zip(given, own, strict=True))
        )
    if type(own) is float or type(own) is int:
        return type(given) in (int, float) and abs(given) < LARGEST_INTEGER
    return type(given) is type(own) and given == own


def _state_names(
    optimizer: torch.optim.Optimizer, group: Mapping[str, Any], ndim: int, where: str
) -> Mapping[str, tuple[bool, ...]] | None:
    """Entry of the state of a parameter of `ndim` dimensions -> which of these it has, found by a step of a
    twin. The others are 1; () is a number.

    The twin's constructor also checks the ranges of the hyperparameters. None for an optimiser that is not
    PyTorch's.
    """
    kind = type(optimizer)
    if kind is not getattr(torch.optim, kind.__name__, None):
        return None
    parameter = torch.nn.Parameter(torch.zeros(tuple(range(2, 2 + ndim))))
    settings = {
        name: group[name] for name in signature(kind).parameters if name in group and name != "params"
    }
    try:
        twin = kind([parameter], **settings)
        parameter.grad = torch.zeros_like(parameter)
        twin.step()
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}; {GO_ON}") from error
    state = {name: value for name, value in twin.state[parameter].items() if value is not None}
    return {name: tuple(size > 1 for size in value.shape) for name, value in state.items()}


def _check_parameter_state(
    state: Any, parameter: Tensor, names: Mapping[str, tuple[bool, ...]] | None, where: str
) -> None:
    """names: from _state_names."""
    if not isinstance(state, dict):
        raise ValueError(f"{where} is {kind_of(state)}, must be a dict; {GO_ON}")
    if names is None:
        return
    for name, kept in names.items():
        shape = tuple(size if keep else 1 for size, keep in zip(parameter.shape, kept, strict=False))
        tensor = state.get(name)
        if type(tensor) in (int, float) and abs(tensor) < LARGEST_INTEGER:
            tensor = torch.tensor(tensor)
        if problem := _tensor_problem(tensor):
            raise ValueError(f"{where}: {name} {problem}; {GO_ON}")
        if tuple(tensor.shape) != shape or not (tensor.is_floating_point() or not kept):
            raise ValueError(
                f"{where}: {name} is {tensor.dtype} {tuple(tensor.shape)}, its parameter is {shape}; {GO_ON}"
            )
