"""The options of detectors browse, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least
from detectors.config.run_folders import LATEST
from detectors.config.schema import SPLITS

COLUMNS = 4  # cells in a row of a page
ROWS = 4  # rows of a page
OF_SAMPLES = ("step", "epoch", "epochs", "anchors", "checkpoint", "compare")  # not with --detections
OF_DETECTIONS = ("score", "classes", "ids", "order")  # only with --detections
DATA_SETTINGS = ("data=", "data.", "paths.")  # the overrides that --detections takes


def options(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError: a number is out of range, or options do not go together."""
    args = _parser().parse_intermixed_args(arguments)  # options may stand between the overrides
    _refuse_what_does_not_go_together(args)
    defaults = {"epochs": 4, "score": 0.3, "order": "errors"}
    defaults["split"] = "val" if args.detections is not None else "train"
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for text in args.overrides:
        if text == LATEST or text.endswith(".pt") or list(Path(text).glob("*.pt")):
            raise ValueError(f"{text}: a run is named by an option: --checkpoint {text}")
    require_at_least(args, images=1, step=0, epoch=0, epochs=1, width=200, score=0)
    if args.split != "train" and (args.step is not None or args.epoch is not None):
        raise ValueError(
            f"--split {args.split}: evaluation has neither steps nor epochs; omit --step and --epoch"
        )
    return args


def _refuse_what_does_not_go_together(args: argparse.Namespace) -> None:
    saved = args.detections is not None
    for name in OF_SAMPLES if saved else OF_DETECTIONS:
        if getattr(args, name) in (None, False):
            continue
        if saved:
            raise ValueError(
                f"--{name}: --detections shows saved boxes on original images; omit one of the two"
            )
        raise ValueError(f"--{name}: is for saved detections; add --detections FILE, or omit it")
    if not saved:
        return
    of_data = [text.lstrip("+").startswith(DATA_SETTINGS) for text in args.overrides]
    if not all(of_data):
        other = args.overrides[of_data.index(False)]
        raise ValueError(
            f"{other}: --detections needs no network, so it takes settings of data and paths alone; omit it"
        )
    if args.split is not None and not names_data(args):
        raise ValueError(f"--split {args.split}: name the data set, too, as data=...; or omit --split")


def names_data(args: argparse.Namespace) -> bool:
    """Whether the overrides choose a data set, or change one."""
    return any(text.lstrip("+").startswith(("data=", "data.")) for text in args.overrides)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors browse",
        description="Shows training samples or saved detections, as image files and in TensorBoard.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as for train.py: data=voc07 augment=ssd model=ssd300 ...",
    )
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="train: as in training; val, test: as in evaluation (train; with --detections val)",
    )
    parser.add_argument("--images", type=int, default=COLUMNS * ROWS, help="number of images (16)")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--step", type=int, help="start at this optimiser step of the run, counted from 0")
    start.add_argument("--epoch", type=int, help="start at the beginning of this epoch, counted from 0")
    parser.add_argument("--epochs", type=int, help="number of epochs in which the first images are shown (4)")
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
    parser.add_argument(
        "--detections",
        metavar="FILE",
        help="draw saved detections beside the ground truth, from whatever evaluate.py detections=FILE reads",
    )
    parser.add_argument("--score", type=float, help="with --detections: the lowest score shown (0.3)")
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="with --detections: only these")
    parser.add_argument("--ids", nargs="+", metavar="ID", help="with --detections: only these images")
    parser.add_argument(
        "--order",
        choices=("errors", "data"),
        help="with --detections: most errors first, or as in the data set (errors)",
    )
    parser.add_argument("--output", type=Path, help="folder for the pictures (outputs/browse/DATE_TIME_NAME)")
    parser.add_argument("--format", default="png", choices=("png", "jpg"), help="of the pictures (png)")
    parser.add_argument(
        "--width", type=int, default=2000, help="of a picture in pixels (2000); crowded images need more"
    )
    return parser
