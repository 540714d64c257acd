"""The options of detectors tree, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors tree", description="Checks a tree of classes, prints it, draws it and converts it."
    )
    parser.add_argument(
        "file",
        type=Path,
        help="Darknet's .tree; .yaml with nested names; .pairs or .txt with lines 'child parent'",
    )
    parser.add_argument("--names", type=Path, metavar="FILE", help="readable names, one a line")
    parser.add_argument("--map", type=Path, metavar="FILE", help="a .map file: its nodes are marked with *")
    parser.add_argument(
        "--below", metavar="NODE", help="only this node, by number or name, and what is below"
    )
    parser.add_argument("--levels", type=int, default=None, help="only so many levels (all)")
    parser.add_argument("--output", type=Path, metavar="X.svg", help="a drawing, or X.tree: Darknet's format")
    return parser.parse_args(arguments)
