"""The options of detectors cluster, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least


def options(arguments: list[str] | None) -> argparse.Namespace:
    args = _parser().parse_intermixed_args(arguments)
    require_at_least(args, k=1, restarts=1, seed=0, sample=1)
    if args.plot and args.plot.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot {args.plot}: must end in .png, .svg or .pdf")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors cluster", description="Finds anchors that fit a data set, with k-means."
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: data=voc07 model=yolov2 input.size=...",
    )
    parser.add_argument(
        "--k",
        type=int,
        default=5,
        help="number of anchors (%(default)s); SSD's number follows from its levels",
    )
    parser.add_argument(
        "--restarts", type=int, default=5, help="number of starts, of which the best is used (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of starts and sample (%(default)s)")
    parser.add_argument(
        "--sample",
        type=int,
        default=20_000,
        help="number of boxes to search on, at most (%(default)s); the results count all boxes",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to a JSON file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a plot: .png, .svg or .pdf")
    return parser
