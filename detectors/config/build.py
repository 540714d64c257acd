"""From `_target_` and keywords to an object, and from a builder's signature to the settings of a yaml."""

from __future__ import annotations

import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from detectors.config.signatures import BuilderSource, Keyword, builder_source, keywords_of_callable
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
    _source(target, group)
    module_name, _, name = target.rpartition(".")
    made = getattr(import_for(f"_target_={target!r}", module_name), name, None)
    if not callable(made):
        raise ValueError(f"_target_={target!r}: {module_name} has no builder {name}")
    return made


def builder_keywords(target: str, group: str | None = None) -> dict[str, Keyword]:
    """The settings of a `_target_`. Only the user's own are imported. ValueError: see find_target."""
    source = _source(target, group)
    return keywords_of_callable(find_target(target)) if source is None else source.keywords


def _source(target: str, group: str | None) -> BuilderSource | None:
    """None for the user's own. ValueError: see find_target."""
    if not isinstance(target, str) or not (target.startswith(PACKAGE_PREFIX) or target in TRUSTED):
        raise ValueError(
            f"_target_={target!r}: only builders of this package can be built, such as "
            "'detectors.models.ssd.ssd300'; builders=[...] on the command line adds your own"
        )
    if target in TRUSTED:
        return None
    try:
        return builder_source(target, group)
    except ValueError as error:
        raise ValueError(f"_target_={target!r}: {error}") from error


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


def with_whole_numbers(node: Mapping[str, Any], group: str) -> Mapping[str, Any]:
    """A copy of a node in which 1e3 is a whole number where its builder wants one."""
    try:
        keywords = builder_keywords(node["_target_"], group)
    except (KeyError, TypeError, ValueError):
        return node  # signature_problems says what is wrong with it
    hints = {name: keyword.hint for name, keyword in keywords.items()}
    return {name: as_hinted(value, hints.get(name, Any)) for name, value in node.items()}


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
        keywords = builder_keywords(node["_target_"], place)
    except ValueError as error:
        yield f"{place}.{error}"
        return
    builder = node["_target_"].rpartition(".")[2]
    settings = {name: keyword for name, keyword in keywords.items() if name not in given}
    for name in node.keys() - {"_target_"} - settings.keys():
        where = f"{place}.{name}={node[name]!r}"
        if name in given:
            yield f"{where}: {name} cannot be set here, the program gives it to {builder}; remove it"
        else:
            hint = did_you_mean(name, settings, listed=True, place=place)
            yield f"{where}: {builder} has no such keyword{hint}"
    for name, (hint, required) in settings.items():
        if node.get(name, "???" if required else None) == "???":
            yield f"{place}.{name} is missing: {builder} needs it; set {place}.{name}=..."
        elif name in node and not fits(node[name], hint):
            yield f"{place}.{name}={node[name]!r}: must be {describe_type(hint)}"


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
    if origin is dict and arguments[1] is not Any:
        return isinstance(value, Mapping) and all(fits(item, arguments[1]) for item in value.values())
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
    if origin is dict:
        return f"a mapping of names, each to {describe_type(arguments[1])}"
    if origin in (list, tuple, Sequence):
        return f"a list whose items are each {describe_type(arguments[0])}"
    return words.get(hint, str(getattr(hint, "__name__", hint)))
