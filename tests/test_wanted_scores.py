"""Detections of at least a score: the same as all of them without the lower ones, and less work."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors import postprocess as module
from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.kernels.soft_suppression import SOFT_RULES
from detectors.postprocess import PostProcess, yolo_scores
from detectors.structures import AnchorGrid, HeadOutputs

LOW, HIGH = 0.02, 0.25


@pytest.fixture
def outputs() -> tuple[HeadOutputs, AnchorGrid]:
    """Of three images, with many boxes that overlap."""
    generator = torch.Generator().manual_seed(5)
    grid = YoloAnchors([(1.5, 1.5), (2.5, 2.0)], 32)((128, 128))
    raw = torch.randn(3, grid.num_anchors, 4, generator=generator)
    offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:] / 3], -1)
    logits = torch.randn(3, grid.num_anchors, 3, generator=generator)
    return HeadOutputs(offsets, logits, torch.randn(3, grid.num_anchors, generator=generator)), grid


def process(**settings) -> PostProcess:
    return PostProcess(
        coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=LOW, nms_iou=0.4, **settings
    )


@pytest.mark.parametrize("rule", ["hard", *SOFT_RULES])
@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"candidates_per_class": 4},
        {"max_detections": 5},
        {"candidates_per_class": 9, "max_detections": 30},
    ],
)
def test_low_scores_are_left_out_and_nothing_else_changes(outputs, rule, limits):
    everything = process(nms=rule, **limits)(*outputs)
    wanted = process(nms=rule, **limits)(*outputs, score=HIGH)
    expected = everything.above(HIGH)
    assert len(expected.scores) > 0 and (limits or len(expected.scores) < len(everything.scores))
    for name in ("image", "boxes", "scores", "labels"):
        assert_close(getattr(wanted, name), getattr(expected, name), atol=0, rtol=0)


def test_a_score_that_is_met_exactly_counts(outputs):
    everything = process()(*outputs)
    score = everything.scores.sort(descending=True).values[7].item()
    assert len(process()(*outputs, score=score).scores) == 8


def test_low_candidates_are_not_compared(outputs, monkeypatch):
    compared = []
    suppress = module.suppress
    monkeypatch.setattr(
        module, "suppress", lambda boxes, *a, **b: compared.append(len(boxes)) or suppress(boxes, *a, **b)
    )
    process()(*outputs)
    process()(*outputs, score=HIGH)
    scores = yolo_scores(outputs[0])
    assert compared == [int((scores > LOW).sum()), int((scores >= HIGH).sum())]
