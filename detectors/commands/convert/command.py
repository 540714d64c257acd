"""Converts weights: detectors convert SOURCE TARGET [--report] [key=value ...].

In: Darknet's .weights (with --cfg or --model), torchvision's ssd300_vgg16, ssd.pytorch, VGG-16 as a backbone,
our checkpoints. Out: checkpoints, .weights, torchvision, ssd.pytorch.

And data sets: detectors convert data=voc data.root=FOLDER --to coco|voc|darknet TARGET [key=value ...].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from detectors.commands.convert.conversion import Conversion, Request, from_checkpoint
from detectors.commands.convert.darknet_conversion import from_darknet, to_darknet
from detectors.commands.convert.dataset_files import FORMAT_WRITERS
from detectors.commands.convert.datasets import convert_data_set
from detectors.commands.convert.options import TARGET_SUFFIXES, options
from detectors.commands.convert.ssd_conversion import from_ssd, to_ssd
from detectors.config.composing import latest_or
from detectors.config.entry import verb
from detectors.data.files import atomic_file
from detectors.tables import printable
from detectors.training import checkpoint as ckpt
from detectors.training.initial import ssd_ports
from detectors.training.initial.weight_files import is_darknet


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    words = [args.source, args.target, *args.overrides]
    if any(word.startswith(("data=", "data.")) and "=" in word for word in words[:2]):
        _convert_data_set(words, args)
        return
    args.source, args.target = latest_or(Path(args.source)), Path(args.target)
    if args.target_kind in FORMAT_WRITERS and args.target_kind not in TARGET_SUFFIXES:
        what = f"--to {args.target_kind}: is a format of data sets"
        raise ValueError(f"{what}; choose the set with data=..., such as data=voc")
    target_kind = args.target_kind or kind_of_target(args.target)
    if args.source.resolve() == args.target.resolve():
        raise ValueError(f"{args.target}: source and target are the same file; give the target another name")
    if args.target.name in (ckpt.BEST, ckpt.LAST) and args.target.exists():
        raise ValueError(f"{args.target}: is the checkpoint of a run; give the target another name")
    request = Request(
        source=args.source,
        target=args.target,
        model=args.model,
        names=args.names,
        cfg=args.cfg,
        keep_91=args.keep_91,
        partial=args.partial,
        overrides=args.overrides,
    )
    conversion = read_source(request, args.source_kind)
    target_notes = write_target(conversion.checkpoint, target_kind)
    transfer = conversion.transfer
    report = transfer.lines() if args.report else transfer.summary()
    print(*report, *conversion.notes, *target_notes, sep="\n")
    names = conversion.checkpoint.class_names
    first = ", ".join(map(printable, names[:5]))
    print(f"{len(names)} classes: {first}{', ...' if len(names) > 5 else ''}")
    print(f"written: {args.target} ({target_kind})")


def _convert_data_set(words: list[str], args: argparse.Namespace) -> None:
    places = [word for word in words if "=" not in word]
    if len(places) != 1:
        listed = ", ".join(places) or "none"
        raise ValueError(f"name one folder to write the data set into, besides key=value (named: {listed})")
    overrides = [word for word in words if "=" in word]
    target = Path(places[0])
    lines = convert_data_set(overrides, target, target_format=args.target_kind, images=args.images)
    print(*lines, sep="\n")


def kind_of_target(target: Path) -> str:
    for kind, suffix in TARGET_SUFFIXES.items():
        if suffix and target.suffix == suffix:
            return kind
    raise ValueError(
        f"{target}: the suffix does not say what to write; choose it with --to ({', '.join(TARGET_SUFFIXES)})"
    )


def read_source(request: Request, kind: str | None) -> Conversion:
    """SOURCE as one of our checkpoints. kind: None to recognise it by name and content."""
    path = ckpt.find_checkpoint(request.source)
    if kind is None and is_darknet(path):
        kind = "darknet"
    if kind == "darknet":
        return from_darknet(request)
    content = ckpt.read_tensors(path)
    if kind is None and isinstance(content, dict) and "format" in content:
        kind = "checkpoint"
    if kind == "checkpoint":
        return from_checkpoint(ckpt.from_content(path, content), request)
    tensors = ssd_ports.state_dict_of(content, str(path))
    kind = kind or ssd_ports.identify(tensors)
    if kind is None:
        known = ", ".join(
            f"{ssd_ports.PORTS[kind].title} ({', '.join(marks)})" for kind, marks in ssd_ports.MARKS.items()
        )
        raise ValueError(
            f"{path}: unknown network, with {next(iter(tensors))} as its first parameter of {len(tensors)}; "
            f"known are, by their parameters, {known}"
        )
    return from_ssd(ssd_ports.read_port(tensors, kind, str(path)), request)


def write_target(checkpoint: ckpt.Checkpoint, kind: str) -> list[str]:
    """Writes the target atomically. Returns what the user must know about it."""
    if kind == "checkpoint":
        ckpt.save_checkpoint(checkpoint)
        return []
    if kind == "darknet":
        return to_darknet(checkpoint)
    tensors, notes = to_ssd(checkpoint, kind)
    with atomic_file(checkpoint.path) as file:
        torch.save(tensors, file)
    return notes


if __name__ == "__main__":
    main()
