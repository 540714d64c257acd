"""The options of detectors show, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least
from detectors.config.schema import SPLITS

MOST_RUNS = 8
PORT = 8160
LARGEST_PORT = 65535


def options(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError: a number is out of range."""
    parser = argparse.ArgumentParser(
        prog="detectors show",
        description="A page in the browser, for this machine alone: what runs find in an image, and why.",
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run, latest or a checkpoint; several side by side",
    )
    add("--split", choices=SPLITS, help="offer these images of the first run's data, with their ground truth")
    add("--port", type=int, default=PORT, help=f"of 127.0.0.1; 0 takes a free one ({PORT})")
    add("--device", default="auto", help="auto, cpu, cuda, or one GPU of several: cuda:1 (auto)")
    add("--megabytes", type=int, default=32, help="the largest image file that the page takes (32)")
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, port=0, megabytes=1)
    if args.port > LARGEST_PORT:
        raise ValueError(f"--port {args.port}: must be {LARGEST_PORT} or less")
    if len(args.runs) > MOST_RUNS:
        raise ValueError(f"{len(args.runs)} runs: the page has room for {MOST_RUNS}; name fewer")
    return args
