"""The suppression inside of files against PostProcess, on made-up candidates: ties, NaN, limits, nothing."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import parser
from torch.testing import assert_close

from detectors.commands.export.onnx_suppression import with_suppression
from detectors.commands.export.traced_modules import UNUSABLE_SCORE, SuppressedBoxes
from detectors.postprocess import PostProcess
from detectors.structures import Detections, HeadOutputs

IDENTITY = """
<ir_version: 10, opset_import: ["" : 18]>
candidates (float[batch, {anchors}, 4] boxes_in, float[batch, {anchors}, {classes}] scores_in)
  => (float[batch, {anchors}, 4] candidate_boxes, float[batch, {anchors}, {classes}] candidate_scores)
{{ candidate_boxes = Identity (boxes_in)
   candidate_scores = Identity (scores_in) }}
"""


def post_process(**settings) -> PostProcess:
    """It takes boxes and scores as they are."""
    return PostProcess(
        coder=SimpleNamespace(decode=lambda offsets, grid: offsets),
        score_rule=lambda outputs: outputs.class_logits,
        **{"score_threshold": 0.1, "nms_iou": 0.45} | settings,
    )


def candidates(seed: int, batch: int, anchors: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of whole pixels in a small frame, many alike, and scores in steps of 1/16: many are equal."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 40, (batch, anchors, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 30, low.shape)], 2).astype(np.float32)
    boxes[:, 3] = boxes[:, 2]
    scores = (rng.integers(0, 17, (batch, anchors, classes)) / 16).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(scores)


def by_onnx(post: PostProcess, boxes: torch.Tensor, scores: torch.Tensor) -> Detections:
    text = IDENTITY.format(anchors=boxes.shape[1], classes=scores.shape[2])
    model = with_suppression(parser.parse_model(text), post, boxes.shape[1])
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"boxes_in": boxes.numpy(), "scores_in": scores.numpy()}
    return Detections(*map(torch.from_numpy, session.run(None, given)))


def by_torch(post: PostProcess, boxes: torch.Tensor, scores: torch.Tensor) -> Detections:
    """SuppressedBoxes, as .pt2 and .torchscript files have it."""
    scored = torch.nn.Module()
    scored.network = SimpleNamespace(postprocess=post)
    scored.grid = SimpleNamespace(num_anchors=boxes.shape[1])
    scored.forward = lambda images: (boxes, scores)
    return Detections(*SuppressedBoxes(scored)(torch.zeros(0)))


FORMS = [by_onnx, by_torch]
LIMITS = [
    {},
    {"candidates_per_class": 20},
    {"max_detections": 7},
    {"candidates_per_class": 30, "max_detections": 25, "nms_iou": 0.7, "score_threshold": 1e-5},
    {"candidates_per_class": 1000, "max_detections": 1000, "score_threshold": 0, "nms_iou": 1},
    {"score_threshold": 0.5},  # some scores equal it
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_post_processing_in_every_row(form, limits, seed):
    """An IoU of these boxes is a ratio of integers: it is the threshold itself, or 1e-5 away from it."""
    post = post_process(**limits)
    boxes, scores = candidates(seed, 1 + seed, 80, 3)
    expected = post(HeadOutputs(boxes, scores), None)
    found = form(post, boxes, scores)
    assert len(found.scores) == len(expected.scores) > 0
    for name in ("image", "labels", "scores", "boxes"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_found(form):
    post = post_process(max_detections=5)
    boxes, scores = candidates(0, 2, 30, 3)
    found = form(post, boxes, scores * 0)
    assert (found.image.shape, found.boxes.shape, found.scores.shape, found.labels.shape) == (
        (0,),
        (0, 4),
        (0,),
        (0,),
    )


@pytest.mark.parametrize("form", FORMS)
def test_huge_boxes_change_nothing_elsewhere(form):
    """What a diverging network gives; boxes that are not finite come with a score of UNUSABLE_SCORE."""
    post = post_process()
    boxes, scores = candidates(1, 2, 40, 3)
    wild = copy.deepcopy(boxes)
    wild[0, 4:8] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    scores[0, 4:8] = torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.8], [0.7, 0.0, 0.0]])
    wild[0, 8] = torch.nan
    scores[0, 8] = UNUSABLE_SCORE
    found = form(post, wild, scores)
    expected = post(HeadOutputs(wild, scores), None)
    for name in ("image", "labels", "scores", "boxes"):
        assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
    huge = found.of_image(0).boxes[:, 2] > 1e29
    assert huge.sum() == 3  # one of each class: the one that scores 0.8 is suppressed
    assert_close(found.of_image(1).boxes, form(post, boxes, scores).of_image(1).boxes, rtol=0, atol=0)
