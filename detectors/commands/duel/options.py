"""The options of detectors duel, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.commands.compare.fairness import BUDGETS
from detectors.config.entry import require_at_least


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors duel",
        description="Trains detectors under one budget, evaluates them alike and compares them.",
    )
    add = parser.add_argument
    add("data", nargs="?", default="shapes", help="a data set of conf/data (shapes)")
    add("overrides", nargs="*", help="settings of train.py for all runs, such as trainer.steps=2000")
    add("--models", nargs="+", default=["yolov2_160", "ssd160"], help="of conf/model (yolov2_160 ssd160)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="one run of each model for each (0 1 2)")
    add(
        "--budget",
        default="images",
        choices=tuple(BUDGETS),
        help="what all runs have equally much of (images)",
    )
    add("--split", default="val", help="which images to measure on (val)")
    add("--jobs", type=int, default=1, help="runs at a time (1)")
    add("--threads", type=int, default=1, help="threads of each run on the CPU (1)")
    add("--output", type=Path, help="folder of all runs (duel/DATA in paths.output)")
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, jobs=1, threads=0)
    if "=" in args.data:  # a setting, and no data set before it
        args.overrides.insert(0, args.data)
        args.data = parser.get_default("data")
    if args.budget == "seconds" and args.jobs > 1:
        raise ValueError(f"--jobs {args.jobs}: with --budget seconds, runs must not slow each other down")
    for name in ("models", "seeds"):
        if len(set(getattr(args, name))) < len(getattr(args, name)):
            raise ValueError(f"--{name} names one twice")
    return args
