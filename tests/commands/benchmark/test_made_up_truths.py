"""Ground truth for speed: as many and as large boxes as the data sets have, all of them usable."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_counts, made_up_targets


@pytest.mark.parametrize(("kind", "mean"), [("voc", 2.5), ("coco", 7.3)])
def test_numbers_of_boxes(kind, mean):
    counts = made_up_counts(kind, 20_000, np.random.default_rng(0))
    assert counts.min() == 1
    assert counts.mean() == pytest.approx(mean, rel=0.05)
    assert counts.max() > 8 * mean  # a long tail


@pytest.mark.parametrize("kind", CLASS_COUNTS)
def test_boxes_lie_inside_and_have_area(kind):
    targets = made_up_targets(kind, 64, (200, 300))
    boxes = targets.boxes[targets.valid]
    assert (boxes >= 0).all() and (boxes <= torch.tensor([300, 200, 300, 200])).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (targets.boxes[~targets.valid] == 0).all()
    assert targets.labels.min() == 0 and targets.labels.max() == CLASS_COUNTS[kind] - 1


def test_a_fixed_number_of_boxes_and_a_seed():
    targets = made_up_targets("voc", 3, (100, 100), per_image=30)
    assert targets.valid.sum(1).tolist() == [30, 30, 30]
    assert torch.equal(targets.boxes, made_up_targets("voc", 3, (100, 100), per_image=30).boxes)
    assert not torch.equal(targets.boxes, made_up_targets("voc", 3, (100, 100), per_image=30, seed=1).boxes)
