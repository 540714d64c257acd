"""The options of detectors predict, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

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


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Options may stand between the places; what follows `--` is a place, whatever it begins with.

    ValueError for options that do not go together or are out of range.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    end = words.index("--") if "--" in words else len(words)
    args = _parser().parse_intermixed_args(words[:end])
    args.places += map(Path, words[end + 1 :])
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
    for name in ("score", "nms"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"--{name} {value}: must be between 0 and 1")
    if args.score is None:
        args.score = 0.3 if args.cfg is None else 0.5
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detectors predict",
        usage="%(prog)s (RUN_OR_CHECKPOINT | --cfg CFG --weights WEIGHTS [--names NAMES]) "
        "IMAGE_OR_FOLDER ... [options]",
        description="Prints `image: class score xmin ymin xmax ymax`, and with --cfg Darknet's lines. "
        "Options may stand anywhere; what follows -- is a place, also if it begins with a dash.",
    )
    add = parser.add_argument
    add("places", nargs="*", type=Path, metavar="PLACE", help="a run, latest or a checkpoint, then images")
    add("--score", "--thresh", type=float, help="lowest score shown (0.3; with --cfg 0.5, as in Darknet)")
    add("--output", type=Path, help="for pictures (predict in paths.output, below which train.py writes)")
    add("--device", default="auto", help="auto, cpu, cuda, or one GPU of several: cuda:1 (auto)")
    add(
        "--kernels",
        default="auto",
        choices=("auto", "reference", "triton"),
        help="as trainer.kernels in docs/kernels.md",
    )
    add("--builder", action="append", default=[], help="module.name of a builder of yours that the run needs")
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
