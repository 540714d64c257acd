"""The options of detectors browse, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least
from detectors.config.schema import SPLITS

COLUMNS = 4  # cells in a row of a page
ROWS = 4  # rows of a page


def options(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError: a number is out of range, or options do not go together."""
    args = _parser().parse_intermixed_args(arguments)  # options may stand between the overrides
    require_at_least(args, images=1, step=0, epoch=0, epochs=1, width=200)
    if args.split != "train" and (args.step is not None or args.epoch is not None):
        raise ValueError(
            f"--split {args.split}: evaluation has neither steps nor epochs; omit --step and --epoch"
        )
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors browse", description="Shows training samples, as image files and in TensorBoard."
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for train.py: data=voc07 augment=ssd model=ssd300 ...",
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=SPLITS,
        help="train: as in training; val, test: as in evaluation (train)",
    )
    parser.add_argument("--images", type=int, default=COLUMNS * ROWS, help="number of samples (16)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--step", type=int, help="start at this optimiser step of the run, counted from 0")
    start.add_argument("--epoch", type=int, help="start at the beginning of this epoch, counted from 0")
    parser.add_argument(
        "--epochs", type=int, default=4, help="number of epochs in which the first images are shown (4)"
    )
    parser.add_argument(
        "--anchors", action="store_true", help="draw and count the anchors matched to each box"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="a run, latest or a checkpoint whose configuration is used; overrides change it",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="OVERRIDE[,OVERRIDE]",
        help="one row of pictures for each: augment=none augment=light",
    )
    parser.add_argument("--output", type=Path, help="folder for the pictures (outputs/browse/DATE_TIME_NAME)")
    parser.add_argument("--format", default="png", choices=("png", "jpg"), help="of the pictures (png)")
    parser.add_argument(
        "--width", type=int, default=2000, help="of a picture in pixels (2000); crowded images need more"
    )
    return parser
