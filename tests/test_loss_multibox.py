"""The options of MultiBoxLoss and its matcher against recordings of torchvision and ssd.pytorch.

Caffe's recordings are in test_losses.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.coders import SSDBoxCoder
from detectors.commands.verify import ssd_recordings
from detectors.commands.verify.presets import preset_loss
from detectors.losses.multibox_loss import MultiBoxLoss
from detectors.matching import MultiBoxMatcher
from detectors.structures import EncodedTargets, HeadOutputs, Targets
from detectors.targets import TargetEncoder
from tests import oracles
from tests.test_losses import check_gradients

FIXTURES = Path(__file__).parent / "fixtures"
SSD_CASES = sorted(path.stem for path in (FIXTURES / "ssd").glob("loss_*.npz"))


def port_loss(prefix: str) -> MultiBoxLoss:
    """torchvision's preset, or Caffe's, which ssd.pytorch shares except where its numbers overflow.

    Both ports match with bipartite="last".
    """
    return preset_loss("multibox_torchvision" if prefix == "tv" else "multibox")


def same_but_for_ties(case, prefix: str, matched: torch.Tensor) -> bool:
    """Whether positives equal the recording's.

    Fails if they differ elsewhere than at the several best anchors of a box (tie_sets).
    """
    recorded = {(int(b), int(a)) for b, a in case[f"{prefix}_pos"].reshape(-1, 2)}
    ours = {(b, a) for b, a in (matched >= 0).nonzero().tolist()}
    ties = {(int(image), int(anchor)) for image, _, anchor in case["tie_sets"].reshape(-1, 3)}
    assert ours ^ recorded <= ties
    return ours == recorded


INCOMPARABLE = {  # (port, recording) -> why
    ("ssdpt", "loss_mini_empty"): "NaN without boxes",
    ("ssdpt", "loss_mini_extreme_logits"): "its log_sum_exp underflows",
    ("tv", "loss_mini_degenerate"): "infinite: a box without area; see the test below",
    ("ssdpt", "loss_mini_degenerate"): "infinite: a box without area",
}


@pytest.mark.parametrize("name", SSD_CASES)
@pytest.mark.parametrize("prefix", ["tv", "ssdpt"])
def test_multibox_of_ports(prefix, name):
    """Positives, targets, negatives, loss and gradients; the port's numbers are stored if not Caffe's."""
    if (prefix, name) in INCOMPARABLE:
        return
    case = np.load(FIXTURES / f"ssd/{name}.npz")
    loss = port_loss(prefix)
    if case[f"{prefix}_equals_caffe"]:
        prefix = "caffe"
    grid = ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    offsets, logits = (x.requires_grad_() for x in ssd_recordings.predictions(case))
    encoded = TargetEncoder(MultiBoxMatcher(bipartite="last"), SSDBoxCoder())(
        ssd_recordings.recorded_targets(case), grid
    )
    terms = loss(HeadOutputs(offsets, logits), encoded, grid)
    sum(terms.values()).backward()
    if not same_but_for_ties(case, prefix, encoded.matched):
        assert_close(terms["class"].item(), float(case[f"{prefix}_loss_conf"]), rtol=2e-2, atol=0)
        return
    image, anchor = case[f"{prefix}_pos"].reshape(-1, 2).astype(int).T
    expected_labels = torch.from_numpy(case[f"{prefix}_pos_label"].astype(np.int64))
    assert_close(encoded.labels[image, anchor] + 1, expected_labels)
    expected_offsets = torch.from_numpy(case[f"{prefix}_pos_target"].reshape(-1, 4)).float()
    assert_close(encoded.offsets[image, anchor], expected_offsets, atol=2e-4, rtol=1e-4)
    assert_close(terms["box"].item(), float(case[f"{prefix}_loss_loc"]), rtol=1e-5, atol=1e-6)
    assert_close(terms["class"].item(), float(case[f"{prefix}_loss_conf"]), rtol=1e-5, atol=1e-6)
    check_gradients(case, prefix, offsets.grad, logits.grad)


def test_a_box_without_area_takes_no_anchor_unlike_in_torchvision():
    """torchvision's loss is infinite then (its detector refuses such boxes); other positives are the same."""
    case = np.load(FIXTURES / "ssd/loss_mini_degenerate.npz")
    encoded = TargetEncoder(MultiBoxMatcher(bipartite="last"), SSDBoxCoder())(
        ssd_recordings.recorded_targets(case), ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    )
    assert np.isinf(case["tv_loss_loc"])
    usable = case["tv_pos"][np.isfinite(case["tv_pos_target"]).all(1)].astype(int)
    assert len(usable) == len(case["tv_pos"]) - 1
    assert encoded.positive.nonzero().tolist() == usable.tolist()


@pytest.mark.parametrize("normalizer", ["batch", "images", "floor"])
def test_normalizers_of_ports(normalizer):
    """Computed from the sums of each image alone.

    The second image has no box, the third has more positives than the first.
    """
    grid = oracles.small_ssd_grid((96, 96))
    targets = oracles.pad_targets(
        [[[10.0, 10, 40, 50]], [], [[0.0, 0, 50, 50], [30, 30, 90, 90], [5, 60, 30, 90]]]
    )
    generator = torch.Generator().manual_seed(3)
    outputs = HeadOutputs(*(torch.randn(3, grid.num_anchors, n, generator=generator) for n in (4, 4)))
    encoded = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())(targets, grid)
    counts = encoded.positive.sum(1).tolist()
    assert counts[0] and not counts[1] and counts[2] > counts[0]
    alone = [image_terms(outputs, encoded, grid, b) for b in range(3)]
    sums = [
        {name: value * max(1, n) for name, value in terms.items()}
        for terms, n in zip(alone, counts, strict=True)
    ]
    divisors = {
        "batch": [max(1, sum(counts))] * 3,
        "images": [3 * max(1, n) for n in counts],
        "floor": [sum(max(1, n) for n in counts)] * 3,
    }[normalizer]
    terms = MultiBoxLoss(normalizer=normalizer)(outputs, encoded, grid)
    for name, value in terms.items():
        expected = sum(s[name] / divisor for s, divisor in zip(sums, divisors, strict=True))
        assert_close(value.item(), expected, rtol=1e-5, atol=0)


def image_terms(outputs: HeadOutputs, encoded, grid, image: int) -> dict[str, float]:
    """Caffe's loss of one image of a batch."""
    rows = slice(image, image + 1)
    targets = encoded.targets
    image_encoded = EncodedTargets(
        encoded.matched[rows],
        encoded.assigned[rows],
        Targets(targets.boxes[rows], targets.labels[rows], targets.valid[rows]),
        grid,
        encoded.coder,
    )
    image_outputs = HeadOutputs(outputs.offsets[rows], outputs.class_logits[rows])
    terms = MultiBoxLoss()(image_outputs, image_encoded, grid)
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize("ratio", [1.0, 2.0, 100.0])
def test_positives_make_up_for_missing_negatives(ratio):
    """In the order of their anchors; ignored anchors never do. The statistics count them, too."""
    matched = torch.tensor([[-1, 0, 0, -2, -1, 0]])
    grid = oracles.small_ssd_grid((32, 16))
    targets = oracles.pad_targets([[[0.0, 0, 8, 8]]])
    encoded = EncodedTargets(matched, torch.tensor([[1]]), targets, grid, SSDBoxCoder())
    logits = torch.tensor([[[3.0, 0], [1, 0], [2, 0], [9, 0], [0, 1], [0, 2]]])
    loss = MultiBoxLoss(negatives_per_positive=ratio, recount_positives=True)
    error = -logits[0].log_softmax(-1)[torch.arange(6), (matched[0] >= 0).long()]
    mined = [4, 0, 1, 2, 5][: int(min(3 * ratio, 5))]
    outputs = HeadOutputs(torch.zeros(1, 6, 4), logits)
    expected = (error[[1, 2, 5]].sum() + error[mined].sum()) / 3
    assert_close(loss(outputs, encoded, grid)["class"], expected)
    numbers = loss.statistics(outputs, encoded, grid)
    assert_close(numbers["negatives_per_positive"].item(), len(mined) / 3)
