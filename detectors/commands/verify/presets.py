"""Builds the losses and matchers of conf/loss as train.py does."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from detectors.config.build import build
from detectors.config.check import check
from detectors.config.schema import Config, composed
from detectors.matching import MultiBoxMatcher


@cache
def _config(name: str) -> Config:
    """train.py's configuration with loss=NAME and a model that the loss fits."""
    model = "ssd300" if name.startswith("multibox") else "yolov2"
    return check(composed([f"model={model}", f"loss={name}"]))


def preset_loss(name: str, **changes: Any) -> nn.Module:
    """The loss of `loss=NAME`. changes: settings that replace the preset's."""
    return build({**_config(name).loss, **changes})


def preset_matcher(name: str) -> MultiBoxMatcher:
    """SSD's matcher with `loss=NAME`."""
    return MultiBoxMatcher(bipartite=_config(name).model.get("bipartite", "greedy"))
