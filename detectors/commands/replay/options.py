"""The options of detectors replay, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors replay",
        description="Repeats the step at which a run was no longer finite, and says what was so first.",
        epilog="exit status: 0 named; 1 all repeated steps are finite; 2 the folder cannot be used",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="RUN/replay_step_..., or latest")
    add("--device", help="auto, cpu, cuda or cuda:1 (the run's); another one computes other last digits")
    add("--on-step", action="append", default=[], help="module.name of a hook of yours that the run called")
    add("--builder", action="append", default=[], help="module.name of a builder of yours that the run needs")
    return parser.parse_args(arguments)
