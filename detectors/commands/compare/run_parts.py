"""The configuration and the trained detector of a compared run, as far as its folder has them."""

from __future__ import annotations

from pathlib import Path

import torch

from detectors.commands.compare.analysis import Measurement
from detectors.commands.compare.run_names import read_configuration
from detectors.commands.compare.run_places import run_folder_of
from detectors.config.check import ConfigError, check
from detectors.config.schema import SUPPRESSIONS, Config
from detectors.models.detector import Detector
from detectors.training import assemble
from detectors.training import checkpoint as ckpt

PROTOCOL_NUMBERS = ("score_threshold", "nms_iou", "candidates_per_class", "max_detections")


def run_config(member: Measurement) -> Config:
    """The configuration of a run. ValueError says why there is none."""
    folder = run_folder_of(Path(member.record["folder"]))
    content = read_configuration(folder)
    if not content:
        raise ValueError(f"{folder} has no config.yaml")
    try:
        return check(content)
    except ConfigError as error:
        raise ValueError(f"{folder}/config.yaml is not valid: {'; '.join(error.problems)}") from error


def trained_detector(member: Measurement, device: torch.device) -> tuple[Detector, Config]:
    """The detector that was evaluated, with the post-processing of its evaluation, and its configuration.

    FileNotFoundError or ValueError says why there is none.
    """
    folder = run_folder_of(Path(member.record["folder"]))
    name = Path(str(member.record.get("checkpoint", ckpt.BEST))).name
    stored = ckpt.load_checkpoint(folder / name)
    if stored.class_names != tuple(member.annotations.class_names):
        raise ValueError(f"{stored.path}: trained on other classes than those of the evaluation")
    detector, config = assemble.load_detector(stored, device)
    for setting, value in _protocol(member).items():
        setattr(detector.postprocess, setting, value)
    return detector, config


def _protocol(member: Measurement) -> dict[str, float | int | str | None]:
    """The settings of the evaluation's post-processing that are recorded and usable."""
    recorded = member.record.get("protocol")
    if not isinstance(recorded, dict):
        return {}
    numbers = {
        name: recorded[name]
        for name in PROTOCOL_NUMBERS
        if name in recorded and (recorded[name] is None or type(recorded[name]) in (int, float))
    }
    rule = recorded.get("nms")
    return numbers | ({"nms": rule} if rule in SUPPRESSIONS else {})
