"""Settings that messages name exist: every `group.name` in a text of the package is looked up."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from detectors.config.build import find_target
from detectors.config.schema import CONF, PACKAGE, Config

BUILT = ("augment", "loss", "model", "optimizer")  # groups whose settings are a builder's keywords
GROUPS = ("data", "trainer", "input", "schedule", "paths", "mixing", *BUILT)
NAMED = re.compile(rf"(?<![\w./\\-])(?:{'|'.join(GROUPS)})(?:\.[a-z_][a-z_0-9]*)+(?![\w(/{{-])")
# Files, a name in a state dict, and a typo whose answer is timed.
OTHERS = {"data.yaml", "data.yml", "loss.images_seen", "trainer.stpes"}


def texts(source: str) -> Iterator[str]:
    """The texts of a module, except docstrings. What an f-string fills in becomes {}."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and ast.get_docstring(node) is not None
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield "".join(parts)
        elif isinstance(node, ast.Constant) and id(node) not in docstrings | inside:
            yield str(node.value)


@cache
def keywords(group: str) -> frozenset[str]:
    """The keywords of all builders that the yaml files of a group name."""
    names = {"_target_"}
    for file in (CONF / group).glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        target = content.get(group, content).get("_target_")  # the yaml files of models set other groups, too
        if target:
            names |= set(inspect.signature(find_target(target, group)).parameters)
    return frozenset(names)


def exists(setting: str) -> bool:
    group, name, *rest = setting.split(".")
    if group in BUILT:
        return name in keywords(group) and not rest
    schema = Config
    for part in (group, name, *rest):
        hints = typing.get_type_hints(schema) if is_dataclass(schema) else {}
        if part not in {field.name for field in (fields(schema) if hints else ())}:
            return False
        inner = [hints[part], *typing.get_args(hints[part])]
        schema = next((kind for kind in inner if is_dataclass(kind)), None)
    return True


def wrong_settings(source: str) -> list[str]:
    named = [match[0] for text in texts(source) for match in NAMED.finditer(text)]
    return [setting for setting in named if setting not in OTHERS and not exists(setting)]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_every_setting_that_a_message_names_exists(path: Path):
    assert wrong_settings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('raise ValueError("set data.image_sets=[train]")', ["data.image_sets"]),
        ('raise ValueError(f"{file}: no such file (data.annotation_file)")', ["data.annotation_file"]),
        ('x = f"data.image_folder.{split} is missing; data.image_folders.{split}"', ["data.image_folder"]),
        (
            'x = "loss.klass_scale=1, loss.class_activation, model.nothing"',
            ["loss.klass_scale", "model.nothing"],
        ),
        ('x = "input.multi_scale.max=0, trainer.steps.x, mixing.mosaic."', ["trainer.steps.x"]),
        ('"""data.image_sets"""\nx = "detectors.data.images, a/data.py, model.state_dict()"', []),
    ],
)
def test_a_setting_that_does_not_exist_is_found(source: str, expected: list[str]):
    assert wrong_settings(source) == expected
