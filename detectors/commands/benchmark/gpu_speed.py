"""Every GPU row of docs/performance.md in one call: detectors benchmark gpu [--json FILE] [--trace FILE]

Runs `loss`, `step` and `inference` on a GPU, in bfloat16 and float32, counts kernels, and checks that no step
waits for the device. It ends with the rows of the page's table in Markdown, and the comparisons behind them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from detectors.commands.benchmark.gpu_kernels import kernel_facts, save_trace, waits_for_device
from detectors.commands.benchmark.gpu_table import Measured, gpu_markdown
from detectors.commands.benchmark.inference_speed import inference_rows
from detectors.commands.benchmark.loss_growth import BOX_COUNTS, growth_rows, memory_row
from detectors.commands.benchmark.loss_runs import (
    MultiBoxInputs,
    OwnLossRun,
    RegionInputs,
    loss_phases,
    multibox_detector,
    region_detector,
)
from detectors.commands.benchmark.loss_speed import DTYPES, multibox_rows, region_rows
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_targets
from detectors.commands.benchmark.ratio_table import RatioRow
from detectors.commands.benchmark.step_runs import NUM_CLASSES, OwnStepRun, made_up_images
from detectors.commands.benchmark.step_speed import FORMATS, MODEL_BUILDERS, SIDES, step_rows
from detectors.commands.benchmark.subject_options import prepared_device, publish, subject_parser
from detectors.training.interleaving import stopwatch_of

LOSS_BATCH = 32
KIND = "coco"  # 80 classes


def main(arguments: list[str]) -> None:
    parser = subject_parser("gpu", "All GPU rows of docs/performance.md.", repeats=20)
    parser.add_argument("--device", default="cuda", help="cuda, or one GPU of several: cuda:1 (cuda)")
    parser.add_argument("--batch", type=int, default=64, help="images of a training step (64)")
    parser.add_argument(
        "--trace", type=Path, help="file for PyTorch's profile of one step, such as step.json"
    )
    args = parser.parse_args(arguments)
    device = prepared_device(args, batch=1)
    if device.type != "cuda":
        raise ValueError(f"detectors benchmark gpu --device {device}: it measures a GPU; give cuda or cuda:N")
    measured = measure_gpu(args, device)
    publish("gpu", measured.rows, args, device, stopwatch_of(device))
    print()
    print(gpu_markdown(measured))


def measure_gpu(args: argparse.Namespace, device: torch.device) -> Measured:
    """args: repeats, batch, trace."""
    kernels = {name: kernel_facts(work) for name, work in _loss_works(device).items()}
    waits = {}
    for model in MODEL_BUILDERS:
        run = _step_run(model, args.batch, device)
        waits[model] = waits_for_device(run.phases)
        if args.trace:
            save_trace(run.phases, args.trace.with_stem(f"{args.trace.stem}_{model}"))
    rows: list[RatioRow] = []
    for precision in ("bfloat16", "float32"):
        rows += _precision_rows(precision, args, device)
    for network in ("region", "multibox"):
        rows += growth_rows(network, device, counts=BOX_COUNTS, rounds=args.repeats)
    return Measured([*rows, memory_row(device)], kernels, waits, args.batch)


def _precision_rows(precision: str, args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    common = {"repeats": args.repeats, "precision": precision, "model": list(MODEL_BUILDERS)}
    loss = argparse.Namespace(**common, batch=LOSS_BATCH)
    step = argparse.Namespace(**common, batch=args.batch, compile=True)
    inference = argparse.Namespace(**common, batch=[1, 8])
    losses = region_rows(KIND, loss, device) + multibox_rows(KIND, loss, device)
    return losses + step_rows(step, device) + inference_rows(inference, device)


def _loss_works(device: torch.device) -> dict[str, Callable[[], None]]:
    """Encoding, loss and gradient in bfloat16: "region" and "multibox"."""
    dtype = DTYPES["bfloat16"]
    runs: dict[str, OwnLossRun] = {}
    for name, make, inputs, side in (
        ("region", region_detector, RegionInputs, 416),
        ("multibox", multibox_detector, MultiBoxInputs, 300),
    ):
        detector = make(KIND, device)
        grid = detector.grid((side, side))
        targets = made_up_targets(KIND, LOSS_BATCH, grid.size).to(device)
        runs[name] = OwnLossRun(
            detector, inputs(LOSS_BATCH, grid, CLASS_COUNTS[KIND], dtype), targets, float32=False
        )
    return {name: _all_phases(run) for name, run in runs.items()}


def _all_phases(run: OwnLossRun) -> Callable[[], None]:
    def work() -> None:
        for phase in loss_phases(run).values():
            phase()

    return work


def _step_run(model: str, batch: int, device: torch.device) -> OwnStepRun:
    detector = MODEL_BUILDERS[model](num_classes=NUM_CLASSES)
    images = made_up_images(batch, SIDES[model]).to(device)
    return OwnStepRun(detector, images, FORMATS["cuda"][0], "bfloat16")
