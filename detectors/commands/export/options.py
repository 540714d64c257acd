"""The options of detectors export, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectors.config.entry import require_at_least
from detectors.config.schema import SPLITS

FILE_KINDS = ("onnx", "torch_export", "torchscript")
BOX_OPTIONS = ("score_threshold", "nms_iou")  # options that need --with-boxes


def options(arguments: list[str] | None) -> argparse.Namespace:
    """ValueError for options that do not go together or are out of range."""
    parser = argparse.ArgumentParser(
        prog="detectors export",
        description="Writes a network to a file that other programs run, and compares it with the network.",
    )
    add = parser.add_argument
    add("place", metavar="RUN_OR_MODEL", help="a run folder, latest, a checkpoint, or a yaml of conf/model")
    add("overrides", nargs="*", metavar="key=value", help="settings of train.py, for a yaml of conf/model")
    add("--to", dest="kind", choices=FILE_KINDS, default="onnx", help="kind of file (%(default)s)")
    add("--output", type=Path, help="the file (beside the checkpoint, .onnx, .pt2 or .torchscript)")
    add(
        "--with-boxes",
        action="store_true",
        help="the file decodes and suppresses: its outputs are detections",
    )
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the input (that of the run)")
    add("--score-threshold", type=float, help="lowest score of a detection (that of the run)")
    add("--nms-iou", type=float, help="IoU above which the worse of two boxes is dropped (that of the run)")
    add(
        "--quantize",
        choices=("int8",),
        help="also writes an ONNX file with int8 convolutions; prints AP of both",
    )
    add("--calibration-images", type=int, default=128, help="of the training images, for int8 (%(default)s)")
    add("--split", choices=SPLITS, default="val", help="on which AP is measured, for int8 (%(default)s)")
    args = parser.parse_intermixed_args(arguments)
    require_at_least(args, calibration_images=1)
    for name in BOX_OPTIONS:
        value = getattr(args, name)
        option = f"--{name.replace('_', '-')} {value}"
        if value is not None and not args.with_boxes:
            raise ValueError(f"{option}: belongs to the suppression; add --with-boxes")
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{option}: must be between 0 and 1")
    if args.quantize and args.kind != "onnx":
        raise ValueError(f"--quantize {args.quantize}: is for --to onnx, not --to {args.kind}")
    if args.size and min(args.size) < 1:
        raise ValueError(f"--size {args.size[0]} {args.size[1]}: must be 1 or more")
    return args
