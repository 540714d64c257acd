"""Soft-NMS and DIoU-NMS against naive loops over boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import batched_nms

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.kernels.soft_suppression import SOFT_RULES, decayed_scores
from detectors.postprocess import PostProcess, yolo_scores
from detectors.structures import HeadOutputs
from tests import oracles


def naive(boxes: list, scores: list, group: list, rule: str, iou: float, limit: int, least: float) -> list:
    """Score of each box after the suppression, 0 if it is dropped."""
    result = [0.0] * len(boxes)
    for g in set(group):
        left = [i for i in range(len(boxes)) if group[i] == g][:limit]
        score = {i: scores[i] for i in left}
        while left:
            best = max(left, key=lambda i: score[i])
            left.remove(best)
            if score[best] <= least:
                break
            result[best] = score[best]
            for i in left:
                overlap = oracles.iou(boxes[best], boxes[i])
                if rule == "soft_linear":
                    score[i] *= 1 - overlap if overlap > iou else 1
                elif rule == "soft_gaussian":
                    score[i] *= math.exp(-(overlap**2) / 0.5)
                else:
                    a, b = boxes[best], boxes[i]
                    hull = [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])]
                    c = (hull[2] - hull[0]) ** 2 + (hull[3] - hull[1]) ** 2
                    d = sum(((a[k] + a[k + 2]) / 2 - (b[k] + b[k + 2]) / 2) ** 2 for k in (0, 1))
                    score[i] *= overlap - d / c <= iou
    return result


def random_boxes(count: int, groups: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 10
    boxes = torch.cat([low, low + 2 + 6 * torch.rand(count, 2, generator=generator, dtype=torch.float64)], 1)
    scores = torch.rand(count, generator=generator, dtype=torch.float64).sort(descending=True).values
    return boxes, scores, torch.randint(0, groups, (count,), generator=generator)


@pytest.mark.parametrize("rule", SOFT_RULES)
@pytest.mark.parametrize(("count", "groups", "limit"), [(60, 3, 60), (60, 4, 5), (1, 1, 9), (0, 1, 9)])
def test_scores_equal_a_loop_over_boxes(rule, count, groups, limit):
    boxes, scores, group = random_boxes(count, groups)
    options = {"rule": rule, "iou": 0.3, "limit": limit, "least": 0.05}
    expected = naive(boxes.tolist(), scores.tolist(), group.tolist(), **options)
    ours = decayed_scores(boxes, scores, group, **options)
    assert_close(ours, torch.tensor(expected, dtype=torch.float64).reshape(count))
    assert count < 2 or 0 < (ours > 0).sum() < count


def outputs_and_grid() -> tuple[HeadOutputs, object]:
    generator = torch.Generator().manual_seed(2)
    grid = YoloAnchors([(1.5, 1.5), (2.5, 2.0)], 32)((96, 96))
    raw = torch.randn(2, grid.num_anchors, 4, generator=generator)
    offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:] / 3], -1)
    logits = torch.randn(2, grid.num_anchors, 3, generator=generator)
    return HeadOutputs(offsets, logits, torch.randn(2, grid.num_anchors, generator=generator)), grid


def postprocess(**changes) -> PostProcess:
    settings = {"score_threshold": 0.02, "nms_iou": 0.4, **changes}
    return PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, **settings)


@pytest.mark.parametrize("rule", SOFT_RULES)
@pytest.mark.parametrize("limits", [{}, {"candidates_per_class": 4, "max_detections": 5}])
def test_detections_equal_a_loop(rule, limits):
    outputs, grid = outputs_and_grid()
    ours = postprocess(nms=rule, **limits)(outputs, grid)
    scores = yolo_scores(outputs)
    boxes = YoloBoxCoder().decode(outputs.offsets, grid)
    for b in range(2):
        rows = [(scores[b, a, c].item(), a, c) for a, c in (scores[b] > 0.02).nonzero().tolist()]
        rows.sort(key=lambda row: -row[0])
        flat = ([boxes[b, a].tolist() for _, a, _ in rows], [s for s, _, _ in rows], [c for _, _, c in rows])
        options = (rule, 0.4, limits.get("candidates_per_class", 999), 0.02)
        kept = zip(naive(*flat, *options), flat[2], strict=True)
        expected = sorted([(s, c) for s, c in kept if s > 0], reverse=True)[: limits.get("max_detections")]
        mine = ours.of_image(b)
        assert mine.labels.tolist() == [c for _, c in expected]
        assert_close(mine.scores, torch.tensor([s for s, _ in expected]), rtol=1e-5, atol=1e-6)


def test_a_rule_that_never_suppresses_keeps_all_and_a_hard_one_is_torchvisions():
    outputs, grid = outputs_and_grid()
    everything = postprocess(nms="diou", nms_iou=1.0)(outputs, grid)
    assert len(everything.scores) == (yolo_scores(outputs) > 0.02).sum()
    hard = postprocess()(outputs, grid).of_image(0)
    mine = everything.of_image(0)
    kept = batched_nms(mine.boxes, mine.scores, mine.labels, 0.4)
    assert_close(hard.boxes, mine.boxes[kept])


def test_the_log_says_why_there_is_no_kernel():
    assert postprocess(nms="diou").unsupported() == "nms='diou'"
    assert postprocess().unsupported() is None


def test_another_rule_is_refused():
    with pytest.raises(ValueError, match="nms='soft': choose hard, soft_linear, soft_gaussian, diou"):
        postprocess(nms="soft")


def test_an_empty_batch_has_no_detections():
    outputs, grid = outputs_and_grid()
    nothing = HeadOutputs(outputs.offsets[:0], outputs.class_logits[:0], outputs.objectness[:0])
    assert len(postprocess(nms="soft_linear")(nothing, grid).scores) == 0
