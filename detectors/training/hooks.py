"""The user's functions that a run calls after each step and evaluation; docs/training.md has examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectors.config.build import import_for
from detectors.config.schema import TrainerConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hook:
    """A function, with the name and the setting by which the user gave it."""

    name: str
    setting: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> None:
        """RuntimeError names the hook if it fails; the user's own error, with its traceback, is the cause."""
        try:
            self.function(*arguments)
        except Exception as error:
            what = f"{self.setting}: {self.name} failed ({type(error).__name__}: {error})"
            raise RuntimeError(what) from error


@dataclass(frozen=True)
class Hooks:
    step: Sequence[Callable[..., Any]] = ()  # of trainer.on_step, and the profile's
    evaluation: Sequence[Callable[..., Any]] = ()  # of trainer.on_evaluation

    def after_step(self, *arguments: Any) -> None:
        """Calls each in turn with the Run."""
        for hook in self.step:
            hook(*arguments)

    def after_evaluation(self, *arguments: Any) -> None:
        """Calls each in turn with the Run and the Evaluation."""
        for hook in self.evaluation:
            hook(*arguments)


def users_hooks(trainer: TrainerConfig, typed: Mapping[str, Any]) -> Hooks:
    """The hooks of this command line and its yaml files, imported. A resumed run's own lists are not used:
    importing runs code, and a checkpoint must not name any.

    trainer: a run's settings, changed to what is called. typed: `trainer` as the user has given it.
    ValueError for a name that cannot be imported or called.
    """
    hooks = {}
    for key in ("on_step", "on_evaluation"):
        names = list(typed[key])
        setting = f"trainer.{key}"
        if absent := [name for name in getattr(trainer, key) if name not in names]:
            logger.warning(
                f"{setting}: a checkpoint's own hooks are not called: {', '.join(absent)}; to call them, "
                f"name them again: '{setting}=[{','.join([*names, *absent])}]'"
            )
        hooks[key] = [Hook(name, setting, _function(name, setting)) for name in names]
        setattr(trainer, key, names)
    return Hooks(step=hooks["on_step"], evaluation=hooks["on_evaluation"])


def _function(name: str, setting: str) -> Callable[..., Any]:
    place = f"{setting}: {name!r}"
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        raise ValueError(f"{place}: must be module.function, the dotted name of a function")
    function = getattr(import_for(place, module_name), attribute, None)
    if not callable(function):
        raise ValueError(f"{place}: the module {module_name} has no function {attribute}")
    return function
