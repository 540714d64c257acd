"""The matching kernels against MultiBoxMatcher's reference, bit for bit, and against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import DefaultBoxes, ssd300_levels, ssd512_levels
from detectors.coders import SSDBoxCoder
from detectors.kernels import matching_kernel
from detectors.matching import SMALLEST_IOU, MultiBoxMatcher
from detectors.structures import BACKGROUND, AnchorGrid, Level, Matches, Targets
from detectors.targets import TargetEncoder
from tests import oracles


@pytest.fixture
def matched_alike(device, kernels):
    """Matches by the kernel, which must equal the reference's."""

    def match(targets: Targets, grid: AnchorGrid, **settings) -> Matches:
        matcher = MultiBoxMatcher(**settings)
        kernels("reference")
        expected = matcher(targets, grid)
        kernels("triton")
        matches = matcher(targets.to(device), grid.to(device))
        for ours, reference in zip(matches, expected, strict=True):
            assert_close(ours.cpu(), reference, rtol=0, atol=0)
        return expected

    return match


def random_boxes(seed: int, most: int, *, batch: int = 3, whole: int = 0) -> Targets:
    """whole: corners are multiples of this number of pixels, so that many IoUs are equal."""
    generator = torch.Generator().manual_seed(seed)
    targets = oracles.random_targets(generator, batch=batch, most=most, classes=3, size=(96, 128))
    return replace(targets, boxes=(targets.boxes / whole).round() * whole) if whole else targets


@pytest.mark.parametrize(("seed", "whole"), [(0, 0), (4, 0), (2, 8), (5, 16)])
def test_equals_the_reference_and_loops(matched_alike, seed, whole):
    """Several blocks of anchors and of boxes, and ties."""
    grid = oracles.small_ssd_grid((96, 128))
    targets = random_boxes(seed, 20, whole=whole)
    assert grid.num_anchors > matching_kernel.ANCHORS_OF_BLOCK
    assert targets.valid.sum(1).max() > matching_kernel.BIPARTITE_SIZES["BOXES"]
    matched = matched_alike(targets, grid).matched
    for b, row in enumerate(matched):
        owner = oracles.multibox_match(targets, grid, b)
        assert {a: t for a, t in enumerate(row.tolist()) if t != BACKGROUND} == owner


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_reference_on_the_papers_default_boxes(matched_alike, seed):
    side, levels = ((300, ssd300_levels()), (512, ssd512_levels()))[seed % 2]
    grid = DefaultBoxes(levels, (side, side))((side, side))
    generator = torch.Generator().manual_seed(seed)
    targets = oracles.random_targets(generator, batch=2, most=60, classes=3, size=grid.size)
    whole = (0, 0, 4, 16)[seed % 4]
    matched_alike(replace(targets, boxes=(targets.boxes / whole).round() * whole) if whole else targets, grid)


@pytest.mark.slow
def test_three_hundred_boxes(matched_alike):
    """More than are compared at a time; many of them want the same anchors."""
    grid = oracles.small_ssd_grid((96, 128))
    matches = matched_alike(random_boxes(5, 300, batch=2, whole=4), grid)
    assert matches.assigned.shape[1] > matching_kernel.BIPARTITE_SIZES["RIVALS"]


def test_boxes_that_push_one_another_away(matched_alike):
    """The first one's anchor is the second one's next best, and so on; equal boxes go by their order."""
    grid = oracles.small_ssd_grid((96, 96))
    chain = [[10.0 + 3 * i, 30, 40 + 3 * i, 60] for i in range(8)]
    matches = matched_alike(oracles.pad_targets([chain, [[30.0, 30, 50, 50]] * 6]), grid)
    assert all(len(set(row[row >= 0].tolist())) == (row >= 0).sum() for row in matches.assigned)


def test_more_boxes_than_anchors(matched_alike):
    grid = oracles.small_ssd_grid((32, 32))
    boxes = [[float(i % 7), float(i % 5), 20.0 + i % 11, 22.0 + i % 3] for i in range(18)]
    matches = matched_alike(oracles.pad_targets([boxes]), grid)
    assert (matches.assigned >= 0).sum() == grid.num_anchors < 18


def test_the_thresholds(matched_alike):
    """An IoU of exactly positive_iou is positive. A box without a pair above 1e-6 gets no anchor."""
    boxes_cxcywh = torch.tensor([[8.0, 4, 16, 8], [8.0, 8, 16, 16], [40.0, 40, 16, 16]])
    grid = AnchorGrid(boxes_cxcywh, torch.ones(3), torch.zeros(3, 2), (64, 64), (Level(1, 3, 16.0, 1),))
    targets = oracles.pad_targets([[[0.0, 0, 16, 8], [60.0, 60, 64, 64]]])
    assert matched_alike(targets, grid).matched.tolist() == [[0, 0, BACKGROUND]]
    assert matched_alike(targets, grid, positive_iou=0.51).matched.tolist() == [[0, BACKGROUND, BACKGROUND]]


@pytest.mark.parametrize("images", [[[], []], [[[10.0, 10, 40, 40]], []], []])
def test_images_and_batches_without_boxes(matched_alike, images):
    grid = oracles.small_ssd_grid((96, 96))
    targets = oracles.pad_targets(images) if images else Targets(*(x[:0] for x in one_box()))
    matches = matched_alike(targets, grid)
    assert matches.matched.shape == (len(images), grid.num_anchors)


def one_box() -> tuple[torch.Tensor, ...]:
    targets = oracles.pad_targets([[[10.0, 10, 40, 40]]])
    return targets.boxes, targets.labels, targets.valid


def test_padding_between_boxes_and_boxes_without_area(matched_alike):
    targets = oracles.pad_targets([[[0.0, 0, 50, 50], [8, 8, 30, 30], [20, 20, 20, 40], [40, 40, 80, 80]]])
    targets.valid[0, 1] = False
    matches = matched_alike(targets, oracles.small_ssd_grid((96, 96)))
    assert (matches.assigned >= 0).tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_corners_that_are_not_finite(matched_alike, value):
    """The data stage refuses such boxes. Here they must not hang."""
    targets = random_boxes(0, 6)
    targets.boxes[0, 1, 2] = value
    targets.boxes[1, 0] = value
    targets.valid[:2, :2] = True
    matched_alike(targets, oracles.small_ssd_grid((96, 96)))


def test_views_with_other_strides(matched_alike):
    targets = random_boxes(1, 9)
    wide = torch.full((3, 9, 6), float("nan"))
    wide[..., 1:5] = targets.boxes
    valid = torch.ones(9, 3, dtype=torch.bool)
    valid.T.copy_(targets.valid)
    matched_alike(Targets(wide[..., 1:5], targets.labels, valid.T), oracles.small_ssd_grid((96, 96)))


def test_what_the_kernel_does_not_do(device, kernels, monkeypatch):
    """The reference runs then."""
    monkeypatch.setattr(matching_kernel, "match_boxes", None)
    kernels("triton")
    targets = random_boxes(0, 6).to(device)
    grid = oracles.small_ssd_grid((96, 96)).to(device)
    assert MultiBoxMatcher().unsupported() is None
    last = MultiBoxMatcher(bipartite="last")
    assert last.unsupported() == "bipartite='last'"
    assert_close(last(targets, grid).matched, last.reference(targets, grid).matched)
    double = replace(targets, boxes=targets.boxes.double())
    assert_close(MultiBoxMatcher()(double, grid).matched, MultiBoxMatcher().reference(double, grid).matched)


def test_the_operation_keeps_torchs_rules(device):
    targets = random_boxes(0, 6).to(device)
    anchors = oracles.small_ssd_grid((64, 64)).boxes.to(device)
    torch.library.opcheck(
        matching_kernel.match_boxes, (targets.boxes, targets.valid, anchors, 0.5, SMALLEST_IOU)
    )


def test_a_compiled_encoder_gives_the_same(device, kernels):
    kernels("triton")
    torch.compiler.reset()
    grid = oracles.small_ssd_grid((64, 64)).to(device)
    encoder = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder().to(device))
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    for most in (3, 7):
        targets = random_boxes(most, most).to(device)
        assert_close(compiled(targets, grid).matched, encoder(targets, grid).matched)


@pytest.mark.gpu
def test_a_cuda_graph_captures_it(device):
    targets = random_boxes(0, 9).to(device)
    arguments = (targets.boxes, targets.valid, oracles.small_ssd_grid((96, 96)).boxes.to(device), 0.5, 1e-6)
    expected = matching_kernel.match_boxes(*arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = matching_kernel.match_boxes(*arguments)
    for tensor in captured:
        tensor.fill_(-7)
    graph.replay()
    assert_close(captured, expected)
