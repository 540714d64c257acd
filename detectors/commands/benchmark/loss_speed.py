"""Target encoding, loss and gradient, side by side: detectors benchmark loss [--device cuda] [--batch 32]

YOLOv2 at 416 px and SSD at 300 px, on random head outputs and random boxes, as many and as large as VOC's or
COCO's: our loss, beside a per-image Python loop and lightnet (YOLOv2), and torchvision (SSD). Then the time
for 10 to 300 boxes per image, and the memory for the targets of SSD512. A floor is the time in which the
machine's memory moves the logits once in and the gradient once out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import torch

from detectors.commands.benchmark.floor_rates import COPY, copy_probe, seconds_of_bytes
from detectors.commands.benchmark.loss_growth import BOX_COUNTS, growth_rows, memory_row
from detectors.commands.benchmark.loss_runs import (
    SIDE_SSD,
    SIDE_YOLO,
    LightnetLossRun,
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
from detectors.commands.benchmark.optional_peers import optional_peer
from detectors.commands.benchmark.ratio_table import RatioRow, derived_row, rows_of
from detectors.commands.benchmark.subject_options import (
    add_hardware,
    prepared_device,
    publish,
    subject_parser,
)
from detectors.kernels.dispatch import FusedPart, set_kernels, version
from detectors.models.detector import Detector
from detectors.structures import Targets
from detectors.training.interleaving import Contender, Timings, interleaved, stopwatch_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REFERENCE = "ours, reference"
TRITON = "ours, Triton"
AS_TORCHVISION = "ours, torchvision's settings"


def main(arguments: list[str]) -> None:
    parser = subject_parser("loss", "Encoding, loss and gradient, beside other programs'.", repeats=9)
    add_hardware(parser)
    parser.add_argument("--batch", type=int, default=32, help="images (32)")
    parser.add_argument(
        "--precision", choices=DTYPES, default="float32", help="of the head's outputs (float32)"
    )
    parser.add_argument(
        "--counts",
        type=int,
        nargs="*",
        default=BOX_COUNTS,
        metavar="M",
        help="boxes per image (10 30 100 300)",
    )
    args = parser.parse_args(arguments)
    device = prepared_device(args, batch=1)
    publish("loss", loss_rows(args, device), args, device, stopwatch_of(device))


def loss_rows(args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """args: batch, repeats, counts, precision."""
    rows: list[RatioRow] = []
    for kind in CLASS_COUNTS:
        rows += region_rows(kind, args, device)
    for kind in CLASS_COUNTS:
        rows += multibox_rows(kind, args, device)
    for network in ("region", "multibox"):
        rows += growth_rows(network, device, counts=args.counts, rounds=args.repeats)
    return [*rows, memory_row(device)]


def region_rows(kind: str, args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """kind: "voc" or "coco"."""
    detector = region_detector(kind, device)
    grid = detector.grid((SIDE_YOLO, SIDE_YOLO))
    inputs = RegionInputs(args.batch, grid, CLASS_COUNTS[kind], DTYPES[args.precision])
    targets = made_up_targets(kind, args.batch, (SIDE_YOLO, SIDE_YOLO)).to(device)
    runs: dict[str, LossRun] = own_runs(detector, inputs, targets)
    runs["Python loop"] = LoopLossRun(inputs, targets, grid)
    lightnet, reason = optional_peer("lightnet")
    if lightnet is not None:
        runs["lightnet"] = LightnetLossRun(lightnet, inputs, targets, kind)
    what = f"region loss, {args.batch} images, {CLASS_COUNTS[kind]} classes, {args.precision}"
    rows = compared(what, runs, args, device, moved=2 * inputs.raw.nbytes)
    return rows if lightnet else [*rows, RatioRow(what, "lightnet", missing=reason)]


def multibox_rows(kind: str, args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """kind: "voc" or "coco"."""
    detector = multibox_detector(kind, device)
    like = multibox_detector(kind, device, as_torchvision=True)
    grid = detector.grid((SIDE_SSD, SIDE_SSD))
    inputs = MultiBoxInputs(args.batch, grid, CLASS_COUNTS[kind], DTYPES[args.precision])
    targets = made_up_targets(kind, args.batch, (SIDE_SSD, SIDE_SSD)).to(device)
    runs: dict[str, LossRun] = own_runs(detector, inputs, targets)
    runs[AS_TORCHVISION] = OwnLossRun(like, inputs, targets)
    runs["torchvision"] = TorchvisionLossRun(inputs, targets, grid)
    what = f"multibox loss, {args.batch} images, {CLASS_COUNTS[kind] + 1} outputs, {args.precision}"
    moved = 2 * sum(leaf.nbytes for leaf in inputs.leaves)
    return compared(what, runs, args, device, moved=moved)


def own_runs(
    detector: Detector, inputs: RegionInputs | MultiBoxInputs, targets: Targets
) -> dict[str, LossRun]:
    """Our versions that run on the device, the one that training takes first."""
    reference = OwnLossRun(detector, inputs, targets)
    if not (isinstance(detector.loss, FusedPart) and _chosen(detector) == "triton"):
        return {REFERENCE: reference}
    return {TRITON: OwnLossRun(detector, inputs, targets, float32=False), REFERENCE: reference}


def _chosen(detector: Detector) -> str:
    return version(detector.pixel_mean.device, detector.loss.unsupported()).name


def compared(
    what: str, runs: Mapping[str, LossRun], args: argparse.Namespace, device: torch.device, *, moved: int
) -> list[RatioRow]:
    """One comparison. moved: bytes of the floor."""
    probe = copy_probe(device)
    contenders = [loss_contender(name, run) for name, run in runs.items()]
    timings = measured([*contenders, probe], args, device)
    copies = timings.pop(COPY)[""]
    rows = rows_of(what, timings, _differences(runs))
    if TRITON not in runs:
        rows.append(RatioRow(what, TRITON, missing=version(device).reason))
    floor = seconds_of_bytes(moved, copies, device)
    return [*rows, derived_row(what, "floor", floor, rows[0], {"MB moved": moved / 1e6})]


def measured(contenders: list[Contender], args: argparse.Namespace, device: torch.device) -> Timings:
    calls = 20 if device.type == "cuda" else 1
    try:
        return interleaved(contenders, stopwatch_of(device), rounds=args.repeats, calls=calls)
    finally:
        set_kernels("auto")


def loss_contender(name: str, run: LossRun) -> Contender:
    choice = "auto" if name == TRITON else "reference"
    return Contender(name, loss_phases(run), before=lambda: set_kernels(choice))


def _differences(runs: Mapping[str, LossRun]) -> dict[str, dict[str, float]]:
    """How far each program's loss lies from ours with the same settings, as a fraction."""
    values = {name: run.value.item() for name, run in runs.items()}
    own = values.get(AS_TORCHVISION, values[REFERENCE])
    return {
        name: {"loss differs by": abs(value / own - 1)}
        for name, value in values.items()
        if not name.startswith("ours")
    }
