"""The options of detectors compare, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.commands.compare.fairness import BUDGETS
from detectors.config.entry import require_at_least

RESAMPLES = 1000  # data sets for the intervals
FEWEST = 40  # resamples: 2.5 % of them is one


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors compare", description="One table for several evaluated runs."
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run that evaluate.py has seen, latest, one of its evaluation_*.json, or a folder of runs",
    )
    add("--split", default="val", help="which evaluation to compare (val)")
    add(
        "--budget",
        choices=tuple(BUDGETS),
        help="the budget that must be equal within 2 %% (any of them)",
    )
    add(
        "--unfair-ok",
        action="store_true",
        help="compare runs that differ in more than they should, and say so",
    )
    add(
        "--resamples",
        type=int,
        default=RESAMPLES,
        help=f"resampled data sets for the intervals ({RESAMPLES})",
    )
    add("--no-speed", dest="speed", action="store_false", help="do not measure the speed of the detectors")
    add("--speed-seconds", type=float, default=6.0, help="of measuring at each of two batch sizes (6)")
    add("--batch", type=int, default=8, help="images at a time when speed is measured, beside 1 (8)")
    add("--device", default="auto", help="on which speed is measured: auto, cpu, cuda, cuda:1 (auto)")
    add("--threads", type=int, default=0, help="of the CPU when speed is measured; 0: PyTorch's choice (0)")
    add(
        "--output",
        type=Path,
        help="for .md and .json (comparison in paths.output, below which train.py writes)",
    )
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, resamples=FEWEST, batch=2, threads=0, speed_seconds=0)
    return args
