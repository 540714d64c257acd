"""Builds the losses, matchers and detectors of conf/ as train.py does."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn

from detectors.config.build import build
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import Config
from detectors.matching import MultiBoxMatcher
from detectors.models.detector import Detector

# The originals' own numbers. A recording made with one of them is compared with what the yaml says, so that a
# wrong number in the yaml fails.
SCALES = {"coord_scale": 1.0, "object_scale": 5.0, "noobject_scale": 1.0, "class_scale": 1.0}
ORIGINALS: dict[str, dict[str, Any]] = {
    "region": {  # [region] of yolov2-voc.cfg
        **SCALES,
        "ignore_iou": 0.6,
        "objectness_target": "iou",
        "class_activation": "softmax",
    },
    "region_tree": {**SCALES, "ignore_iou": 0.6, "objectness_target": "iou", "class_activation": "softmax"},
    "region_keras": {**SCALES, "ignore_truths": 50, "prior_images": 0},  # the course's notebook
}


@cache
def preset_config(model: str, loss: str | None = None) -> Config:
    """train.py's configuration with model=MODEL and loss=LOSS; by default the model's own loss."""
    return check(composed([f"model={model}", *([f"loss={loss}"] if loss else [])]))


def _loss_config(name: str) -> Config:
    """With a model that the loss fits."""
    return preset_config("ssd300" if name.startswith("multibox") else "yolov2", name)


def preset_loss(name: str, **changes: Any) -> nn.Module:
    """The loss of `loss=NAME`.

    changes: settings of a recording. They replace the yaml's where they are not the original's own numbers.
    """
    original = ORIGINALS.get(name, {})
    own = {key: value for key, value in changes.items() if key not in original or value != original[key]}
    return build({**_loss_config(name).loss, **own})


def preset_matcher(name: str) -> MultiBoxMatcher:
    """SSD's matcher with `loss=NAME`."""
    return MultiBoxMatcher(bipartite=_loss_config(name).model.get("bipartite", "greedy"))


def preset_detector(model: str, *, num_classes: int, **changes: Any) -> Detector:
    """The detector of `model=MODEL`. changes: settings that replace the yaml's."""
    config = preset_config(model)
    return build({**config.model, **changes}, num_classes=num_classes, loss=build(config.loss))
