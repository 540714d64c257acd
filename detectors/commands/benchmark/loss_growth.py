"""How the time and the memory of target encoding grow with the number of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import torch
from torch import Tensor

from detectors.commands.benchmark.loss_runs import (
    NARROW,
    SIDE_SSD,
    SIDE_YOLO,
    LoopLossRun,
    LossRun,
    MultiBoxInputs,
    OwnLossRun,
    RegionInputs,
    TorchvisionLossRun,
    loss_phases,
    multibox_detector,
    region_detector,
)
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_targets
from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.models.ssd import ssd512
from detectors.training.interleaving import Contender, Timings, interleaved, stopwatch_of
from detectors.training.temporaries import peak_bytes

BOX_COUNTS = (10, 30, 100, 300)  # boxes per image
GROWTH_BATCH = 8  # images
LARGE = {"batch": 32, "per_image": 100}  # for the memory that SSD512's targets take


def growth_rows(network: str, device: torch.device, *, counts: Sequence[int], rounds: int) -> list[RatioRow]:
    """Our loss beside another for each number of boxes per image; network: "region" or "multibox"."""
    pairs = {count: _pair(network, count, device) for count in counts}
    contenders = [
        Contender(_key(program, count), loss_phases(run))
        for count, pair in pairs.items()
        for program, run in pair.items()
    ]
    timings = interleaved(contenders, stopwatch_of(device), rounds=rounds)
    rows: list[RatioRow] = []
    for count, pair in pairs.items():
        what = f"{network} loss, {GROWTH_BATCH} images of {count} boxes"
        of_count = {program: timings[_key(program, count)] for program in pair}
        facts = {program: _growth(timings, program, counts[0], count) for program in pair}
        rows += rows_of(what, of_count, facts if count != counts[0] else None)
    return rows


def _key(program: str, count: int) -> str:
    return f"{program}, {count}"


def _growth(timings: Timings, program: str, first: int, count: int) -> dict[str, float]:
    """How many times the time of the smallest number of boxes."""
    now, before = (
        map(sum, zip(*timings[_key(program, each)].values(), strict=True)) for each in (count, first)
    )
    return {f"times that of {first}": median(b / a for a, b in zip(before, now, strict=True))}


def _pair(network: str, count: int, device: torch.device) -> dict[str, LossRun]:
    side = SIDE_YOLO if network == "region" else SIDE_SSD
    targets = made_up_targets("voc", GROWTH_BATCH, (side, side), per_image=count).to(device)
    if network == "region":
        detector = region_detector("voc", device)
        grid = detector.grid((side, side))
        inputs = RegionInputs(GROWTH_BATCH, grid, CLASS_COUNTS["voc"])
        return {
            "ours": OwnLossRun(detector, inputs, targets),
            "Python loop": LoopLossRun(inputs, targets, grid),
        }
    detector = multibox_detector("voc", device)
    grid = detector.grid((side, side))
    inputs = MultiBoxInputs(GROWTH_BATCH, grid, CLASS_COUNTS["voc"])
    theirs = TorchvisionLossRun(inputs, targets, grid)
    return {"ours": OwnLossRun(detector, inputs, targets), "torchvision": theirs}


def memory_row(device: torch.device) -> RatioRow:
    """The memory that encoding takes at once, beyond what is there before: temporaries and results."""
    detector = ssd512(num_classes=CLASS_COUNTS["voc"], width=NARROW).to(device)
    grid = detector.grid((512, 512))
    targets = made_up_targets("voc", LARGE["batch"], grid.size, per_image=LARGE["per_image"]).to(device)

    def work() -> tuple[Tensor, Tensor]:
        encoded = detector.encoder(targets, grid)
        return encoded.offsets, encoded.labels  # what the loss reads

    peak = peak_bytes(work, device)
    what = f"SSD512 encoding, {LARGE['batch']} images of {LARGE['per_image']} boxes"
    return RatioRow(what, "ours", facts={"MiB at once": peak / 2**20})
