"""Reading recordings, JSON and npz files: errors name what is missing, and what was read is remembered."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


class Settings(dict):
    """An object of a JSON file. An absent key is an error that names it."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"no key {key!r} in the JSON; there are {', '.join(map(repr, self)) or 'none'}")


def read_json(path: Path) -> Any:
    """Objects become Settings; `.gz` is unpacked.

    FileNotFoundError without the file; ValueError for what is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such file")
    data = path.read_bytes()
    try:
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data, object_hook=Settings)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name}: no JSON ({error}); is the file truncated?") from error


class Arrays:
    """The arrays of an npz file below a prefix, read one by one.

    `unread` names those that nothing has read.
    """

    def __init__(self, path: Path, prefix: str = "", *, parent: Arrays | None = None):
        """FileNotFoundError without the file; ValueError for what is no npz."""
        self.path = path
        self.prefix = prefix
        if parent is not None:
            self._file = parent._file
            self._asked = parent._asked
            return
        if not path.is_file():
            raise FileNotFoundError(f"{path.name}: no such file")
        try:
            self._file = np.load(path, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path.name}: no npz file ({error}); is it truncated?") from error
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise ValueError(f"{path.name}: a single array, not an npz file")
        self._asked: set[str] = set()

    def under(self, name: str) -> Arrays:
        """The arrays whose names go on after `name/`."""
        return Arrays(self.path, f"{self.prefix}{name}/", parent=self)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self._file.files

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self._file.files if name.startswith(self.prefix))

    def __getitem__(self, name: str) -> np.ndarray:
        """ValueError for an array that is absent or damaged."""
        full = self.prefix + name
        if full not in self._file.files:
            raise ValueError(f"{self.path.name}: no array {full!r}")
        self._asked.add(full)
        try:
            return self._file[full]
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{self.path.name}: array {full!r} cannot be read ({error}); is the file truncated?"
            ) from error

    def skip(self, *names: str) -> None:
        """Marks arrays that need no comparison: remarks, and what another array says, too."""
        self._asked.update(self.prefix + name for name in names)

    @property
    def unread(self) -> list[str]:
        """Of the whole file, whatever the prefix."""
        return [name for name in self._file.files if name not in self._asked]


class Folder:
    """A folder of recordings, and which of its files were opened."""

    def __init__(self, root: Path):
        """FileNotFoundError if it is no folder."""
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: no such folder; give one that holds recordings, such as oracles/darknet"
            )
        self.root = root
        self.files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        self.opened: set[Path] = set()
        self.arrays_of: dict[Path, Arrays] = {}

    def path(self, name: Path) -> Path:
        """The file in full; it counts as opened."""
        self.opened.add(name)
        return self.root / name

    def json(self, name: Path) -> Any:
        return read_json(self.path(name))

    def arrays(self, name: Path) -> Arrays:
        """The same object each time, so that it knows everything that was read."""
        if name not in self.arrays_of:
            self.arrays_of[name] = Arrays(self.path(name))
        return self.arrays_of[name]
