"""Values as they were typed: what Hydra and YAML would turn into a number, where the schema wants a text.

`data.class_names=[yes,no,1e3,007]` are four texts, and `trainer.steps=1e3` is a whole number.
"""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, field, fields, is_dataclass, make_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from yaml import YAMLError

LEFT_TO_HYDRA = set("'\"\\$()[]{}")  # quoted already, interpolations, functions: left to Hydra
BRACKETS = {"[": 1, "{": 1, "(": 1, "]": -1, "}": -1, ")": -1}


def group_in(hint: Any) -> type | None:
    """The dataclass of a group of settings, which may be optional; None for a single setting's annotation."""
    return next((kind for kind in _kinds(hint) if is_dataclass(kind)), None)


def setting_name(field_name: str) -> str:
    """A field's name in yaml and on the command line: `from_` is the setting `from`, a word of Python."""
    return field_name.removesuffix("_")


def setting_hints(schema: type, place: str = "") -> dict[str, Any]:
    """Dotted name of each single setting of a schema -> its type annotation."""
    hints = {}
    for name, hint in typing.get_type_hints(schema).items():
        group = group_in(hint)
        full = f"{place}{setting_name(name)}"
        hints |= {full: hint} if group is None else setting_hints(group, f"{full}.")
    return hints


def with_quoted_texts(overrides: Sequence[str], hints: Mapping[str, Any]) -> list[str]:
    """Overrides with quotes around the texts that would be read as numbers, true, false or null, and around
    paths that exist and have characters that Hydra does not take without quotes, such as parentheses.

    hints: setting_hints. Overrides of other settings stay as they are.
    """
    return [_quoted_override(override, hints) for override in overrides]


def _quoted_override(override: str, hints: Mapping[str, Any]) -> str:
    key, equals, value = override.partition("=")
    kinds = _kinds(hints.get(key.lstrip("+")))
    if equals and list[str] in kinds:
        return f"{key}={','.join(_quoted_list(part) for part in split_at_commas(value))}"
    if equals and str in kinds:
        if '"' not in value and os.path.exists(value) and not _is_override(override):
            return f'{key}="{value}"'  # data.root=images (2)
        null = {"null"} if types.NoneType in kinds else set()
        return f"{key}={','.join(_quoted(part, null) for part in split_at_commas(value))}"
    return override


def _is_override(text: str) -> bool:
    """Whether Hydra can read it."""
    try:
        OverridesParser.create().parse_override(text)
    except HydraException:
        return False
    return True


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The members of a union; otherwise the annotation alone."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _quoted_list(value: str) -> str:
    if not (value.startswith("[") and value.endswith("]")):
        return value
    return f"[{','.join(map(_quoted, split_at_commas(value[1:-1])))}]"


def _quoted(value: str, kept: set[str] = frozenset()) -> str:
    text = value.strip()
    if not text or text in kept | {"???"} or LEFT_TO_HYDRA & set(text) or _is_text(text):
        return value
    return f'"{text}"'


def _is_text(value: str) -> bool:
    """Whether both Hydra and YAML read it as a text."""
    try:
        parsed = OverridesParser.create().parse_override(f"key=[{value}]").value()
        return isinstance(parsed[0], str) and isinstance(OmegaConf.create(f"key: [{value}]").key[0], str)
    except (HydraException, YAMLError):
        return False


def split_at_commas(text: str) -> list[str]:
    """The parts between commas that stand outside quotes and brackets."""
    parts = [""]
    depth = 0
    quote = ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += BRACKETS.get(character, 0)
        if character == "," and not quote and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def composable(schema: type) -> type:
    """The schema for Hydra, which would turn values into its types in silence; check() has the last word.

    A text and a list accept everything, so that a number in a yaml file does not become a text; a whole
    number accepts 1e3. A group with a setting that Python cannot name becomes a plain dict.
    """
    hints = typing.get_type_hints(schema)
    copied = []
    for old in fields(schema):
        hint = _composable_hint(hints[old.name])
        if is_dataclass(old.default_factory) and hint == dict[str, Any]:
            copied.append((old.name, hint, field(default_factory=lambda group=old: _as_dict(group))))
            continue
        group = group_in(hint)
        factory = group if is_dataclass(old.default_factory) else old.default_factory
        default = field(default_factory=factory) if old.default is MISSING else field(default=old.default)
        copied.append((old.name, hint, default))
    return make_dataclass(schema.__name__, copied)


def _as_dict(group: Field) -> dict[str, Any]:
    """The default settings of a group."""
    return {setting_name(name): value for name, value in vars(group.default_factory()).items()}


def _composable_hint(hint: Any) -> Any:
    if is_dataclass(hint):
        unnamed = any(setting_name(old.name) != old.name for old in fields(hint))
        return dict[str, Any] if unnamed else composable(hint)
    if hint is str:
        return Any
    if hint is int:
        return int | float
    arguments = tuple(map(_composable_hint, typing.get_args(hint)))
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return Any if Any in arguments else typing.Union[arguments]  # noqa: UP007 - arguments are not literal
    if origin is dict:
        return dict[str, Any]
    return list[Any] if origin is list else hint


def as_hinted(value: Any, hint: Any) -> Any:
    """1000.0, as YAML reads 1e3, as a whole number, where the annotation wants one; alone or in lists.

    An environment variable's text of digits, too. Any other value stays as it is.
    """
    kinds = [kind for kind in _kinds(hint) if kind is not types.NoneType]
    if len(kinds) != 1:
        return value
    (hint,) = kinds
    arguments = typing.get_args(hint)
    if hint is int:
        whole = isinstance(value, float) and value.is_integer()
        return int(value) if whole or (isinstance(value, str) and value.isdecimal()) else value
    if isinstance(value, list) and arguments and arguments[-1] in (int, ...):
        return [as_hinted(item, arguments[0]) for item in value]
    return value
