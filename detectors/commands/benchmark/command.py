"""Measures speed, interleaved with what it is compared with: detectors benchmark data [--augment NAME ...] [data=bccd ...]

`data` gives images per second and core, from the file to the transformed sample, for each augmentation beside the same pipeline written
with torchvision.transforms.v2. All are measured in turns on the same images in one process, round after round, so that a machine that
slows down slows all of them; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import cv2
import torch
from tqdm import tqdm

from detectors.annotations import Annotations
from detectors.commands.benchmark.torchvision_pipelines import IMAGE_READERS, PIPELINES, TorchvisionPipeline
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.entry import verb
from detectors.config.schema import composed
from detectors.data.augment.transforms import build_transform
from detectors.data.images import read_image
from detectors.data.loading import DetectionDataset, Key
from detectors.training import assemble

OURS = "ours"
MEASURED = (
    *PIPELINES,
    "course",
)  # the course's list of noises is not in torchvision: it is measured alone
Job = Callable[[int, int], object]  # (round, row of the Annotations) -> a sample that is thrown away


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = _arguments(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    annotations = assemble.read_annotations(check(composed(asked.overrides)).data, "train")
    jobs = {"decode": {OURS: lambda _, row: read_image(annotations.paths[row])}}
    for name in asked.augment:
        jobs[name] = pipelines(name, annotations, tuple(asked.size), asked.overrides)
    rates = measure(jobs, images=min(asked.images, len(annotations)), rounds=asked.rounds)
    print(rate_table(rates, annotations, asked))
    if asked.json:
        asked.json.write_text(json.dumps({"size": asked.size, "rates": rates}, indent=1) + "\n")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="detectors benchmark", description="Speed, measured side by side.")
    parser.add_argument(
        "what", choices=["data"], help="data: decoding and augmentation, images per second on one core"
    )
    parser.add_argument(
        "overrides", nargs="*", help="settings of train.py that choose the images, such as data=bccd"
    )
    parser.add_argument(
        "--augment",
        nargs="+",
        choices=MEASURED,
        default=MEASURED,
        metavar="NAME",
        help=", ".join(MEASURED),
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=[300, 300],
        metavar=("H", "W"),
        help="of the model input, pixels (300 300)",
    )
    parser.add_argument("--images", type=int, default=128, help="images in a round (128)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts (5)")
    parser.add_argument("--json", type=Path, help="every rate of every round, as a file")
    asked = parser.parse_intermixed_args(arguments)
    for name in ("images", "rounds"):
        if getattr(asked, name) < 1:
            raise ValueError(f"--{name} {getattr(asked, name)}: must be 1 or more")
    return asked


def pipelines(
    name: str, annotations: Annotations, size: tuple[int, int], overrides: list[str]
) -> dict[str, Job]:
    """Ours and torchvision's two for one augmentation. All read the file each time; it lies in the system's memory after the first."""
    augment = composed([*overrides, f"augment={name}"])["augment"]
    transform = build_transform(augment=build(augment), size=size, resize="stretch", train=True)
    dataset = DetectionDataset(annotations, transform, seed=0)

    def theirs(backend: str) -> Job:
        pipeline = TorchvisionPipeline(name, size, backend)

        def job(_: int, row: int) -> object:
            rows = annotations.rows(row)
            return pipeline(
                annotations.paths[row], annotations.boxes_original[rows], annotations.labels[rows]
            )

        return job

    compared = {f"v2 {backend}": theirs(backend) for backend in IMAGE_READERS} if name in PIPELINES else {}
    return {OURS: lambda turn, row: dataset[Key(turn, row)], **compared}


def measure(
    jobs: dict[str, dict[str, Job]], *, images: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Images per second of every job in every round. The first round warms up and is not kept."""
    rates: dict[str, dict[str, list[float]]] = {
        name: {job: [] for job in group} for name, group in jobs.items()
    }
    for turn in tqdm(range(rounds + 1), desc="round", disable=not sys.stderr.isatty(), leave=False):
        for name, group in jobs.items():
            for job, run in group.items():
                started = perf_counter()
                for row in range(images):
                    run(turn, row)
                rates[name][job].append(images / (perf_counter() - started))
    return {name: {job: each[1:] for job, each in group.items()} for name, group in rates.items()}


def rate_table(
    rates: dict[str, dict[str, list[float]]], annotations: Annotations, asked: argparse.Namespace
) -> str:
    """Medians over the rounds; the ratio is the median of ours over the quicker one of torchvision's two in the same round."""
    theirs = [f"v2 {backend}" for backend in IMAGE_READERS]
    lines = [
        f"{'images/s on one core':<22}{OURS:>8}"
        + "".join(f"{name:>12}" for name in theirs)
        + f"{'ratio':>8}{'from':>7}{'to':>6}"
    ]
    for name, group in rates.items():
        cells = [f"{name:<22}{statistics.median(group[OURS]):8.0f}"]
        if theirs[0] in group:
            ratios = [
                ours / max(others)
                for ours, *others in zip(*(group[job] for job in (OURS, *theirs)), strict=True)
            ]
            cells += [f"{statistics.median(group[job]):12.0f}" for job in theirs]
            cells += [f"{statistics.median(ratios):8.1f}{min(ratios):7.1f}{max(ratios):6.1f}"]
        lines.append("".join(cells))
    count = min(asked.images, len(annotations))
    height, width = annotations.sizes[:count].mean(0)
    size = "x".join(map(str, asked.size[::-1]))
    lines.append(
        f"{count} files of {width:.0f}x{height:.0f} on average to {size}, median of {asked.rounds} rounds, each file read each time"
    )
    lines.append(
        "v2: torchvision.transforms.v2 on tensors and on Pillow's images; ratio: ours over the quicker one, within a round"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
