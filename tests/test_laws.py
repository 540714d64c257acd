"""Laws that hold for any input: round trips, invariances, the order of axes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles

YOLO = (
    YoloAnchors([(1.3, 1.7), (3.2, 4.0), (5.0, 2.0)], 32)((320, 416)),
    YoloBoxCoder(),
    ResponsibleCellMatcher(),
)
SSD = (DefaultBoxes(ssd300_levels()[2:], (300, 300))((300, 300)), SSDBoxCoder(), MultiBoxMatcher())
FAMILIES = pytest.mark.parametrize(("grid", "coder", "matcher"), [YOLO, SSD], ids=["yolov2", "ssd"])

coordinates = st.floats(1.0, 299.0, width=32)
any_box = st.tuples(coordinates, coordinates, coordinates, coordinates).map(
    lambda v: [min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]) + 1, max(v[1], v[3]) + 1]
)


@given(st.lists(any_box, min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_formats_round_trip(rows):
    boxes = torch.tensor(rows)
    assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes, atol=1e-4, rtol=1e-6)


@FAMILIES
@given(box=any_box)
@settings(max_examples=50, deadline=None)
def test_decode_undoes_encode(grid, coder, matcher, box):
    boxes = torch.tensor(box).expand(grid.num_anchors, 4)
    assert_close(coder.decode(coder.encode(boxes, grid), grid), boxes, atol=2e-3, rtol=1e-5)


@FAMILIES
def test_an_anchor_encodes_as_itself(grid, coder, matcher):
    expected = torch.tensor([0.5, 0.5, 0, 0] if isinstance(coder, YoloBoxCoder) else [0.0, 0, 0, 0])
    offsets = coder.encode(cxcywh_to_xyxy(grid.boxes_cxcywh), grid)
    assert_close(offsets, expected.expand_as(offsets), atol=1e-4, rtol=0)


@FAMILIES
@pytest.mark.parametrize("seed", range(3))
def test_padding_changes_nothing(grid, coder, matcher, seed):
    """More padding rows, filled with garbage, give the same matches."""
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=6, classes=3, size=grid.size
    )
    garbage = torch.full((3, 4, 4), 77.0)
    padded = Targets(
        torch.cat([targets.boxes, garbage], 1),
        torch.cat([targets.labels, torch.ones(3, 4, dtype=torch.int64)], 1),
        torch.cat([targets.valid, torch.zeros(3, 4, dtype=torch.bool)], 1),
    )
    expected = matcher(targets, grid)
    matches = matcher(padded, grid)
    assert_close(matches.matched, expected.matched)
    assert_close(matches.assigned[:, :6], expected.assigned)
    assert (matches.assigned[:, 6:] == -1).all()


@FAMILIES
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_is_its_images_one_by_one(grid, coder, matcher, seed):
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=6, classes=3, size=grid.size
    )
    whole = TargetEncoder(matcher, coder)(targets, grid)
    for b in range(3):
        alone = TargetEncoder(matcher, coder)(
            Targets(targets.boxes[b : b + 1], targets.labels[b : b + 1], targets.valid[b : b + 1]), grid
        )
        assert_close(whole.matched[b], alone.matched[0])
        assert_close(whole.offsets[b], alone.offsets[0])


@FAMILIES
def test_every_positive_encodes_its_box(grid, coder, matcher):
    targets = oracles.random_targets(
        torch.Generator().manual_seed(5), batch=4, most=8, classes=3, size=grid.size
    )
    encoded = TargetEncoder(matcher, coder)(targets, grid)
    decoded = coder.decode(encoded.offsets, grid)
    for b, a in encoded.positive.nonzero().tolist():
        box = encoded.matched[b, a]
        assert targets.valid[b, box]
        assert_close(decoded[b, a], targets.boxes[b, box], atol=1e-2, rtol=1e-4)
        assert encoded.labels[b, a] == targets.labels[b, box]


@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_prediction_costs_nothing(seed):
    """In both families, outputs made from the encoded targets have (almost) no loss."""
    for (grid, coder, matcher), loss in ((YOLO, RegionLoss(prior_images=0)), (SSD, MultiBoxLoss())):
        targets = oracles.random_targets(
            torch.Generator().manual_seed(seed), batch=3, most=6, classes=3, size=grid.size
        )
        encoded = TargetEncoder(matcher, coder)(targets, grid)
        columns = encoded.labels + (1 if isinstance(loss, MultiBoxLoss) else 0)
        logits = 40.0 * torch.nn.functional.one_hot(columns.clamp(min=0), 4)
        objectness = torch.where(encoded.positive, 40.0, -40.0)
        total = sum(loss(HeadOutputs(encoded.offsets, logits, objectness), encoded, grid).values())
        assert total < 1e-3
        worse = HeadOutputs(encoded.offsets + 0.1 * encoded.positive[..., None], logits, objectness)
        assert not encoded.positive.any() or sum(loss(worse, encoded, grid).values()) > total


def test_iou_of_a_batch_broadcasts():
    left = torch.rand(2, 3, 4).cumsum(-1)
    right = torch.rand(5, 4).cumsum(-1)
    assert_close(pairwise_iou(left, right)[1], pairwise_iou(left[1], right))
