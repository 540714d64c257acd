"""The options of detectors predict, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from detectors.config.entry import require_at_least

DARKNET_OPTIONS = (
    "weights",
    "names",
    "nms",
    "resize",
    "batch_norm",
    "report",
    "tree_rule",
    "hier",
    "map",
)  # options that need --cfg
STREAM_FORMATS = ("lines", "json", "csv", "coco")  # formats of one text, on stdout or in a file
FOLDER_FORMATS = ("voc", "darknet")  # formats of a file for each image
DEFAULT_TILE_OVERLAP = 0.2
BATCH = 8  # views that go through the network together


class FormatChoice(NamedTuple):
    """--format NAME or NAME=PLACE."""

    name: str  # of STREAM_FORMATS or FOLDER_FORMATS
    place: Path | None  # a file or folder; None: stdout, or a folder of this name below the output folder


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Options may stand between the places; what follows `--` is a place, whatever it begins with.

    ValueError for options that do not go together or are out of range.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    end = words.index("--") if "--" in words else len(words)
    args = _parser().parse_intermixed_args(words[:end])
    args.places += words[end + 1 :]
    given = [f"--{name.replace('_', '-')}" for name in DARKNET_OPTIONS if getattr(args, name) is not None]
    if args.cfg is None and given:
        raise ValueError(f"{', '.join(given)}: only together with --cfg, for Darknet's files")
    if not args.places:
        raise ValueError("name a run or checkpoint, then images or folders; or --cfg, --weights and images")
    if args.cfg is None and len(args.places) < 2:
        raise ValueError(
            f"{args.places[0]}: a run or checkpoint alone; name the images to look at behind it, "
            "or give --cfg and --weights"
        )
    if args.cfg is not None and args.weights is None:
        raise ValueError(f"--cfg {args.cfg}: --weights is missing")
    _check_numbers(args)
    args.formats = _formats(args)
    args.augment = tuple(args.augment.split(",")) if args.augment else ()
    return args


def _check_numbers(args: argparse.Namespace) -> None:
    require_at_least(args, batch_size=1, every=1, frames=1)
    for name in ("score", "nms"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} {value}: must be between 0 and 1")
    if args.score is None:
        args.score = 0.3 if args.cfg is None else 0.5
    if args.tile is None:
        needless = [name for name in ("overlap", "whole") if getattr(args, name) is not None]
        if needless:
            raise ValueError(f"--{needless[0].replace('whole', 'no-whole')}: only together with --tile")
    args.overlap = DEFAULT_TILE_OVERLAP if args.overlap is None else args.overlap
    args.whole = args.whole is not False


def _formats(args: argparse.Namespace) -> list[FormatChoice]:
    """What --format asks for; lines on stdout by default. ValueError for two formats that share a place."""
    known = (*STREAM_FORMATS, *FOLDER_FORMATS)
    formats = []
    for typed in args.format or ([] if args.count else ["lines"]):
        name, equals, place = typed.partition("=")
        if name not in known:
            raise ValueError(f"--format {typed}: choose {', '.join(known)}, or one of them with =PLACE")
        if equals and not place:
            raise ValueError(f"--format {typed}: name a file or folder behind =, or omit it")
        formats.append(FormatChoice(name, Path(place) if place else None))
    printed = ["--count"] * args.count
    printed += [f"--format {name}" for name, place in formats if name in STREAM_FORMATS and place is None]
    if len(printed) > 1:
        raise ValueError(
            f"{' and '.join(printed)}: only one can be printed; give the others a file: json=found.json"
        )
    places = [place or Path(name) for name, place in formats]
    if twice := [str(place) for n, place in enumerate(places) if place in places[:n]]:
        raise ValueError(f"--format: {twice[0]} is named twice; give each format its own place")
    return formats


def refuse_for_classifier(args: argparse.Namespace) -> None:
    """ValueError for an option that has no effect on a classifier, which finds no boxes."""
    usual = options(["run", "image"])
    for name in ("tile", "augment", "classes", "count", "format", "save_crops"):
        if getattr(args, name) != getattr(usual, name):
            option = "class" if name == "classes" else name.replace("_", "-")
            raise ValueError(
                f"--{option}: for detectors; {args.places[0]} holds a classifier, which finds no boxes"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors predict",
        usage="%(prog)s (RUN_OR_CHECKPOINT | --cfg CFG --weights WEIGHTS [--names NAMES]) "
        "PLACE ... [options]",
        description="Prints `image: class score xmin ymin xmax ymax`, and with --cfg Darknet's lines. "
        "A PLACE is an image, a video, a folder (with all below it), a pattern such as 'a/**/*.jpg', an http "
        "or https address, a .txt list of these, - for a list on stdin, or a camera: webcam:0. Options may "
        "stand anywhere; what follows -- is a place, also if it begins with a dash.",
    )
    add = parser.add_argument
    add("places", nargs="*", metavar="PLACE", help="a run, latest or a checkpoint, then what to look at")
    add("--score", "--thresh", type=float, help="lowest score shown (0.3; with --cfg 0.5, as in Darknet)")
    add("--class", dest="classes", action="append", metavar="NAME[,NAME]", help="show these classes only")
    add("--device", default="auto", help="auto, cpu, cuda, or one GPU of several: cuda:1 (auto)")
    add("--batch-size", type=int, default=BATCH, help=f"images or tiles at once in the network ({BATCH})")
    add(
        "--kernels",
        default="auto",
        choices=("auto", "reference", "triton"),
        help="as trainer.kernels in docs/kernels.md",
    )
    add("--builder", action="append", default=[], help="module.name of a builder of yours that the run needs")
    _add_looking(parser)
    _add_output(parser)
    add = parser.add_argument_group("Darknet's files, instead of a run").add_argument
    add("--cfg", type=Path, help="the network")
    add("--weights", type=Path)
    add("--names", type=Path, help="one class name a line (without it, numbers)")
    add("--nms", type=float, help="IoU with a better box of its class above which a box is dropped (0.45)")
    add("--resize", choices=("letterbox", "stretch"), help="how images are fitted (letterbox)")
    add("--batch-norm", choices=("cpu", "gpu"), help="which build of Darknet computes alike (cpu)")
    rules = ("darknet", "as_meant", "every_node")
    add("--tree-rule", choices=rules, help="of a cfg with a tree: which label and score a box gets (darknet)")
    add("--hier", type=float, help="of a cfg with a tree: the walk down ends below this probability (0.5)")
    add("--map", type=Path, help="of a cfg with a tree: a .map file, whose nodes are scored")
    add("--report", action="store_true", default=None, help="list what was loaded, layer by layer")
    return parser


def _add_looking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how images and videos are looked at").add_argument
    add("--tile", type=int, metavar="N", help="also in overlapping tiles of N x N pixels, for large images")
    add("--overlap", type=float, help=f"of tiles, a share of their side ({DEFAULT_TILE_OVERLAP})")
    add("--no-whole", dest="whole", action="store_false", default=None, help="tiles without the whole image")
    add("--augment", metavar="flip,scales", help="also mirrored, and at 3/4 and 5/4 of the input size")
    add("--every", type=int, default=1, metavar="N", help="every Nth frame of a video or camera (1)")
    add("--frames", type=int, metavar="N", help="at most N frames of each video and camera")


def _add_output(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "--format",
        action="append",
        metavar="NAME[=PLACE]",
        help="lines (default), json, csv or coco: printed, or written to the file PLACE; voc or darknet: a "
        "file for each image in the folder PLACE; may be repeated",
    )
    add("--count", action="store_true", help="print how many of each class an image holds, and in all")
    add("--output", type=Path, help="for pictures (predict in paths.output, below which train.py writes)")
    add("--no-pictures", dest="pictures", action="store_false", help="draw nothing")
    add(
        "--save-crops",
        action="store_true",
        help="write each box's pixels to crops/CLASS/ in the output folder",
    )
