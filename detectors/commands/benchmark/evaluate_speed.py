"""COCO's twelve numbers, side by side: detectors benchmark evaluate [--images 5000]

Made-up boxes and detections of a set as large as COCO val2017: evaluate_coco beside pycocotools and, if it is
installed, faster-coco-eval. All start from the same arrays. `report` also has VOC's numbers and the curves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType

import torch

from detectors.annotations import Annotations
from detectors.commands.benchmark.made_up_evaluation import made_up_evaluation
from detectors.commands.benchmark.optional_peers import optional_peer
from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.commands.benchmark.subject_options import prepared_device, publish, subject_parser
from detectors.metrics.arrays import to_arrays
from detectors.metrics.coco import STATISTICS, evaluate_coco, results_json
from detectors.metrics.coco_reference import evaluate_with_pycocotools, ground_truth_json
from detectors.metrics.report import report
from detectors.structures import Detections
from detectors.training.interleaving import Contender, interleaved, stopwatch_of

FASTER = "faster-coco-eval"
WARM_UP_IMAGES = 20  # images of the warm-up


def main(arguments: list[str]) -> None:
    parser = subject_parser("evaluate", "COCO's twelve numbers, beside pycocotools.", repeats=3)
    parser.add_argument(
        "--images", type=int, default=5000, help="of the made-up set, with 100 detections each (5000)"
    )
    args = parser.parse_args(arguments)
    device = prepared_device(args, images=1)
    publish("evaluate", evaluate_rows(args), args, device, stopwatch_of(device))


def evaluate_rows(args: argparse.Namespace) -> list[RatioRow]:
    """args: images, repeats."""
    annotations, detections = made_up_evaluation(args.images)
    what = (
        f"COCO's numbers, {args.images:,} images, {len(annotations.labels):,} boxes, "
        f"{len(detections.scores):,} detections"
    )
    programs: dict[str, Callable[[Annotations, Detections], list[float]]] = {
        "ours": lambda *data: list(evaluate_coco(*data).stats.values()),
        "ours, report": report_statistics,
        "pycocotools": lambda *data: list(evaluate_with_pycocotools(*data).stats.values()),
    }
    faster, reason = optional_peer("faster_coco_eval")
    if faster is not None:
        programs[FASTER] = lambda *data: faster_statistics(faster, *data)
    numbers: dict[str, list[float]] = {}
    contenders = [
        Contender(name, {"": _noting(numbers, name, program, annotations, detections)})
        for name, program in programs.items()
    ]
    few = made_up_evaluation(WARM_UP_IMAGES)
    for program in programs.values():
        program(*few)
    timings = interleaved(contenders, stopwatch_of(torch.device("cpu")), rounds=args.repeats, warm_up=False)
    rows = rows_of(what, timings, _differences(numbers))
    return rows if faster else [*rows, RatioRow(what, FASTER, missing=reason)]


def _noting(
    numbers: dict[str, list[float]],
    name: str,
    program: Callable[[Annotations, Detections], list[float]],
    *data: Annotations | Detections,
) -> Callable[[], None]:
    """A function that notes a program's twelve numbers."""

    def work() -> None:
        numbers[name] = program(*data)

    return work


def _differences(numbers: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The largest difference of each program's twelve numbers from ours."""
    ours = numbers["ours"]
    return {
        name: {"differs by": max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}
        for name, theirs in numbers.items()
        if name != "ours"
    }


def report_statistics(annotations: Annotations, detections: Detections) -> list[float]:
    scalars = report(annotations, detections).scalars
    return [scalars[name] for name in STATISTICS]


def faster_statistics(faster: ModuleType, annotations: Annotations, detections: Detections) -> list[float]:
    """faster-coco-eval's twelve numbers."""
    ids = tuple(annotations.image_ids)
    truths = faster.COCO(ground_truth_json(annotations, ids))
    results = truths.loadRes(results_json(annotations, to_arrays(annotations, detections), ids))
    evaluation = faster.COCOeval_faster(truths, results, "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats[: len(STATISTICS)]]
