"""The options of detectors find-rate, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors find-rate",
        description="Trains while the learning rate rises, and prints where the loss falls fastest.",
    )
    add = parser.add_argument
    add("overrides", nargs="*", help="settings of train.py, such as model=ssd160 data=bccd")
    add("--steps", type=int, default=100, help="optimizer steps, each with a higher rate (100)")
    add("--output", type=Path, help="folder for NAME.csv and NAME.png (find_rate in paths.output)")
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, steps=20)
    return args
