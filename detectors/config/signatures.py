"""The builders that yaml can name, as the source of their modules shows them: importing one imports PyTorch,
which takes seconds, and a misspelt setting is answered before.
"""

from __future__ import annotations

import ast
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from inspect import Parameter, isclass, signature
from typing import Any, NamedTuple

from detectors.data.suggestions import did_you_mean

YAML_NAMES = {"Any": Any, "Sequence": Sequence}  # in annotations, besides Python's own names


class Keyword(NamedTuple):
    hint: Any  # the annotation; Any if it is not a type that a yaml file can hold
    required: bool


class BuilderSource(NamedTuple):
    group: str
    keywords: dict[str, Keyword]  # the keyword-only ones: they are the settings of the group


@cache
def _builders_in(module_name: str) -> Mapping[str, BuilderSource]:
    """What a module marks with structures.builder. ValueError if there is no such module."""
    try:
        spec = find_spec(module_name)
        source = spec.loader.get_source(module_name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"there is no module {module_name}") from error
    definitions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    found = {}
    for name, node in definitions.items():
        for mark in node.decorator_list:
            match mark:
                case ast.Call(ast.Name("builder"), [ast.Constant(group)], []):
                    found[name] = BuilderSource(group, _keywords(node))
                case ast.Call(ast.Name("builder"), [ast.Constant(group), ast.Name(shown)], []):
                    found[name] = BuilderSource(group, _keywords(definitions[shown]))
    return found


def _keywords(node: ast.ClassDef | ast.FunctionDef) -> dict[str, Keyword]:
    """The keyword-only arguments of a function, or of a class's __init__."""
    if isinstance(node, ast.ClassDef):
        node = next(part for part in node.body if getattr(part, "name", None) == "__init__")
    arguments = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {name.arg: Keyword(_hint(name.annotation), default is None) for name, default in arguments}


def _hint(annotation: ast.expr) -> Any:
    try:
        return eval(ast.unparse(annotation), dict(YAML_NAMES))  # a type, from this package's own source
    except NameError:
        return Any


def builder_source(target: str, group: str | None = None) -> BuilderSource:
    """'detectors.models.ssd.ssd300' -> its group and keywords. Imports no module that PyTorch needs.

    ValueError unless it is marked as a builder where it is defined, and of `group` if one is given.
    """
    module_name, _, name = target.rpartition(".")
    builders = {
        known: builder
        for known, builder in _builders_in(module_name).items()
        if group in (None, builder.group)
    }
    if name not in builders:
        hint = did_you_mean(name, builders, listed=True)
        raise ValueError(f"{module_name} has no builder {name} of {group or 'any group'}{hint}")
    return builders[name]


def keywords_of_callable(target: Callable[..., Any]) -> dict[str, Keyword]:
    """The same of the user's own builder, which is imported; its arguments need not be keyword-only."""
    hints = typing.get_type_hints(target.__init__ if isclass(target) else target)
    return {
        name: Keyword(hints.get(name, Any), parameter.default is Parameter.empty)
        for name, parameter in signature(target).parameters.items()
    }
