"""Reads the JSON and npz files of recordings, and keeps track of what was read."""

from __future__ import annotations

import gzip
import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detectors.commands.verify.comparison import Comparison, Fixture


class Settings(dict):
    """A JSON object. A missing key raises a ValueError that names it."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"no key {key!r} in the JSON; there are {', '.join(map(repr, self)) or 'none'}")


def read_json(path: Path) -> Any:
    """The content of a .json or .json.gz file, with objects as Settings.

    Raises FileNotFoundError for a missing file and ValueError for invalid JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.name}: no such file")
    data = path.read_bytes()
    try:
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data, object_hook=Settings)
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path.name}: invalid JSON ({error}); is the file truncated?") from error


class Arrays:
    """The arrays of an npz file whose names begin with a prefix. Each is read when it is accessed."""

    def __init__(self, path: Path, prefix: str = "", *, parent: Arrays | None = None):
        """Raises FileNotFoundError for a missing file and ValueError for one that is not an npz file."""
        self.path = path
        self.prefix = prefix
        if parent is not None:
            self._file = parent._file
            self._read = parent._read
            return
        if not path.is_file():
            raise FileNotFoundError(f"{path.name}: no such file")
        try:
            self._file = np.load(path, allow_pickle=False)
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise ValueError(f"{path.name}: not an npz file ({error}); is it truncated?") from error
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise ValueError(f"{path.name}: a single array, not an npz file")
        self._read: set[str] = set()

    def under(self, name: str) -> Arrays:
        """The arrays named `name/...`. Their reads count for this object too."""
        return Arrays(self.path, f"{self.prefix}{name}/", parent=self)

    def __contains__(self, name: str) -> bool:
        return self.prefix + name in self._file.files

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self._file.files if name.startswith(self.prefix))

    def __getitem__(self, name: str) -> np.ndarray:
        """Raises ValueError for a missing or damaged array."""
        full = self.prefix + name
        if full not in self._file.files:
            raise ValueError(f"{self.path.name}: no array {full!r}")
        self._read.add(full)
        try:
            return self._file[full]
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise ValueError(
                f"{self.path.name}: array {full!r} cannot be read ({error}); is the file truncated?"
            ) from error

    def skip(self, *names: str) -> None:
        """Marks arrays as read that need no comparison, such as notes and copies of other arrays."""
        self._read.update(self.prefix + name for name in names)

    @property
    def unread(self) -> list[str]:
        """Names of the arrays that nothing has read, in the whole file, whatever the prefix."""
        return [name for name in self._file.files if name not in self._read]


class Folder:
    """A folder of recordings. It remembers which of its files were opened. Paths are relative to it."""

    def __init__(self, root: Path, darknet: Path | None = None):
        """darknet: Darknet's own folder, if there is one. FileNotFoundError if there is no folder `root`."""
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: no such folder; give a folder of recordings, such as oracles/darknet"
            )
        self.root = root
        self.darknet = darknet
        self.remarks: list[str] = []  # what could not be compared
        self.files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        self.opened: set[Path] = set()
        self.arrays_of: dict[Path, Arrays] = {}

    def path(self, name: Path) -> Path:
        """The full path of a file, which now counts as opened."""
        self.opened.add(name)
        return self.root / name

    def json(self, name: Path) -> Any:
        return read_json(self.path(name))

    def arrays(self, name: Path) -> Arrays:
        """The arrays of an npz file: the same object in every call, so that it knows all that was read."""
        if name not in self.arrays_of:
            self.arrays_of[name] = Arrays(self.path(name))
        return self.arrays_of[name]

    def cases(self, name: Path) -> Iterator[tuple[str, Settings, Arrays]]:
        """Name, settings and arrays of every case of a JSON file, whose npz file has the same stem."""
        settings = self.json(name)
        arrays = self.arrays(name.with_suffix(".npz"))
        return ((case, settings[case], arrays.under(case)) for case in settings)

    def fixtures(
        self, name: Path, check: Callable[[Settings, Arrays], Iterable[Comparison]]
    ) -> Iterator[Fixture]:
        """A Fixture for every case of a JSON file: check(its settings, its arrays)."""
        for case, settings, arrays in self.cases(name):
            yield Fixture(f"{name.stem}/{case}", partial(check, settings, arrays))
