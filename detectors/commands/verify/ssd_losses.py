"""SSD's loss (loss_*.npz): matching, targets, hard negatives, loss and gradients of Caffe, ssd.pytorch
(ssdpt) and torchvision (tv).

Positives are (image, default box) pairs. `tie_sets` lists (image, truth, default box) where rounding decides
which box a truth is given: any of them is right. What follows from the positives is then compared with the
recorded ones put in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from detectors.structures import BACKGROUND, AnchorGrid, EncodedTargets, HeadOutputs, Matches, Targets
from detectors.targets import TargetEncoder

# The originals compute in float32: 6e-8 of an edge is 1e-4 of the target of a truth whose side is 0.003,
# after a division by 0.2.
TARGET_TOLERANCE = Tolerance(absolute=1e-4, relative=2e-5)
LOSS = Tolerance(absolute=1e-6, relative=1e-5)
GRADIENTS = Tolerance(absolute=1e-6, relative=1e-4)
LOC_GRADIENTS = Tolerance(absolute=1e-5, relative=1e-4)
POSITIVE_IOU = 0.5
IOU_ROUNDING = 1e-6  # an IoU this near the threshold falls to either side by rounding
UNDERFLOW = (
    "ssd.pytorch subtracts the largest logit of the batch before exp(), "
    "so that rows far below it are never mined"
)
REMARKS = ("notes", "mining_margin", "ssdpt_raises", "ssdpt_equals_caffe", "tv_equals_caffe")


class Program(NamedTuple):
    """An original, and what stands for it here."""

    prefix: str
    title: str
    preset: str  # of the loss
    matching: str  # the preset whose matcher is its own


PROGRAMS = (
    Program("caffe", "Caffe", "multibox", "multibox"),
    Program("tv", "torchvision", "multibox_torchvision", "multibox_torchvision"),
    Program(
        "ssdpt", "ssd.pytorch", "multibox", "multibox_torchvision"
    ),  # Caffe's loss, but the last truth keeps a contested box
)


@dataclass
class Recorded:
    """One program's numbers of a case, pairs as (K, 2) image and default box."""

    arrays: Arrays
    prefix: str

    def __contains__(self, name: str) -> bool:
        return f"{self.prefix}_{name}" in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[f"{self.prefix}_{name}"]

    def pairs(self, name: str) -> np.ndarray:
        return self[name].reshape(-1, 2).astype(np.int64)

    def skip(self, *names: str) -> None:
        self.arrays.skip(*(f"{self.prefix}_{name}" for name in names))


class RecordedMatcher:
    """Stands in for a matcher where a tie was decided otherwise."""

    needs_predictions = False

    def __init__(self, matched: Tensor):
        self.matched = matched

    def __call__(self, targets: Targets, grid: AnchorGrid, predicted: Tensor | None = None) -> Matches:
        return Matches(self.matched, torch.full_like(targets.labels, -1))


def loss_fixtures(folder: Folder, name: Path) -> Iterator[Fixture]:
    """One loss_*.npz"""
    arrays = folder.arrays(name)
    arrays.skip(*REMARKS)
    for program in PROGRAMS:
        yield Fixture(
            f"{name.stem} ({program.title})", partial(_loss, arrays, (folder.root / name).parent, program)
        )


def _loss(arrays: Arrays, folder: Path, program: Program) -> Iterator[Comparison]:
    same = program.prefix != "caffe" and bool(arrays[f"{program.prefix}_equals_caffe"])
    recorded = Recorded(arrays, "caffe" if same else program.prefix)
    targets = ssd_recordings.recorded_targets(arrays)
    grid = ssd_recordings.recorded_grid(arrays, folder)
    loc, conf = ssd_recordings.predictions(arrays)
    ours = TargetEncoder(preset_matcher(program.matching), SSDBoxCoder())(targets, grid).matched
    if (reason := _unfit(recorded, targets)) is not None:
        arrays.skip(*(name for name in arrays if name.startswith(f"{recorded.prefix}_")))
        usable = recorded.pairs("pos")[np.isfinite(recorded["pos_target"].reshape(-1, 4)).all(1)]
        comparison = agree(
            "positives of truths with area", _places(ours >= 0), {tuple(place) for place in usable.tolist()}
        )
        yield known_difference(
            comparison, f"{program.title}'s loss is {reason}; here such a truth is left out"
        )
        return
    matched, comparison = _positives(
        ours, recorded, arrays, pairwise_iou(targets.boxes, grid.boxes), greedy=program.prefix == "caffe"
    )
    yield comparison
    exact = (
        ssd_recordings.recorded_targets(arrays, torch.float64),
        ssd_recordings.recorded_grid(arrays, folder, torch.float64),
    )
    wide = TargetEncoder(RecordedMatcher(matched), SSDBoxCoder())(*exact)
    image, prior = recorded.pairs("pos").T
    yield compare_numbers("labels", wide.labels[image, prior] + 1, recorded["pos_label"], EXACT)
    yield compare_numbers(
        "targets", wide.offsets[image, prior], recorded["pos_target"].reshape(-1, 4), TARGET_TOLERANCE
    )
    yield compare_numbers("number of positives", (matched >= 0).sum(), recorded["npos"], EXACT)
    yield from _values(program, recorded, wide, HeadOutputs(loc.double(), conf.double()))


def _places(where: Tensor) -> set[tuple[int, ...]]:
    return {tuple(place) for place in where.nonzero().tolist()}


def _unfit(recorded: Recorded, targets: Targets) -> str | None:
    """Why a program's numbers are none: the originals do not guard against every input."""
    loss = float(recorded["loss_loc"]) + float(recorded["loss_conf"])
    sides = (targets.boxes[..., 2:] - targets.boxes[..., :2])[targets.valid]
    if np.isnan(loss) and not targets.valid.any():
        return "NaN without any truth"
    if np.isinf(loss) and (sides <= 0).any():
        return "infinite for a truth without area"
    return None


def _positives(
    ours: Tensor, recorded: Recorded, arrays: Arrays, iou: Tensor, *, greedy: bool
) -> tuple[Tensor, Comparison]:
    """(B, A) what is matched, with the recorded choice where rounding decides; and the comparison. iou: (B,
    M, A).

    greedy: every truth has a box, so that a tie that is decided otherwise changes no number of positives.
    """
    ties: dict[tuple[int, int], int] = {}
    for image, truth, prior in arrays["tie_sets"].reshape(-1, 3).astype(int).tolist():
        ties.setdefault((image, prior), truth)
    theirs = _matched(ours, recorded, ties)
    different = _places((ours >= 0) != (theirs >= 0) if "pos_gt" not in recorded else ours != theirs)
    half = _places(((iou.amax(1) if iou.shape[1] else iou.sum(1)) - POSITIVE_IOU).abs() < IOU_ROUNDING)
    tied = {place for place in different - half if place in ties}
    balance = sum(
        int(theirs[place] >= 0) - int(ours[place] >= 0) for place in tied
    )  # a truth without a box would be missing
    wrong = different - half if balance and greedy else different - half - tied
    sides = ({(*place, int(side[place])) for place in wrong if side[place] >= 0} for side in (ours, theirs))
    free = f" ({len(different)} places decided by rounding)" if different and not wrong else ""
    return theirs, agree(f"positives{free}", *sides)


def _matched(ours: Tensor, recorded: Recorded, ties: dict[tuple[int, int], int]) -> Tensor:
    """(B, A) the recorded matching.

    Where the recording does not say which truth it was, it is ours, or the one that the tie names.
    """
    theirs = torch.full_like(ours, BACKGROUND)
    places = [tuple(place) for place in recorded.pairs("pos").tolist()]
    truths = recorded["pos_gt"].astype(int).tolist() if "pos_gt" in recorded else [None] * len(places)
    for place, truth in zip(places, truths, strict=True):
        guess = int(ours[place]) if ours[place] >= 0 else ties.get(place, 0)
        theirs[place] = guess if truth is None else truth
    return theirs


def _values(
    program: Program, recorded: Recorded, encoded: EncodedTargets, outputs: HeadOutputs
) -> Iterator[Comparison]:
    """Loss, negatives and gradients.

    Negatives are the rows that get a gradient and are no positives; float64, where none underflows.
    """
    outputs.offsets.requires_grad_(), outputs.class_logits.requires_grad_()
    terms = preset_loss(program.preset)(outputs, encoded, None)
    sum(terms.values()).backward()
    loc_grad = outputs.offsets.grad
    conf_grad = outputs.class_logits.grad
    positives, negatives = (
        {tuple(pair) for pair in recorded.pairs(name).tolist()} for name in ("pos", "neg")
    )
    mined = _places(conf_grad.abs().sum(-1)) - positives
    if program.prefix == "ssdpt" and (lost := (mined - negatives) & _underflowing(outputs.class_logits)):
        yield known_difference(
            agree("hard negatives that it can see", mined - lost, negatives & mined), UNDERFLOW
        )
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
    """Rows whose log-sum-exp is lost in float32 once the largest logit of the whole batch is subtracted, as
    ssd.pytorch does.
    """
    logits = logits.detach().float()
    return _places((logits - logits.max()).exp().sum(-1) == 0)


def _gradients(recorded: Recorded, loc_grad: Tensor, conf_grad: Tensor) -> Iterator[Comparison]:
    if "grad_norms" in recorded:
        yield compare_numbers(
            "gradients: norms",
            torch.stack([loc_grad.norm(), conf_grad.norm()]),
            recorded["grad_norms"],
            GRADIENTS,
        )
    yield compare_numbers("gradients: loc_pos", *_at(recorded, "loc_pos", "pos", loc_grad), LOC_GRADIENTS)
    for pairs in ("pos", "neg"):
        if f"grad_conf_{pairs}" in recorded:
            yield compare_numbers(
                f"gradients: conf_{pairs}", *_at(recorded, f"conf_{pairs}", pairs, conf_grad), GRADIENTS
            )
    image, prior = recorded.pairs("pos").T
    elsewhere = loc_grad.clone()
    elsewhere[image, prior] = 0
    yield compare_numbers("gradients: loc of all others", elsewhere.abs().sum(), 0.0, EXACT)


def _at(recorded: Recorded, name: str, pairs: str, gradient: Tensor) -> tuple[Tensor, np.ndarray]:
    """The rows of a gradient that are stored, ours and theirs."""
    image, prior = recorded.pairs(pairs).T
    return gradient[image, prior], recorded[f"grad_{name}"].reshape(-1, gradient.shape[-1])
