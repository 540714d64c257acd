"""Images per second: detectors benchmark data [--augment NAME ...] [data=bccd ...]

Measures images per second on one core, from the file to the transformed sample. Each augmentation is
compared with the same pipeline written with torchvision.transforms.v2. All pipelines take turns on the same
images in one process, round after round, so that a machine that slows down slows all of them. Ratios are
taken within a round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from itertools import count

import cv2
import torch

from detectors.annotations import Annotations
from detectors.commands.benchmark.machine import machine
from detectors.commands.benchmark.subject_options import prepared_device, subject_parser
from detectors.commands.benchmark.torchvision_pipelines import IMAGE_READERS, PIPELINES, TorchvisionPipeline
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.data.augment.transforms import build_transform
from detectors.data.dataset import DetectionDataset
from detectors.data.files import write_json
from detectors.data.images import read_image
from detectors.data.sampling import Key
from detectors.tables import text_table
from detectors.training import ground_truth
from detectors.training.interleaving import Contender, interleaved, stopwatch_of

OURS = "ours"
MEASURED = (*PIPELINES, "course")  # torchvision lacks the course's noise: it is measured alone
Job = Callable[[int, int], object]  # (round, index of an image in the Annotations) -> a sample, not used


def main(arguments: list[str]) -> None:
    args = _arguments(arguments)
    device = prepared_device(args, images=1)
    cv2.setNumThreads(0)
    annotations = ground_truth.read_annotations(check(composed(args.overrides)).data, "train")
    jobs = {"decode": {OURS: lambda _, index: read_image(annotations.paths[index])}}
    for name in args.augment:
        jobs[name] = pipelines(name, annotations, tuple(args.size), args.overrides)
    images = min(args.images, len(annotations))
    rates = measure(jobs, images=images, rounds=args.repeats)
    height, width = annotations.sizes[:images].mean(0)
    print("\n".join(rate_lines(rates)))
    print(
        f"{images} files of {width:.0f}x{height:.0f} on average to {args.size[1]}x{args.size[0]}, "
        f"median of {args.repeats} rounds, each file read each time"
    )
    print(
        "v2: torchvision.transforms.v2 on tensors and on Pillow images; "
        "ratio: ours over the faster one, within a round"
    )
    if args.json:
        facts = machine(device, stopwatch_of(device))
        write_json(args.json, {"machine": facts, "size": args.size, "rates": rates})


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = subject_parser("data", "Images per second on one core, beside torchvision's.", repeats=5)
    parser.add_argument(
        "overrides", nargs="*", help="settings of train.py that choose the images, such as data=bccd"
    )
    parser.add_argument(
        "--augment",
        nargs="+",
        choices=MEASURED,
        default=MEASURED,
        metavar="NAME",
        help=f"augmentations to measure: {', '.join(MEASURED)} (all)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[300, 300],
        metavar=("H", "W"),
        help="of the model input in pixels (300 300)",
    )
    parser.add_argument("--images", type=int, default=128, help="images per round (128)")
    return parser.parse_intermixed_args(arguments)


def pipelines(
    name: str, annotations: Annotations, size: tuple[int, int], overrides: list[str]
) -> dict[str, Job]:
    """The pipelines of one augmentation: ours, and torchvision's on tensors and on Pillow images.

    All read the file each time; after the first time it is in the system's file cache.
    """
    augment = composed([*overrides, f"augment={name}"])["augment"]
    transform = build_transform(augment=build(augment), size=size, resize="stretch", train=True)
    dataset = DetectionDataset(annotations, transform, seed=0)
    jobs: dict[str, Job] = {OURS: lambda turn, index: dataset[Key(turn, index)]}
    if name in PIPELINES:
        for backend in IMAGE_READERS:
            pipeline = TorchvisionPipeline(name, size, backend)
            jobs[f"v2 {backend}"] = _torchvision_job(pipeline, annotations)
    return jobs


def _torchvision_job(pipeline: TorchvisionPipeline, annotations: Annotations) -> Job:
    def job(_: int, index: int) -> object:
        rows = annotations.rows(index)
        return pipeline(annotations.paths[index], annotations.boxes_original[rows], annotations.labels[rows])

    return job


def measure(
    jobs: dict[str, dict[str, Job]], *, images: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Augmentation -> pipeline -> images per second in each round. A warm-up round before is not included."""
    contenders = [
        Contender(f"{name}, {pipeline}", {"": _all_images(job, images)})
        for name, group in jobs.items()
        for pipeline, job in group.items()
    ]
    timings = interleaved(contenders, stopwatch_of(torch.device("cpu")), rounds=rounds)
    return {
        name: {
            pipeline: [images / seconds for seconds in timings[f"{name}, {pipeline}"][""]]
            for pipeline in group
        }
        for name, group in jobs.items()
    }


def _all_images(job: Job, images: int) -> Callable[[], None]:
    """A function that does the job of one round, from which random augmentations depend."""
    rounds = count()

    def work() -> None:
        turn = next(rounds)
        for index in range(images):
            job(turn, index)

    return work


def rate_lines(rates: dict[str, dict[str, list[float]]]) -> list[str]:
    """A table of medians over the rounds; rates: what measure() returns.

    The ratio is ours over the faster one of torchvision's two in the same round: median, lowest, highest.
    """
    backends = [f"v2 {backend}" for backend in IMAGE_READERS]
    rows = []
    for name, group in rates.items():
        row = [name, f"{statistics.median(group[OURS]):.0f}"]
        if backends[0] in group:
            fastest = [max(each) for each in zip(*(group[backend] for backend in backends), strict=True)]
            ratios = [ours / other for ours, other in zip(group[OURS], fastest, strict=True)]
            row += [f"{statistics.median(group[backend]):.0f}" for backend in backends]
            row += [f"{ratio:.1f}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
        rows.append(row + [""] * (5 + len(backends) - len(row)))
    head = ("images/s on one core", OURS, *backends, "ratio", "from", "to")
    return list(text_table(head, rows, widths=(22, 8, *[12] * len(backends), 8, 7, 6), gap=0))
