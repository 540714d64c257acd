"""Detection, side by side: detectors benchmark inference [--device cuda] [--batch 1 8]

Forward pass and post-processing apart. SSD300 beside torchvision's ssd300_vgg16, YOLOv2 at 416 px beside
lightnet's forward pass. Post-processing gets the same head outputs in all programs: those of an untrained
network, where almost every box passes the threshold, which is the worst case; and with a threshold that few
boxes pass. `operations` and `waits` (for the device) are those of one call.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torchvision.models.detection import _utils as detection_utils
from torchvision.models.detection.ssd import SSD

from detectors.commands.benchmark.operation_count import operation_facts
from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.commands.benchmark.step_runs import made_up_images
from detectors.commands.benchmark.step_speed import (
    SIDES,
    add_models,
    add_peer,
    own_step_runs,
    untrained,
)
from detectors.commands.benchmark.subject_options import (
    add_hardware,
    prepared_device,
    publish,
    subject_parser,
)
from detectors.models.detector import Detector
from detectors.structures import Batch, Detections, HeadOutputs
from detectors.training.interleaving import Contender, interleaved, stopwatch_of

HIGH_SCORE = 0.5


def main(arguments: list[str]) -> None:
    parser = subject_parser("inference", "Detection, beside torchvision's and lightnet's.", repeats=5)
    add_hardware(parser)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images (1 8)")
    add_models(parser)
    args = parser.parse_args(arguments)
    if min(args.batch) < 1:
        raise ValueError(f"--batch {min(args.batch)}: must be 1 or more")
    device = prepared_device(args)
    publish("inference", inference_rows(args, device), args, device, stopwatch_of(device))


def inference_rows(args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """args: model, batch, precision, repeats."""
    rows: list[RatioRow] = []
    for model in args.model:
        for count in args.batch:
            batch = made_up_images(count, SIDES[model]).to(device)
            rows += forward_rows(model, batch, args)
            rows += postprocess_rows(model, batch, args)
    return rows


@torch.no_grad()
def forward_rows(model: str, batch: Batch, args: argparse.Namespace) -> list[RatioRow]:
    device = batch.images.device
    what = f"{model} forward, {len(batch.images)} images, {args.precision}"
    runs = own_step_runs(model, batch, args.precision)
    missing = add_peer(runs, model, batch, args.precision)
    for run in runs.values():
        run.module.eval()
    contenders = [Contender(name, {"": run.forward}) for name, run in runs.items()]
    timings = interleaved(contenders, stopwatch_of(device), rounds=args.repeats)
    absent = [RatioRow(what, name, missing=reason) for name, reason in missing.items()]
    return rows_of(what, timings) + absent


@torch.no_grad()
def postprocess_rows(model: str, batch: Batch, args: argparse.Namespace) -> list[RatioRow]:
    device = batch.images.device
    detector = untrained(model).to(device).eval()
    outputs = detector(batch.images)
    low = detector.postprocess.score_threshold
    rows: list[RatioRow] = []
    for name, threshold in (("untrained", low), (f"score > {HIGH_SCORE}", HIGH_SCORE)):
        detector.postprocess.score_threshold = threshold
        programs = {"ours": own_postprocess(detector, outputs, SIDES[model])}
        if model == "ssd300":
            programs["torchvision"] = torchvision_postprocess(detector, outputs, SIDES[model])
        facts = {
            program: operation_facts(work) | {"detections": len(work().scores)}
            for program, work in programs.items()
        }
        contenders = [Contender(program, {"": work}) for program, work in programs.items()]
        timings = interleaved(contenders, stopwatch_of(device), rounds=args.repeats)
        rows += rows_of(f"{model} post-processing, {len(batch.images)} images, {name}", timings, facts)
    return rows


def own_postprocess(detector: Detector, outputs: HeadOutputs, side: int) -> Callable[[], Detections]:
    grid = detector.grid((side, side))
    return lambda: detector.postprocess(outputs, grid)


def torchvision_postprocess(detector: Detector, outputs: HeadOutputs, side: int) -> Callable[[], Detections]:
    """torchvision's SSD.postprocess_detections with our default boxes and limits. It clips boxes."""
    ours = detector.postprocess
    ssd = SimpleNamespace(
        box_coder=detection_utils.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)),
        score_thresh=ours.score_threshold,
        nms_thresh=ours.nms_iou,
        topk_candidates=ours.candidates_per_class,
        detections_per_img=ours.max_detections,
    )
    named = {"bbox_regression": outputs.offsets, "cls_logits": outputs.class_logits}
    images = len(outputs.offsets)
    anchors = [detector.grid((side, side)).boxes] * images

    def work() -> Detections:
        found = SSD.postprocess_detections(ssd, named, anchors, [(side, side)] * images)
        image = [torch.full_like(each["labels"], number) for number, each in enumerate(found)]
        columns = [torch.cat([each[name] for each in found]) for name in ("boxes", "scores", "labels")]
        return Detections(torch.cat(image), columns[0], columns[1], columns[2] - 1)

    return work
