"""Docstrings as Markdown, for docs/reference.md: a line `::: detectors.boxes.clip` becomes what clip says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

PLACE = re.compile(r"^::: (\S+)$", re.MULTILINE)
NAMED = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (?=\S)")  # `boxes, valid: ...` in a docstring
FIELD = re.compile(r"^    ([a-z]\w*): ([^=#]+?)(?: = ([^#]+?))?(?:  # (.*))?$", re.MULTILINE)


def expanded(markdown: str) -> str:
    """Markdown with each `::: place` replaced."""
    return PLACE.sub(lambda match: "\n".join(described(match[1])), markdown)


def described(place: str) -> Iterator[str]:
    """The Markdown of a function, of a class with its methods, or of all functions of a module."""
    module, _, name = place.rpartition(".")
    thing = getattr(import_module(module), name)
    if inspect.ismodule(thing):
        for function, value in vars(thing).items():
            if inspect.isfunction(value) and value.__module__ == place and not function.startswith("_"):
                yield from described(f"{place}.{function}")
        return
    yield f"### `{name}` {{ #{place} }}\n\n*{module}*\n"
    yield signature_block(name, thing)
    yield as_markdown(inspect.getdoc(thing) or "")
    if inspect.isclass(thing):
        yield from _members(thing)


def _members(thing: type) -> Iterator[str]:
    if hasattr(thing, "__dataclass_fields__"):
        for name, kind, _, remark in FIELD.findall(inspect.getsource(thing)):
            yield f"- `{name}`: `{kind}`" + (f": {remark}" if remark else "")
        yield ""
    own = vars(thing)
    if (initial := own.get("__init__")) is not None and initial.__doc__:
        yield as_markdown(inspect.getdoc(initial))
    for name, value in own.items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            is_property = isinstance(value, property)
            kind = _result(inspect.signature(function)).removeprefix(" -> ")
            call = signature_block(name, function, member=True)
            yield f"```python\n{name}: {kind}\n```\n" if is_property else call
            yield as_markdown(inspect.getdoc(function))


def signature_block(name: str, thing: Any, *, member: bool = False) -> str:
    """The call with its types, one argument a line where it is long."""
    signature = inspect.signature(thing)
    parameters = [p for p in signature.parameters.values() if not (member and p.name == "self")]
    words = [str(p.replace(annotation=p.empty, default=p.empty)) + _typed(p) for p in parameters]
    first = next((n for n, p in enumerate(parameters) if p.kind is p.KEYWORD_ONLY), None)
    if first is not None:
        words.insert(first, "*")
    result = "" if inspect.isclass(thing) else _result(signature)
    text = f"({', '.join(words)}){result}"
    if len(text) > 80:
        text = "(\n    " + ",\n    ".join(words) + f",\n){result}"
    return f"```python\n{name}{text}\n```\n"


def _typed(parameter: inspect.Parameter) -> str:
    """`: int = 3`"""
    text = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _result(signature: inspect.Signature) -> str:
    known = signature.return_annotation
    return "" if known in (inspect.Signature.empty, "None") else f" -> {known}"


def as_markdown(docstring: str) -> str:
    """Examples become code, and lines such as `boxes: (B, 4) pixels` a list."""
    parts = []
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith(">>>"):
            parts.append(f"```python\n{paragraph}\n```")
        elif any(NAMED.match(line) for line in paragraph.splitlines()):
            parts.append(_as_list(paragraph))
        else:
            parts.append(paragraph)
    return "\n\n".join(parts) + "\n"


def _as_list(paragraph: str) -> str:
    """An indented line goes on with the item above it; any other line ends the list."""
    lines = []
    in_list = False
    for line in paragraph.splitlines():
        named = NAMED.match(line)
        if in_list and line.startswith("    "):
            lines.append(line)
            continue
        if bool(named) != in_list:
            lines.append("")
        in_list = bool(named)
        lines.append(f"- `{named[1]}`: {line[named.end() :]}" if named else line)
    return "\n".join(lines)
