"""What the anchors of compared detectors could reach on the evaluated boxes, by their configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from detectors.annotations import Annotations
from detectors.commands.compare.analysis import ComparedDetector
from detectors.commands.compare.run_parts import run_config
from detectors.data.augment.fitting import RESIZES
from detectors.matching import ResponsibleCellMatcher
from detectors.metrics.anchor_reach import ReachShare, anchor_reach, reach_share
from detectors.metrics.recall_by import SIZE_KINDS
from detectors.training import assemble

ALL_BOXES = "all"


class AnchorShares(NamedTuple):
    """By ALL_BOXES and the names of SIZE_KINDS. See metrics.anchor_reach for the two rules."""

    size: tuple[int, int]  # (height, width) of the model input
    count: int  # anchors of an image
    near: dict[str, ReachShare]
    cell: dict[str, ReachShare] | None


def anchor_shares(detectors: Sequence[ComparedDetector]) -> tuple[dict[str, AnchorShares], list[str]]:
    """By the detectors' names, for those whose configuration is known; and notes about the others."""
    shares, notes = {}, []
    for detector in detectors:
        try:
            shares[detector.name] = _shares(detector)
        except (OSError, ValueError) as error:
            notes.append(f"no reach of the anchors of {detector.name}: {error}")
    return shares, notes


def _shares(detector: ComparedDetector) -> AnchorShares:
    config = run_config(detector.members[0])
    annotations = detector.members[0].annotations
    model = assemble.build_detector(config, len(annotations.class_names))  # its anchors, not its weights
    size = tuple(config.input.size)
    grid = model.grid(size)
    boxes = input_boxes(annotations, config.input.resize, size)
    counting = ~(annotations.difficult | annotations.crowd)
    counts = np.bincount(annotations.image[counting], minlength=len(annotations))
    by_cell = isinstance(model.encoder.matcher, ResponsibleCellMatcher)
    reach = anchor_reach(torch.from_numpy(boxes[counting]).float(), counts, grid, by_cell=by_cell)
    areas = annotations.areas[counting]
    cell = None if reach.cell is None else _by_size(reach.cell, areas)
    return AnchorShares(size, grid.num_anchors, _by_size(reach.near, areas), cell)


def _by_size(iou: np.ndarray, areas: np.ndarray) -> dict[str, ReachShare]:
    limits = np.array([low for _, low in SIZE_KINDS])
    place = np.searchsorted(limits, areas, side="right") - 1
    shares = {ALL_BOXES: reach_share(iou)}
    return shares | {name: reach_share(iou[place == k]) for k, (name, _) in enumerate(SIZE_KINDS)}


def input_boxes(annotations: Annotations, resize: str, size: tuple[int, int]) -> np.ndarray:
    """(G, 4) xyxy of all boxes in the frame of the model input. resize: letterbox or stretch."""
    frames = np.zeros((len(annotations), 4))  # scale and shift of x and y
    for row, original in enumerate(annotations.sizes.tolist()):
        fit = RESIZES[resize](tuple(original), size)
        frames[row] = (*fit.scale_xy(tuple(original)), *fit.shift_xy())
    frame = frames[annotations.image]
    return annotations.boxes_original * np.tile(frame[:, :2], 2) + np.tile(frame[:, 2:], 2)
