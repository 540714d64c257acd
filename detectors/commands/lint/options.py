"""The options of detectors lint, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from detectors.config.entry import require_at_least
from detectors.config.schema import SPLITS


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors lint",
        description="Decodes every image of a data set, checks every box, reports problems and statistics.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: data=voc07, data.root=..., input.size=...",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, help="splits to check (all that the data set has)"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all findings and statistics to a JSON file"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report to an HTML page with drawn examples"
    )
    parser.add_argument(
        "--examples", type=int, default=6, help="drawn examples of each kind of finding (%(default)s)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        help="processes that decode images; 0: decode in the main process (%(default)s)",
    )
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, workers=0, examples=0)
    return args


def cores() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
