"""The options that all subjects of `detectors benchmark` share, and what each of them prints and writes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from detectors.commands.benchmark.machine import machine
from detectors.commands.benchmark.ratio_table import RatioRow, row_lines
from detectors.config.entry import require_at_least
from detectors.data.files import write_json
from detectors.training.assemble import choose_device
from detectors.training.interleaving import Stopwatch

RATIO = "ratio: the first program's time over this one's, within a round; from, to: quartiles"


def subject_parser(subject: str, description: str, *, repeats: int) -> argparse.ArgumentParser:
    """A parser with --repeats and --json. repeats: the default."""
    parser = argparse.ArgumentParser(prog=f"detectors benchmark {subject}", description=description)
    parser.add_argument(
        "--repeats",
        type=int,
        default=repeats,
        help=f"rounds, in each of which all programs take a turn; medians are printed ({repeats})",
    )
    parser.add_argument("--json", type=Path, help="file for the times of every round")
    return parser


def add_hardware(parser: argparse.ArgumentParser) -> None:
    """--device and --threads"""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 or auto (cpu)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch on the CPU (1)")


def prepared_device(args: argparse.Namespace, **least: int) -> torch.device:
    """Checks the options and sets PyTorch's number of threads. least: lowest values of further options.

    ValueError for an option below its least value, and for a device that is not there.
    """
    require_at_least(args, repeats=1, **least)
    if "threads" in args:
        require_at_least(args, threads=1)
    torch.set_num_threads(getattr(args, "threads", 1))
    device = choose_device(getattr(args, "device", "cpu"))
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # PyTorch's default is on, that of trainer.tf32 off
    return device


def publish(
    subject: str,
    rows: Sequence[RatioRow],
    args: argparse.Namespace,
    device: torch.device,
    stopwatch: Stopwatch,
) -> None:
    """Prints the machine and the table, and writes --json."""
    facts = machine(device, stopwatch)
    print(f"benchmark {subject}: " + "; ".join(f"{name} {fact}" for name, fact in facts.items()))
    print("\n".join(row_lines(rows)))
    print(f"median of {args.repeats} rounds; {RATIO}")
    if args.json:
        options = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(
            args.json,
            {
                "subject": subject,
                "machine": facts,
                "options": options,
                "rows": [row.as_dict() for row in rows],
            },
        )
