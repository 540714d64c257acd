"""Yaml files that are not plain UTF-8, which Hydra's own messages don't name."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from pathlib import Path

SAVE = "save it as UTF-8 without a byte order mark"


def encoding_problem(error: Exception, folders: Iterable[Path], named: str = "") -> str | None:
    """What is wrong with the encoding of the yaml file at which composing the configuration failed.

    folders: where Hydra looks for files. named: the file, if Hydra says it: experiment/mine.yaml.
    None if another thing is wrong. A mark hides the first line, such as `# @package _global_`, from Hydra.
    """
    if isinstance(error, UnicodeDecodeError):
        files = [path for folder in folders for path in sorted(folder.rglob("*.yaml"))]
        path = next((path for path in files if error.object in path.read_bytes()), None)
        if path is None:
            return None
        line = path.read_bytes().partition(error.object)[0].count(b"\n")
        line += error.object.count(b"\n", 0, error.start) + 1
        byte = f"{error.object[error.start]:#04x}"
        return f"{path}: it is not UTF-8 text (line {line} has the byte {byte}); {SAVE}"
    for folder in folders if named else ():
        path = folder / named
        if path.is_file() and path.read_bytes().startswith(codecs.BOM_UTF8):
            return f"{path}: it begins with a byte order mark, which hides its first line from Hydra; {SAVE}"
    return None
