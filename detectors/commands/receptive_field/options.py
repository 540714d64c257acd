"""The options of detectors receptive-field, without the packages that it needs."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least

MEASURES = ("squared", "absolute")


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors receptive-field",
        description="Prints the receptive field and the stride of each level of a detector, and draws them.",
    )
    add = parser.add_argument
    add("place", metavar="MODEL_OR_RUN", help="a yaml of conf/model, a run folder, latest or a checkpoint")
    add("overrides", nargs="*", help="settings of train.py, for a model: width, input.size, init.from, ...")
    add("--images", type=Path, nargs="+", default=[], help="images or folders (default: noise)")
    add("--count", type=int, default=8, help="images that the effective field is averaged over (%(default)s)")
    add("--measure", choices=MEASURES, default="squared", help="of the gradient (%(default)s)")
    add("--seed", type=int, default=0, help="of the noise, and of a model's weights (%(default)s)")
    add("--output", type=Path, help="a PNG with a picture of each level")
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, count=1)
    return args
