"""What a CPU leaves out changes no bit of a result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors import matching
from detectors.anchors import YoloAnchors
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.kernels import packing
from detectors.losses import row_cross_entropy
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import MultiBoxMatcher, ResponsibleCellMatcher
from detectors.structures import HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles

GRID = oracles.small_ssd_grid((96, 128))
LOSSES = {
    "caffe": {},
    "torchvision": {"recount_positives": True},
    "half": {"negatives_per_positive": 0.5, "normalizer": "images"},
}


def some_targets(seed: int, most: int) -> Targets:
    """With equal IoUs, and padding between boxes."""
    generator = torch.Generator().manual_seed(seed)
    targets = oracles.random_targets(generator, batch=5, most=most, classes=3, size=GRID.size)
    valid = targets.valid & (torch.rand(targets.valid.shape, generator=generator) < 0.8)
    return replace(targets, boxes=(targets.boxes / 8).round() * 8, valid=valid)


def numbers(targets: Targets, bipartite: str, settings: dict) -> list[torch.Tensor]:
    """Everything that matching and loss give."""
    generator = torch.Generator().manual_seed(0)
    shapes = (len(targets.labels), GRID.num_anchors, 4), (len(targets.labels), GRID.num_anchors, 4)
    leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    encoded = TargetEncoder(MultiBoxMatcher(bipartite=bipartite), SSDBoxCoder())(targets, GRID)
    terms = MultiBoxLoss(**settings)(HeadOutputs(*leaves), encoded, GRID)
    sum(terms.values()).backward()
    return [encoded.matched, encoded.assigned, *terms.values(), *(leaf.grad for leaf in leaves)]


def region_numbers(
    targets: Targets, images_seen: int, settings: dict, offset: float = 0.5
) -> list[torch.Tensor]:
    """The prior term, the other terms and the gradients. offset: of one anchor without a box."""
    grid = YoloAnchors([(1.0, 1.0), (2.0, 2.0)], 32)(GRID.size)
    generator = torch.Generator().manual_seed(0)
    shape = (len(targets.labels), grid.num_anchors)
    leaves = [torch.rand(*shape, n, generator=generator) for n in (4, 3)] + [
        torch.rand(shape, generator=generator)
    ]
    leaves[0][0, 3, 2] = offset
    leaves = [leaf.requires_grad_() for leaf in leaves]
    outputs = HeadOutputs(*leaves)
    loss = RegionLoss(**settings).train()
    loss.images_seen.fill_(images_seen)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid, outputs)
    terms = loss(outputs, encoded, grid)
    sum(terms.values()).backward()
    return [terms.pop("prior"), *terms.values(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("bipartite", ["greedy", "last"])
@pytest.mark.parametrize("most", [0, 1, 5, 40])
def test_packed_and_padded_are_the_same(most, bipartite, settings, monkeypatch):
    targets = some_targets(most, most)
    packed = numbers(targets, bipartite, settings)
    monkeypatch.setattr(packing, "PACKED", frozenset())
    padded = numbers(targets, bipartite, settings)
    assert_close(packed, padded, rtol=0, atol=0)


@pytest.mark.parametrize(
    "settings", [{}, {"normalizer": "anchors", "ignore_truths": 2}], ids=["darknet", "course"]
)
@pytest.mark.parametrize("images_seen", [0, 12800])
@pytest.mark.parametrize("most", [0, 1, 5, 40])
def test_a_packed_and_a_padded_region_loss_are_the_same(most, images_seen, settings, monkeypatch):
    """Gradients too. Past its images, the prior term is 0 whether its errors are computed or not."""
    packed = region_numbers(some_targets(most, most), images_seen, settings)
    monkeypatch.setattr(packing, "PACKED", frozenset())
    padded = region_numbers(some_targets(most, most), images_seen, settings)
    assert_close(packed, padded, rtol=0, atol=0)
    assert packed[0].isfinite() and (packed[0] == 0) == (images_seen > 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_offset_that_is_not_finite_shows_past_the_prior_term(value):
    terms = region_numbers(some_targets(0, 0), 12800, {}, offset=value)
    assert not torch.stack(terms[:5]).isfinite().all()


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_size_of_tiles_does_not_matter(on_gpu, monkeypatch):
    targets = some_targets(3, 30)
    expected = numbers(targets, "greedy", {})
    if on_gpu:
        monkeypatch.setattr(packing, "PACKED", frozenset())
    for rows in (1, 7):
        size = rows * GRID.num_anchors * matching.KEY_BYTES
        monkeypatch.setattr(matching, "PACKED_TABLE", size)
        monkeypatch.setattr(matching, "PADDED_TABLE", size)
        monkeypatch.setattr(row_cross_entropy, "CACHED_LOGITS", rows * 4 * 4)
        assert_close(numbers(targets, "greedy", {}), expected, rtol=0, atol=0)


def test_rows_and_bounds(monkeypatch):
    needed = torch.tensor([[False, True], [True, False]])
    assert packing.rows_where(needed).tolist() == [1, 2]
    assert packing.at_most(torch.tensor([1.5, 3.2]), 9) == 4
    assert packing.at_most(torch.tensor([1.5, 3.2]), 3) == 3
    assert packing.at_most(torch.zeros(0), 9) == 0
    monkeypatch.setattr(packing, "PACKED", frozenset())
    assert packing.rows_where(needed).tolist() == [0, 1, 2, 3]
    assert packing.at_most(torch.tensor([1.5, 3.2]), 9) == 9


def test_the_packed_cross_entropy_has_no_second_derivative():
    logits = torch.zeros(3, 2).requires_grad_()
    error = row_cross_entropy.row_cross_entropy(logits, torch.tensor([0, 1, 1]))
    (gradient,) = torch.autograd.grad(error[1] ** 2, logits, create_graph=True)
    assert_close(gradient, error[1].detach() * torch.tensor([[0.0, 0], [1, -1], [0, 0]]))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
