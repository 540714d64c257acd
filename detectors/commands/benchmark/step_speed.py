"""A training step, side by side: detectors benchmark step [--device cuda] [--batch 4] [--precision bfloat16]

SSD300 beside torchvision's ssd300_vgg16, and YOLOv2 at 416 px beside lightnet's if that is installed, at full
width, for 20 classes: the same images, boxes and optimiser (SGD with momentum), without loading of data. The
floor is the time in which the machine does the FLOPs of the convolutions, three times those of the forward
pass, at the rate at which it multiplies two large matrices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from detectors.commands.benchmark.floor_rates import PRODUCT, product_probe, seconds_of_flops
from detectors.commands.benchmark.optional_peers import optional_peer
from detectors.commands.benchmark.ratio_table import RatioRow, derived_row, quartiles, rows_of
from detectors.commands.benchmark.step_runs import (
    NUM_CLASSES,
    CompiledStepRun,
    LightnetStepRun,
    OwnStepRun,
    StepRun,
    TorchvisionStepRun,
    made_up_images,
)
from detectors.commands.benchmark.subject_options import (
    add_hardware,
    prepared_device,
    publish,
    subject_parser,
)
from detectors.models.detector import Detector
from detectors.models.ssd import ssd300
from detectors.models.yolov2 import yolov2
from detectors.structures import Batch
from detectors.training.interleaving import Contender, interleaved, stopwatch_of

MODEL_BUILDERS: dict[str, Callable[..., Detector]] = {"ssd300": ssd300, "yolov2": yolov2}
SIDES = {"ssd300": 300, "yolov2": 416}
FORMATS = {"cpu": ("contiguous", "channels_last"), "cuda": ("channels_last", "contiguous")}  # the best first
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: list[str]) -> None:
    parser = subject_parser("step", "A training step, beside torchvision's and lightnet's.", repeats=5)
    add_hardware(parser)
    parser.add_argument("--batch", type=int, default=4, help="images (4)")
    add_models(parser)
    parser.add_argument(
        "--compile", action="store_true", help="also our step with trainer.compile (and cuda_graphs)"
    )
    args = parser.parse_args(arguments)
    device = prepared_device(args, batch=1)
    publish("step", step_rows(args, device), args, device, stopwatch_of(device))


def add_models(parser: argparse.ArgumentParser) -> None:
    """--model and --precision"""
    models = list(MODEL_BUILDERS)
    parser.add_argument("--model", nargs="+", choices=models, default=models, help="(both)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="bfloat16: the networks by autocast"
    )


def step_rows(args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """args: model, batch, precision, repeats, compile."""
    return [row for model in args.model for row in _model_rows(model, args, device)]


def _model_rows(model: str, args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    what = f"{model} step, {args.batch} images, {args.precision}"
    batch = made_up_images(args.batch, SIDES[model]).to(device)
    runs = own_step_runs(model, batch, args.precision)
    if args.compile:
        runs |= _compiled_runs(model, batch, args.precision)
    missing = add_peer(runs, model, batch, args.precision)
    contenders = [Contender(name, run.phases) for name, run in runs.items()]
    probe = product_probe(device, PRECISIONS[args.precision])
    timings = interleaved([*contenders, probe], stopwatch_of(device), rounds=args.repeats)
    products = timings.pop(PRODUCT)[""]
    rows = rows_of(what, timings)
    for row in rows:
        row.facts["images/s"] = args.batch / quartiles(row.seconds)[1]
    flops = 3 * args.batch * untrained(model).flops((SIDES[model],) * 2)
    floor = seconds_of_flops(flops, products, device)
    rows.append(derived_row(what, "floor", floor, rows[0], {"GFLOP": flops / 1e9}))
    return [*rows, *(RatioRow(what, name, missing=reason) for name, reason in missing.items())]


def own_step_runs(model: str, batch: Batch, precision: str) -> dict[str, StepRun]:
    """Ours in both memory formats."""
    return {
        f"ours, {name}": OwnStepRun(untrained(model), batch, name, precision)
        for name in FORMATS[batch.images.device.type]
    }


def _compiled_runs(model: str, batch: Batch, precision: str) -> dict[str, StepRun]:
    """Ours with trainer.compile, and on a GPU with trainer.cuda_graphs, too."""
    kind = batch.images.device.type
    graphs = {"ours, compiled": False, "ours, CUDA graphs": True}
    return {
        name: CompiledStepRun(untrained(model), batch, FORMATS[kind][0], precision, cuda_graphs)
        for name, cuda_graphs in graphs.items()
        if kind == "cuda" or not cuda_graphs
    }


def untrained(model: str) -> Detector:
    """The same weights at each call: the work of a post-processing depends on them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return MODEL_BUILDERS[model](num_classes=NUM_CLASSES)


def add_peer(runs: dict[str, StepRun], model: str, batch: Batch, precision: str) -> dict[str, str]:
    """Adds torchvision's or lightnet's step. Returns program -> why it is missing."""
    if model == "ssd300":
        runs["torchvision"] = TorchvisionStepRun(batch, precision)
        return {}
    lightnet, reason = optional_peer("lightnet")
    if lightnet is None:
        return {"lightnet": reason}
    runs["lightnet"] = LightnetStepRun(lightnet, batch, precision)
    return {}
