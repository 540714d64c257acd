"""Whether a file of torch.save holds the bytes that were written.

torch.save writes a CRC-32 of each tensor's bytes, and of all else, into its zip file. torch.load does not
look at them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor


def damaged_part(path: Path, content: Any) -> str | None:
    """The name of the first part that differs from what was written; None for a whole file.

    content: what torch.load made of it, for the names of tensors, such as model['head.conv.weight'].
    """
    if not zipfile.is_zipfile(path):
        return None  # the format of PyTorch before 1.6 has no checksums
    with zipfile.ZipFile(path) as archive:
        if sum(record.file_size for record in archive.infolist()) > path.stat().st_size:
            return "the table of contents"
        record = archive.testzip()
    if record is None:
        return None
    kind, _, number = record.rpartition("/")
    names = list(_storage_names(content, "", set())) if kind.endswith("/data") else []
    return names[int(number)] if number.isdecimal() and int(number) < len(names) else record


def _storage_names(value: Any, name: str, seen: set[int]) -> Iterator[str]:
    """Names of the tensors in torch.save's order, which numbers them; those that share memory count once."""
    if isinstance(value, Tensor):
        memory = value.untyped_storage()._cdata
        if memory not in seen:
            seen.add(memory)
            yield name
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _storage_names(inner, f"{name}[{key!r}]" if name else str(key), seen)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _storage_names(inner, f"{name}[{number}]", seen)
