"""SSD's loss (loss_*.npz): matching, targets, hard negatives, loss and gradients.

The programs are Caffe, ssd.pytorch (ssdpt) and torchvision (tv). Positives are (image, default box) pairs.
Where rounding decides which default box a ground-truth box gets (ssd_ties.py), any of them is right, so
everything that depends on the positives is compared with the recorded positives put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detectors.boxes import pairwise_iou
from detectors.coders import SSDBoxCoder
from detectors.commands.verify import ssd_recordings
from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    known_difference,
)
from detectors.commands.verify.presets import preset_loss, preset_matcher
from detectors.commands.verify.recordings import Arrays, Folder
from detectors.commands.verify.ssd_ties import replayed
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, HeadOutputs, Matches, Targets
from detectors.targets import TargetEncoder

# The originals compute in float32: a rounding error of 6e-8 in the edge of a box with side 0.003 becomes 1e-4
# in its target, which is divided by 0.2.
TARGET_TOLERANCE = Tolerance(absolute=1e-4, relative=2e-5)
LOSS = Tolerance(absolute=1e-6, relative=1e-5)
GRADIENTS = Tolerance(absolute=1e-6, relative=1e-4)
LOC_GRADIENTS = Tolerance(absolute=1e-5, relative=1e-4)
UNDERFLOW = (
    "ssd.pytorch subtracts the largest logit of the batch before exp(), so it never mines rows far below it"
)
REMARKS = ("notes", "tie_sets", "mining_margin", "ssdpt_raises", "ssdpt_equals_caffe", "tv_equals_caffe")


class Program(NamedTuple):
    """An original program, and the presets of conf/loss that reproduce it."""

    prefix: str  # of its arrays
    title: str
    loss: str  # preset
    matcher: str  # preset


PROGRAMS = (
    Program("caffe", "Caffe", "multibox", "multibox"),
    Program("tv", "torchvision", "multibox_torchvision", "multibox_torchvision"),
    # Caffe's loss, but the last ground-truth box gets a default box that several want.
    Program("ssdpt", "ssd.pytorch", "multibox", "multibox_torchvision"),
)


@dataclass
class Recorded:
    """One program's numbers of a case. Their names are given without the program's prefix."""

    arrays: Arrays
    prefix: str

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}_{name}" in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[f"{self.prefix}_{name}"]

    def pairs(self, name: str) -> np.ndarray:
        """(K, 2) image and default box."""
        return self[name].reshape(-1, 2).astype(np.int64)

    def skip(self, *names: str) -> None:
        self.arrays.skip(*(f"{self.prefix}_{name}" for name in names))


class RecordedMatcher:
    """A matcher that returns the recorded matching, which may decide ties differently."""

    needs_predictions = False

    def __init__(self, matched: Tensor):
        self.matched = matched

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        return Matches(self.matched, torch.full_like(targets.labels, -1))


def loss_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One loss_*.npz, once for each program."""
    arrays = folder.arrays(name)
    arrays.skip(*REMARKS)
    parent = (folder.root / name).parent
    for program in PROGRAMS:
        yield Fixture(f"{name.stem} ({program.title})", partial(_loss, arrays, parent, program))


def _loss(arrays: Arrays, folder: Path, program: Program) -> Iterator[Comparison]:
    equals_caffe = program.prefix == "caffe" or bool(arrays[f"{program.prefix}_equals_caffe"])
    recorded = Recorded(arrays, "caffe" if equals_caffe else program.prefix)
    targets = ssd_recordings.recorded_targets(arrays)
    grid = ssd_recordings.recorded_grid(arrays, folder)
    loc, conf = ssd_recordings.predictions(arrays)
    ours = TargetEncoder(preset_matcher(program.matcher), SSDBoxCoder())(targets, grid).matched
    reason = _invalid_loss(recorded, targets)
    if reason is not None:
        arrays.skip(*(name for name in arrays if name.startswith(f"{recorded.prefix}_")))
        usable = recorded.pairs("pos")[np.isfinite(recorded["pos_target"].reshape(-1, 4)).all(1)]
        comparison = agree(
            "positives of boxes with area", _places(ours >= 0), {tuple(place) for place in usable.tolist()}
        )
        yield known_difference(comparison, f"{program.title}'s loss is {reason}")
        return
    matched, comparison = _positives(ours, recorded, targets, grid, greedy=program.prefix == "caffe")
    yield comparison
    encoded = TargetEncoder(RecordedMatcher(matched), SSDBoxCoder())(
        ssd_recordings.recorded_targets(arrays, torch.float64),
        ssd_recordings.recorded_grid(arrays, folder, torch.float64),
    )
    image, anchor = recorded.pairs("pos").T
    yield compare_numbers("labels", encoded.labels[image, anchor] + 1, recorded["pos_label"], EXACT)
    yield compare_numbers(
        "targets", encoded.offsets[image, anchor], recorded["pos_target"].reshape(-1, 4), TARGET_TOLERANCE
    )
    yield compare_numbers("number of positives", (matched >= 0).sum(), recorded["npos"], EXACT)
    yield from _values(program, recorded, encoded, HeadOutputs(loc.double(), conf.double()))


def _places(mask: Tensor) -> set[tuple[int, ...]]:
    """The indices where the mask, or a number, is not 0."""
    return {tuple(place) for place in mask.nonzero().tolist()}


def _invalid_loss(recorded: Recorded, targets: Targets) -> str | None:
    """How a program's loss is invalid and what it is here, or None. The originals do not check all inputs."""
    loss = float(recorded["loss_loc"]) + float(recorded["loss_conf"])
    sides = (targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.valid]
    if np.isnan(loss) and not targets.valid.any():
        return "NaN without ground truth; here it is 0"
    if np.isinf(loss) and (sides <= 0).any():
        return "infinite for a box without area; here such a box is left out"
    return None


def _positives(
    ours: Tensor, recorded: Recorded, targets: Targets, grid: AnchorGrid, *, greedy: bool
) -> tuple[Tensor, Comparison]:
    """The recorded matching (B, A), and its comparison with ours (B, A).

    The two may differ where rounding decides, see ssd_ties.
    """
    iou = pairwise_iou(targets.boxes, grid.boxes)  # (B, M, A)
    if not iou.shape[1]:
        recorded.skip("pos_gt")
        return ours, agree("positives", set(), {tuple(place) for place in recorded.pairs("pos").tolist()})
    iou = torch.where(targets.valid[..., None], iou, -1).numpy()
    wanted = _recorded_pairs(recorded, targets, grid)
    by_rule = _replayed_batch(iou, wanted, greedy=greedy)
    is_wanted = np.take_along_axis(wanted, by_rule[:, None].clip(min=0), 1)[:, 0] & (by_rule >= 0)
    matched = np.where(
        wanted.any(1), np.where(is_wanted, by_rule, wanted.argmax(1)), BACKGROUND
    )  # a positive that the rule does not allow has the first box that it can have
    our_pairs = ours.numpy()[:, None] == np.arange(iou.shape[1])[:, None]  # (B, M, A)
    wrong = (by_rule != matched) | (_replayed_batch(iou, our_pairs, greedy=greedy) != ours.numpy())
    different = ours.numpy() != matched
    unexplained = _places(torch.from_numpy(wrong)) if different.any() else set()
    only_ours = {(*place, int(ours[place])) for place in unexplained if ours[place] >= 0}
    only_recorded = {(*place, int(matched[place])) for place in unexplained if matched[place] >= 0}
    remark = f" ({different.sum()} places decided by rounding)" if different.any() and not unexplained else ""
    return torch.from_numpy(matched), agree(f"positives{remark}", only_ours, only_recorded)


def _replayed_batch(iou: np.ndarray, wanted: np.ndarray, *, greedy: bool) -> np.ndarray:
    """(B, A) the matching of each image, see ssd_ties.replayed."""
    return np.stack([replayed(*image, greedy=greedy) for image in zip(iou, wanted, strict=True)])


def _recorded_pairs(recorded: Recorded, targets: Targets, grid: AnchorGrid) -> np.ndarray:
    """(B, M, A) bool: ground-truth boxes with their default boxes.

    Without `pos_gt`, a positive belongs to the boxes of its label, and of those to the ones that give its
    target, if any does.
    """
    batch, count = targets.labels.shape
    pairs = np.zeros((batch, count, grid.num_anchors), dtype=bool)
    image, anchor = recorded.pairs("pos").T
    if "pos_gt" in recorded:
        pairs[image, recorded["pos_gt"].astype(int), anchor] = True
        return pairs
    label = torch.from_numpy(recorded["pos_label"].astype(np.int64)) - 1  # (K,)
    possible = targets.valid[image] & (targets.labels[image] == label[:, None])  # (K, M)
    target = torch.from_numpy(recorded["pos_target"].reshape(-1, 4).astype(np.float32))
    chosen = replace(grid, boxes_cxcywh=grid.boxes_cxcywh[anchor])  # the default box of each positive
    offsets = SSDBoxCoder().encode(targets.boxes[image].transpose(0, 1), chosen)  # (M, K, 4)
    exact = possible & ((offsets - target).abs() <= TARGET_TOLERANCE.absolute * (1 + target.abs())).all(-1).T
    pairs[image, :, anchor] = torch.where(exact.any(1, keepdim=True), exact, possible).numpy()
    return pairs


def _values(
    program: Program, recorded: Recorded, encoded: EncodedTargets, outputs: HeadOutputs
) -> Iterator[Comparison]:
    """Loss, negatives and gradients.

    Negatives are the rows that get a gradient and are not positive. In float64 no gradient underflows.
    """
    outputs.offsets.requires_grad_()
    outputs.class_logits.requires_grad_()
    terms = preset_loss(program.loss)(outputs, encoded, None)
    sum(terms.values()).backward()
    loc_grad = outputs.offsets.grad
    conf_grad = outputs.class_logits.grad
    positives = {tuple(pair) for pair in recorded.pairs("pos").tolist()}
    negatives = {tuple(pair) for pair in recorded.pairs("neg").tolist()}
    mined = _places(conf_grad.abs().sum(-1)) - positives
    lost = (mined - negatives) & _underflowing(outputs.class_logits)
    if lost and program.prefix == "ssdpt":
        comparison = agree("hard negatives that do not underflow", mined - lost, negatives & mined)
        yield known_difference(comparison, UNDERFLOW)
        recorded.skip("loss_conf", "grad_norms", "grad_conf_pos", "grad_conf_neg")
        yield compare_numbers("box loss", terms["box"], recorded["loss_loc"], LOSS)
        yield compare_numbers("gradients: loc_pos", *_at(recorded, "loc_pos", "pos", loc_grad), LOC_GRADIENTS)
        return
    yield agree("hard negatives", mined, negatives - positives)
    if "norm" in recorded:
        yield compare_numbers("normaliser", max(1, int(encoded.positive.sum())), recorded["norm"], EXACT)
    yield compare_numbers("box loss", terms["box"], recorded["loss_loc"], LOSS)
    yield compare_numbers("class loss", terms["class"], recorded["loss_conf"], LOSS)
    yield from _gradients(recorded, loc_grad, conf_grad)


def _underflowing(logits: Tensor) -> set[tuple[int, ...]]:
    """(image, default box) of the rows whose log-sum-exp underflows in ssd.pytorch.

    It subtracts the largest logit of the whole batch and computes in float32.
    """
    logits = logits.detach().float()
    return _places((logits - logits.max()).exp().sum(-1) == 0)


def _gradients(recorded: Recorded, loc_grad: Tensor, conf_grad: Tensor) -> Iterator[Comparison]:
    if "grad_norms" in recorded:
        norms = torch.stack([loc_grad.norm(), conf_grad.norm()])
        yield compare_numbers("gradients: norms", norms, recorded["grad_norms"], GRADIENTS)
    yield compare_numbers("gradients: loc_pos", *_at(recorded, "loc_pos", "pos", loc_grad), LOC_GRADIENTS)
    for pairs in ("pos", "neg"):
        if f"grad_conf_{pairs}" in recorded:
            yield compare_numbers(
                f"gradients: conf_{pairs}", *_at(recorded, f"conf_{pairs}", pairs, conf_grad), GRADIENTS
            )
    image, anchor = recorded.pairs("pos").T
    elsewhere = loc_grad.clone()
    elsewhere[image, anchor] = 0
    yield compare_numbers("gradients: loc of all others", elsewhere.abs().sum(), 0.0, EXACT)


def _at(recorded: Recorded, name: str, pairs: str, gradient: Tensor) -> tuple[Tensor, np.ndarray]:
    """The stored rows of a gradient: ours, and the recorded ones. gradient: (B, A, n)."""
    image, anchor = recorded.pairs(pairs).T
    return gradient[image, anchor], recorded[f"grad_{name}"].reshape(-1, gradient.shape[-1])
