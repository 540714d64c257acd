"""The options of detectors convert, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.commands.convert.dataset_files import FORMAT_WRITERS

# Kind of target -> its file suffix.
TARGET_SUFFIXES = {"checkpoint": ".pt", "darknet": ".weights", "torchvision": ".pth", "ssd.pytorch": None}
SOURCE_KINDS = ("checkpoint", "darknet", "torchvision", "ssd.pytorch", "vgg16", "vgg16_reduced")
IMAGE_MODES = ("copy", "link", "none")


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors convert",
        description="Converts weights between programs, or a data set between formats: "
        "detectors convert data=voc data.root=FOLDER --to coco TARGET",
    )
    parser.add_argument("source", help="a file, a run folder or latest; or key=value that choose a data set")
    parser.add_argument(
        "target",
        help="the file to write: .pt is our checkpoint, .weights Darknet's, .pth torchvision's",
    )
    parser.add_argument(
        "--from",
        dest="source_kind",
        choices=SOURCE_KINDS,
        help="kind of SOURCE (default: by its content)",
    )
    parser.add_argument(
        "--to",
        dest="target_kind",
        choices=[*TARGET_SUFFIXES, *(name for name in FORMAT_WRITERS if name not in TARGET_SUFFIXES)],
        help="kind of TARGET (default: by its suffix); of a data set: coco, voc or darknet",
    )
    parser.add_argument(
        "--images",
        choices=IMAGE_MODES,
        default="copy",
        help="of a data set: copy images, make hard links, or write annotations only (%(default)s)",
    )
    parser.add_argument(
        "--model", help="a yaml of conf/model (default: by the content: ssd300, ssd300_coco, ssd512, ...)"
    )
    parser.add_argument(
        "--names",
        help="class names: voc, coco or a file with one per line; "
        "for another number than the file's, the class outputs are initialised anew",
    )
    parser.add_argument(
        "--cfg",
        type=Path,
        help="the cfg of Darknet's weights; without --model, the checkpoint contains it and has its layers",
    )
    parser.add_argument(
        "--keep-91",
        action="store_true",
        help="keep all of torchvision's 91 outputs, so that they can be written back bit for bit",
    )
    parser.add_argument(
        "--partial", action="store_true", help="load what fits and initialise the rest, instead of failing"
    )
    parser.add_argument("--report", action="store_true", help="print one line for each parameter")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of the checkpoint's configuration, as for train.py",
    )
    return parser.parse_intermixed_args(arguments)
