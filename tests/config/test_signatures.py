"""What the source says about the builders is what the imported ones say."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import pytest

from detectors.config.build import builder_keywords, find_target
from detectors.config.signatures import Keyword, keywords_of_callable
from detectors.structures import builder
from tests.config.test_builders import BUILDERS

CASES = [(group, target) for group, targets in BUILDERS.items() for target in sorted(targets)]


@pytest.mark.parametrize(("group", "target"), CASES)
def test_the_keywords_are_those_of_the_imported_builder(group, target):
    made = find_target(target, group)
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    keywords = builder_keywords(target, group)
    assert list(keywords) == list(parameters)
    assert {name: keyword.required for name, keyword in keywords.items()} == {
        name: parameter.default is inspect.Parameter.empty for name, parameter in parameters.items()
    }
    if target.rpartition(".")[2].startswith("ssd") and group == "model":
        made = vars(inspect.getmodule(made))["ssd"]
    hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
    assert {name: keyword.hint for name, keyword in keywords.items()} == {
        name: Any if name in ("layers", "loss", "tree", "contents") else hints[name] for name in keywords
    }


def test_a_decorated_function_can_show_the_keywords_of_another():
    def whole(variant: str, *, width: float = 1.0, depth: int) -> None: ...

    @builder("model", whole)
    def part(**settings: Any) -> None: ...

    assert list(inspect.signature(part).parameters) == ["width", "depth"]


def test_the_users_own_builder_may_have_positional_arguments():
    def mine(module: str, rate: float, *, size: int = 3) -> None: ...

    assert keywords_of_callable(mine) == {
        "module": Keyword(str, True),
        "rate": Keyword(float, True),
        "size": Keyword(int, False),
    }


def test_the_message_names_the_module_that_is_not_there():
    with pytest.raises(
        ValueError, match=r"'detectors\.models\.sdd\.ssd300': there is no module detectors\.models\.sdd"
    ):
        builder_keywords("detectors.models.sdd.ssd300")
    with pytest.raises(
        ValueError, match=r"detectors\.models\.ssd has no builder ssd30 of model; did you mean ssd300\?"
    ):
        builder_keywords("detectors.models.ssd.ssd30", "model")
