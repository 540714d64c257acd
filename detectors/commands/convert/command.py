"""Converts weights: detectors convert SOURCE TARGET [--report] [key=value ...].

In: Darknet's .weights (with --cfg or --model), torchvision's ssd300_vgg16, ssd.pytorch, VGG-16 as a backbone, checkpoints of ours.
Out: checkpoints, .weights, torchvision, ssd.pytorch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from detectors.commands.convert import ssd_ports
from detectors.commands.convert.conversion import Converted, Wish, from_checkpoint
from detectors.commands.convert.darknet_conversion import PARTIAL_FILE, from_darknet, to_darknet
from detectors.commands.convert.ssd_conversion import from_ssd, to_ssd
from detectors.config.entry import verb
from detectors.data.files import atomic_file
from detectors.training import checkpoint as ckpt

TARGET_SUFFIXES = {
    "checkpoint": ".pt",
    "darknet": ".weights",
    "torchvision": ".pth",
    "ssd.pytorch": None,
}  # kind -> the suffix that stands for it


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = parser().parse_intermixed_args(arguments)
    target_kind = asked.target_kind or kind_of_target(asked.target)
    if asked.source.resolve() == asked.target.resolve():
        raise ValueError(f"{asked.target}: source and target are the same file; give the target another name")
    fields = {name: getattr(asked, name) for name in Wish.__dataclass_fields__}
    converted = read_source(Wish(**fields), asked.source_kind)
    notes = converted.notes + write_target(converted.checkpoint, target_kind)
    names = converted.checkpoint.class_names
    print(*(converted.transfer.lines() if asked.report else converted.transfer.summary()), *notes, sep="\n")
    print(f"{len(names)} classes: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}")
    print(f"written: {asked.target} ({target_kind})")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="detectors convert", description="Converts weights between programs.")
    add = made.add_argument
    add("source", type=Path, help="the file, or a run folder of ours")
    add(
        "target",
        type=Path,
        help="the file to write: .pt is a checkpoint of ours, .weights Darknet's, .pth torchvision's",
    )
    add(
        "--from",
        dest="source_kind",
        choices=("checkpoint", "darknet", *ssd_ports.PORTS),
        help="kind of SOURCE (by its content)",
    )
    add("--to", dest="target_kind", choices=TARGET_SUFFIXES, help="kind of TARGET (by its suffix)")
    add("--model", help="a yaml of conf/model (by the content: ssd300, ssd300_coco, ssd512, ...)")
    add(
        "--names",
        help="class names: voc, coco or a file with one a line; another number than the file's starts new heads",
    )
    add(
        "--cfg",
        type=Path,
        help="the cfg of Darknet's weights; without --model the checkpoint holds it and has its layers",
    )
    add(
        "--keep-91",
        action="store_true",
        help="keep all of torchvision's 91 outputs: then the way back is bit for bit",
    )
    add("--partial", action="store_true", help="load what fits and start the rest anew, instead of refusing")
    add("--report", action="store_true", help="one line for each parameter")
    add(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of the checkpoint's configuration, as for train.py",
    )
    return made


def kind_of_target(target: Path) -> str:
    for kind, suffix in TARGET_SUFFIXES.items():
        if suffix and target.suffix == suffix:
            return kind
    raise ValueError(
        f"{target}: this suffix stands for no kind; name it with --to ({', '.join(TARGET_SUFFIXES)})"
    )


def read_source(wish: Wish, kind: str | None) -> Converted:
    """SOURCE as a checkpoint of ours. kind: None follows from the content."""
    path = ckpt.find_checkpoint(wish.source)
    if kind == "darknet" or (kind is None and (path.suffix == ".weights" or PARTIAL_FILE.search(path.name))):
        return from_darknet(wish)
    content = ckpt.read_tensors(path)
    if kind == "checkpoint" or (kind is None and isinstance(content, dict) and "format" in content):
        return from_checkpoint(ckpt.from_content(path, content), wish)
    tensors = ssd_ports.state_dict_of(content, str(path))
    kind = kind or ssd_ports.identify(tensors)
    if kind is None:
        known = ", ".join(port.title for port in ssd_ports.PORTS.values())
        raise ValueError(
            f"{path}: no network that is known here, its first parameter being {next(iter(tensors))}; known are {known}"
        )
    return from_ssd(ssd_ports.read_port(tensors, kind, str(path)), wish)


def write_target(checkpoint: ckpt.Checkpoint, kind: str) -> list[str]:
    """Writes the target, whole or not at all; what a person must know about it."""
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
