"""From `_target_` and keywords to an object, and from a builder's signature to the settings of a yaml."""

from __future__ import annotations

import inspect
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from detectors.config.typed import as_hinted
from detectors.data.suggestions import did_you_mean

MOVED = {  # `_target_`s of checkpoints and configurations that were stored before a move -> today's
    "detectors.losses.RegionLoss": "detectors.losses.region_loss.RegionLoss",
    "detectors.losses.MultiBoxLoss": "detectors.losses.multibox_loss.MultiBoxLoss",
    "detectors.optim.sgd": "detectors.training.optim.sgd",
    "detectors.optim.adamw": "detectors.training.optim.adamw",
    "detectors.darknet_detector.darknet_detector": "detectors.darknet.cfg_detector.darknet_detector",
    "detectors.data.transforms.none": "detectors.data.augment.transforms.no_augmentation",
    "detectors.data.transforms.light": "detectors.data.augment.transforms.light_augmentation",
    "detectors.data.transforms.ssd": "detectors.data.augment.transforms.ssd_augmentation",
    "detectors.data.transforms.darknet": "detectors.data.augment.transforms.darknet_augmentation",
    "detectors.data.transforms.darknet_2016": "detectors.data.augment.transforms.darknet_2016_augmentation",
    "detectors.data.transforms.course": "detectors.data.augment.transforms.course_augmentation",
}
PACKAGE_PREFIX = "detectors."
LARGEST_INTEGER = 2**63  # the first one that PyTorch cannot hold
TRUSTED: set[str] = set()  # further `_target_`s, which the user named on this command line


def trust(targets: Sequence[str]) -> None:
    """Accepts the user's own builders by their dotted names.

    They may come from a command line, not from a checkpoint.
    """
    TRUSTED.update(targets)


def build(node: Mapping[str, Any], *positional: Any, **given: Any) -> Any:
    """Calls node["_target_"] with the rest of the node as keywords, after what the code gives.

    ValueError if the target is not a builder.
    """
    keywords = {name: value for name, value in node.items() if name != "_target_"}
    return find_target(node["_target_"])(*positional, **keywords, **given)


def find_target(target: str, group: str | None = None) -> Callable[..., Any]:
    """'detectors.models.ssd.ssd300' -> the function. Calls nothing.

    ValueError unless the target is trusted, or marked as a builder where it is defined (structures.builder),
    and of `group` if one is given.
    """
    if not isinstance(target, str) or not (target.startswith(PACKAGE_PREFIX) or target in TRUSTED):
        raise ValueError(
            f"_target_={target!r}: only builders of this package can be built, such as "
            "'detectors.models.ssd.ssd300'; builders=[...] on the command line adds your own"
        )
    module_name, _, name = target.rpartition(".")
    module = import_for(f"_target_={target!r}", module_name)
    made = getattr(module, name, None)
    if callable(made) and (target in TRUSTED or _is_builder(made, module_name, group)):
        return made
    offered = [n for n, value in vars(module).items() if _is_builder(value, module_name, group)]
    hint = did_you_mean(name, offered, listed=True)
    raise ValueError(
        f"_target_={target!r}: {module_name} has no builder {name} of {group or 'any group'}{hint}"
    )


def import_for(place: str, module_name: str) -> types.ModuleType:
    """A module that a setting names; the user's own may lie in the current folder, too.

    ValueError that begins with `place` if there is no such module, or if the user's own cannot be imported.
    """
    own = module_name.startswith(PACKAGE_PREFIX)
    if not own and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # train.py and `detectors` have their own folders there
    try:
        return import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(f"{place}: there is no module {error.name}") from error
        if own:
            raise
        what = f"{place}: {module_name} cannot be imported ({type(error).__name__}: {error})"
        raise ValueError(what) from error


def _is_builder(value: Any, module_name: str, group: str | None) -> bool:
    """Whether a module's value is marked as a builder and defined in that module."""
    marked = vars(value).get("builder_of") if hasattr(value, "__dict__") else None
    return marked is not None and group in (None, marked) and value.__module__ == module_name


def with_whole_numbers(node: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """A copy of a node in which 1e3 is a whole number where its builder wants one."""
    try:
        hints = _keyword_hints(find_target(node["_target_"], group))
    except (KeyError, TypeError, ValueError):
        return node  # signature_problems says what is wrong with it
    return {name: as_hinted(value, hints.get(name, Any)) for name, value in node.items()}


def _keyword_hints(target: Callable) -> dict[str, Any]:
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def signature_problems(node: Mapping[str, Any], place: str, given: Sequence[str]) -> Iterator[str]:
    """Problems of a node with its builder: an unknown, missing or ill-typed keyword.

    `given`: keywords that the code supplies.
    """
    if not isinstance(node, Mapping):
        yield f"{place}={node!r}: must be a group of settings; choose a yaml of conf/{place}/"
        return
    if "_target_" not in node:
        yield f"{place}._target_ is missing: choose a yaml of conf/{place}/"
        return
    try:
        target = find_target(node["_target_"], place)
    except ValueError as error:
        yield f"{place}.{error}"
        return
    hints = _keyword_hints(target)
    parameters = {name: p for name, p in inspect.signature(target).parameters.items() if name not in given}
    for name in node.keys() - {"_target_"} - parameters.keys():
        yield _unknown(node, place, name, target, parameters, given)
    for name, parameter in parameters.items():
        if node.get(name, parameter.default) in (inspect.Parameter.empty, "???"):
            yield f"{place}.{name} is missing: {target.__name__} needs it; set {place}.{name}=..."
        elif name in node and not fits(node[name], hints.get(name, Any)):
            yield f"{place}.{name}={node[name]!r}: must be {describe_type(hints[name])}"


def _unknown(
    node: Mapping[str, Any],
    place: str,
    name: str,
    target: Callable,
    parameters: Mapping,
    given: Sequence[str],
) -> str:
    if name in given:
        return (
            f"{place}.{name}={node[name]!r}: {name} cannot be set here, "
            f"the program gives it to {target.__name__}; remove it"
        )
    hint = did_you_mean(name, parameters, listed=True, place=place)
    return f"{place}.{name}={node[name]!r}: {target.__name__} has no such keyword{hint}"


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from yaml fits a type annotation.

    Annotations beyond yaml's types accept everything.
    """
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max  # neither infinite nor NaN
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_INTEGER
    if hint in (bool, str, types.NoneType):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and _items_fit(value, origin, arguments)
    return True


def _items_fit(value: Sequence, origin: type, arguments: tuple) -> bool:
    """list[X] and tuple[X, ...]: every item; tuple[X, Y]: item by item."""
    if origin is tuple and arguments[-1:] != (Ellipsis,):
        return len(value) == len(arguments) and all(
            fits(item, hint) for item, hint in zip(value, arguments, strict=True)
        )
    return all(fits(item, arguments[0]) for item in value)


def describe_type(hint: Any) -> str:
    """int -> 'a whole number'; list[float] -> 'a list of numbers' ..., for messages."""
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
    }
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        listed = any(typing.get_origin(argument) is list for argument in arguments)  # then null is the list's
        return (", or " if listed else " or ").join(describe_type(argument) for argument in arguments)
    if is_dataclass(hint):
        return "a group of settings"
    if origin in (list, tuple, Sequence):
        return f"a list whose items are each {describe_type(arguments[0])}"
    return words.get(hint, str(getattr(hint, "__name__", hint)))
