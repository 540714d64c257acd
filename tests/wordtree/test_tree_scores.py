"""Detections of classes in a tree: the three rules, maps, and suppression between parent and child."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.boxes import pairwise_iou
from detectors.coders import YoloBoxCoder
from detectors.kernels.related_suppression import suppress_related
from detectors.postprocess import PostProcess, yolo_scores
from detectors.structures import HeadOutputs
from detectors.wordtree.tree_scores import TreeScores
from tests.wordtree import trees

GRID = YoloAnchors([(1.0, 1.0), (2.0, 2.0)], 32)((64, 64))  # 8 boxes


def some_outputs(seed: int = 0) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(2, 8, 4, generator=generator)
    logits = torch.randn(2, 8, 8, generator=generator) * 3
    return HeadOutputs(offsets, logits, torch.randn(2, 8, generator=generator))


def rows(rule: str, threshold: float = 0.3, **settings) -> list[tuple[list[int], list[float]]]:
    """Of each box: labels and scores."""
    scores = TreeScores(trees.SMALL, rule=rule, threshold=threshold, **settings)(some_outputs())
    labels = scores.labels.flatten(0, 1).tolist()
    return list(zip(labels, scores.values.flatten(0, 1).tolist(), strict=True))


def expected_rows():
    """Of each box: objectness, p, P."""
    outputs = some_outputs()
    objectness = outputs.objectness.sigmoid().flatten().tolist()
    for o, logits in zip(objectness, outputs.class_logits.flatten(0, 1).tolist(), strict=True):
        yield o, trees.conditional(trees.PARENTS, logits), trees.absolute(trees.PARENTS, logits)


def test_as_meant_the_score_is_that_of_the_last_node_above_the_threshold():
    for (labels, scores), (o, p, absolute) in zip(rows("as_meant"), expected_rows(), strict=True):
        node = trees.walk(trees.PARENTS, p, 0.3)
        assert labels == [node]
        assert scores == pytest.approx([o * absolute[node]])


def test_darknet_multiplies_twice_and_scores_objectness_alone():
    ended = []
    for (labels, scores), (o, p, absolute) in zip(rows("darknet"), expected_rows(), strict=True):
        assert labels == [trees.walk(trees.PARENTS, absolute, 0.3)]
        assert scores == pytest.approx([o])
        ended.append(labels == [trees.walk(trees.PARENTS, p, 0.3)])
    assert not all(ended)


@pytest.mark.parametrize("rule", ["as_meant", "darknet", "every_node"])
def test_with_a_map_all_its_nodes_are_scored(rule):
    for (labels, scores), (o, _, absolute) in zip(
        rows(rule, detection_map=[6, 0]), expected_rows(), strict=True
    ):
        assert labels == [6, 0]
        assert scores == pytest.approx([o * absolute[6], o * absolute[0]], rel=1e-5)


def test_every_node_is_scored():
    for (labels, scores), (o, _, absolute) in zip(rows("every_node"), expected_rows(), strict=True):
        assert labels == list(range(8))
        assert scores == pytest.approx([o * value for value in absolute], rel=1e-5)


def test_boxes_that_cannot_pass_are_left_out():
    """A score is at most the objectness."""
    full = TreeScores(trees.SMALL)(some_outputs())
    some = TreeScores(trees.SMALL, least=0.5)(some_outputs())
    above = full.values > 0.5
    assert 0 < above.sum() < above.numel()
    assert_close(some.values[above], full.values[above])
    assert_close(some.labels[above], full.labels[above])
    assert (some.values == 0).sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "x"}, "tree_rule='x': choose one of as_meant, darknet, every_node"),
        ({"threshold": 1.0}, "tree_threshold=1.0: must be from 0 to less than 1"),
        ({"detection_map": [8]}, "'8' is not a node of the tree"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        TreeScores(trees.SMALL, **settings)


def detect(score=0.0, **settings):
    post = PostProcess(
        coder=YoloBoxCoder(), score_rule=TreeScores(trees.SMALL), score_threshold=0.1, nms_iou=0.4, **settings
    )
    return post(some_outputs(), GRID, score=score)


def test_detections_carry_nodes():
    detections = detect(nms="hard")
    scores = TreeScores(trees.SMALL)(some_outputs())
    found = set(zip(detections.image.tolist(), detections.labels.tolist(), strict=True))
    kept = [(b, a) for b in range(2) for a in range(8) if scores.values[b, a, 0] > 0.1]
    assert found == {(b, int(scores.labels[b, a, 0])) for b, a in kept}
    soft = detect(nms="soft_linear")
    assert len(soft.labels) >= len(detections.labels)


def naive_related(boxes, image, label) -> list[bool]:
    """Every box against every better one that is kept."""
    kept: list[int] = []
    for row in range(len(boxes)):
        mine = trees.path(trees.PARENTS, label[row])
        suppressed = False
        for other in kept:
            theirs = trees.path(trees.PARENTS, label[other])
            related = label[row] in theirs or label[other] in mine
            overlap = pairwise_iou(boxes[row : row + 1], boxes[other : other + 1]).item()
            suppressed |= image[row] == image[other] and related and overlap > 0.4
        if not suppressed:
            kept.append(row)
    return [row in kept for row in range(len(boxes))]


@pytest.mark.parametrize("seed", range(5))
def test_related_suppression_equals_plain_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(40, 2, generator=generator) * 30
    boxes = torch.cat([low, low + 30], 1).double()
    image = torch.arange(40) // 20
    label = torch.randint(0, 8, (40,), generator=generator)
    keep = suppress_related(boxes, image, label, trees.SMALL, iou=0.4)
    assert keep.tolist() == naive_related(boxes, image.tolist(), label.tolist())
    assert 0 < keep.sum() < 40


def test_related_suppression_is_an_option_of_trees():
    related = detect(nms="related")
    hard = detect(nms="hard")
    assert len(related.labels) < len(hard.labels)
    middle = related.scores.median().item()
    assert_close(detect(middle, nms="related").boxes, related.above(middle).boxes, atol=0, rtol=0)
    with pytest.raises(ValueError, match="nms=related: it needs classes in a tree"):
        PostProcess(
            coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.1, nms_iou=0.4, nms="related"
        )


def test_nothing_to_suppress():
    none = torch.zeros(0, dtype=torch.int64)
    assert suppress_related(torch.zeros(0, 4), none, none, trees.SMALL, iou=0.5).tolist() == []
