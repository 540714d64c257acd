"""The options of MultiBoxLoss and of its matcher, against torchvision's and ssd.pytorch's numbers; Caffe's
are in test_losses.py.
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
from detectors.losses import MultiBoxLoss
from detectors.matching import MultiBoxMatcher
from detectors.structures import EncodedTargets, HeadOutputs
from detectors.targets import TargetEncoder
from tests import oracles

FIXTURES = Path(__file__).parent / "fixtures"
SSD_CASES = sorted(path.stem for path in (FIXTURES / "ssd").glob("loss_*.npz"))


def port_loss(prefix: str) -> MultiBoxLoss:
    """torchvision's preset, or Caffe's, which ssd.pytorch shares except where its numbers overflow.

    Matching is "last" for both.
    """
    return preset_loss("multibox_torchvision" if prefix == "tv" else "multibox")


def same_but_for_ties(case, prefix: str, matched: torch.Tensor) -> bool:
    """Positives equal the recording's; where a truth has several best anchors (tie_sets), any of them will
    do: then False.
    """
    theirs = {(int(b), int(p)) for b, p in case[f"{prefix}_pos"].reshape(-1, 2)}
    ours = {(b, p) for b, p in (matched >= 0).nonzero().tolist()}
    ties = {(int(image), int(prior)) for image, _, prior in case["tie_sets"].reshape(-1, 3)}
    assert ours ^ theirs <= ties
    return ours == theirs


UNFIT = {  # what cannot be compared, and why
    ("ssdpt", "loss_mini_empty"): "NaN without truths",
    ("ssdpt", "loss_mini_extreme_logits"): "its log_sum_exp underflows",
    ("tv", "loss_mini_degenerate"): "infinite: a box without area; see the test below",
    ("ssdpt", "loss_mini_degenerate"): "infinite: a box without area",
}


@pytest.mark.parametrize("name", SSD_CASES)
@pytest.mark.parametrize("prefix", ["tv", "ssdpt"])
def test_multibox_of_ports(prefix, name):
    """Positives, targets, negatives, loss and gradients, from the port's own numbers where they differ from
    Caffe's.
    """
    if (prefix, name) in UNFIT:
        return
    case = np.load(FIXTURES / f"ssd/{name}.npz")
    prefix, loss = "caffe" if case[f"{prefix}_equals_caffe"] else prefix, port_loss(prefix)
    grid = ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    loc, conf = (x.requires_grad_() for x in ssd_recordings.predictions(case))
    encoded = TargetEncoder(MultiBoxMatcher(bipartite="last"), SSDBoxCoder())(
        ssd_recordings.recorded_targets(case), grid
    )
    terms = loss(HeadOutputs(loc, conf), encoded, grid)
    sum(terms.values()).backward()
    if not same_but_for_ties(case, prefix, encoded.matched):
        assert_close(terms["class"].item(), float(case[f"{prefix}_loss_conf"]), rtol=2e-2, atol=0)
        return
    image, prior = case[f"{prefix}_pos"].reshape(-1, 2).astype(int).T
    assert_close(
        encoded.labels[image, prior] + 1, torch.from_numpy(case[f"{prefix}_pos_label"].astype(np.int64))
    )
    assert_close(
        encoded.offsets[image, prior],
        torch.from_numpy(case[f"{prefix}_pos_target"].reshape(-1, 4)).float(),
        atol=2e-4,
        rtol=1e-4,
    )
    assert_close(terms["box"].item(), float(case[f"{prefix}_loss_loc"]), rtol=1e-5, atol=1e-6)
    assert_close(terms["class"].item(), float(case[f"{prefix}_loss_conf"]), rtol=1e-5, atol=1e-6)
    norms = torch.stack([loc.grad.norm(), conf.grad.norm()])
    assert_close(norms, torch.from_numpy(case[f"{prefix}_grad_norms"]).float(), rtol=1e-4, atol=1e-6)
    assert_close(
        loc.grad[image, prior],
        torch.from_numpy(case[f"{prefix}_grad_loc_pos"].reshape(-1, 4)).float(),
        atol=1e-5,
        rtol=1e-4,
    )
    rows = {(b, p) for b, p in conf.grad.abs().sum(-1).nonzero().tolist()}
    chosen = np.concatenate(
        [case[f"{prefix}_pos"].reshape(-1, 2), case[f"{prefix}_neg"].reshape(-1, 2)]
    ).astype(int)
    assert rows == {(b, p) for b, p in chosen.tolist()}
    for kind in ("pos", "neg"):
        if f"{prefix}_grad_conf_{kind}" in case.files:
            image, prior = case[f"{prefix}_{kind}"].reshape(-1, 2).astype(int).T
            expected = torch.from_numpy(
                case[f"{prefix}_grad_conf_{kind}"].reshape(-1, conf.shape[-1])
            ).float()
            assert_close(conf.grad[image, prior], expected, atol=1e-6, rtol=1e-4)


def test_a_box_without_area_does_not_take_an_anchor_as_in_ports():
    """torchvision's loss is infinite there (its detector refuses such boxes earlier); the other positives are
    the same.
    """
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
    """From the sums of each image alone.

    The second image has no truth, the third more positives than the first.
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
    per = {
        "batch": [max(1, sum(counts))] * 3,
        "images": [3 * max(1, n) for n in counts],
        "floor": [sum(max(1, n) for n in counts)] * 3,
    }
    terms = MultiBoxLoss(normalizer=normalizer)(outputs, encoded, grid)
    for name, value in terms.items():
        assert_close(
            value.item(),
            sum(s[name] / p for s, p in zip(sums, per[normalizer], strict=True)),
            rtol=1e-5,
            atol=0,
        )


def image_terms(outputs: HeadOutputs, encoded, grid, image: int) -> dict[str, float]:
    """Caffe's loss of one image of a batch."""
    one = slice(image, image + 1)
    rows = type(encoded)(
        encoded.matched[one],
        encoded.assigned[one],
        *(x[one] for x in (encoded.boxes, encoded.offsets, encoded.labels)),
        None,
    )
    return {
        k: v.item()
        for k, v in MultiBoxLoss()(
            HeadOutputs(outputs.offsets[one], outputs.class_logits[one]), rows, grid
        ).items()
    }


@pytest.mark.parametrize("wanted", [1.0, 2.0, 100.0])
def test_positives_fill_up_missing_negatives(wanted):
    """In the order of their anchors; ignored anchors never do. Statistics count what was taken."""
    matched = torch.tensor([[-1, 0, 0, -2, -1, 0]])
    zeros = torch.zeros(1, 6, 4)
    labels = matched.clamp(min=-1)
    grid = oracles.small_ssd_grid((32, 32))
    encoded = EncodedTargets(
        matched, torch.tensor([[1]]), zeros, zeros, labels, oracles.pad_targets([[[0.0, 0, 8, 8]]])
    )
    logits = torch.tensor([[[3.0, 0], [1, 0], [2, 0], [9, 0], [0, 1], [0, 2]]])
    loss = MultiBoxLoss(negatives_per_positive=wanted, recount_positives=True)
    error = -logits[0].log_softmax(-1)[torch.arange(6), (matched[0] >= 0).long()]
    order = [4, 0, 1, 2, 5][: int(min(3 * wanted, 5))]
    assert_close(
        loss(HeadOutputs(zeros, logits), encoded, grid)["class"],
        (error[[1, 2, 5]].sum() + error[order].sum()) / 3,
    )
    assert_close(
        loss.statistics(HeadOutputs(zeros, logits), encoded, grid)["negatives_per_positive"].item(),
        len(order) / 3,
    )
