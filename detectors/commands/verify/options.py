"""The options of detectors verify, without the packages that it needs: --help is answered at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors verify",
        description="Compares every fixture of a folder with what this code computes.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a folder of recordings; the README.md in it describes the layout",
    )
    parser.add_argument(
        "--darknet",
        type=Path,
        metavar="FOLDER",
        help="Darknet's own folder: nine_k.json is then compared with data/9k.tree and the other files in it",
    )
    parser.add_argument("--failed", action="store_true", help="leave out the lines that pass")
    return parser.parse_args(arguments)
