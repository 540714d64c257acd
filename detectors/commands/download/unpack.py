"""Archives into folders: first into a draft beside its place, then moved, so that a file is there as a whole or not at all.

The draft folder is made first and removed last: where one is left, an unpacking was cut off and is done again.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tqdm import tqdm


class Damaged(ValueError):
    """An archive that cannot be what its publisher made."""


def draft_of(root: Path, archive: str) -> Path:
    return root / f".unpacking-{archive}"


def clear_draft(draft: Path) -> None:
    """Empty, but there."""
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, exist_ok=True)


def unpack(path: Path, root: Path, take: Sequence[tuple[str, str]], *, progress: bool = True) -> None:
    """Files and folders of an archive to their places below root; files that are there already are replaced.

    take: (name in the archive, place below root). Damaged for an archive that is broken off, whose checksums are wrong, that lacks a name
    of `take`, or that would write outside of its folder. ValueError for a full disk.
    """
    draft = draft_of(root, path.name)
    clear_draft(draft)
    try:
        with tqdm(
            desc=f"unpack {path.name}",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None if progress else True,
        ) as bar:
            (_unzip if zipfile.is_zipfile(path) or path.suffix == ".zip" else _untar)(path, draft, bar)
        absent = [name for name, _ in take if not (draft / name).exists()]
        if absent:
            raise Damaged(f"{path}: holds no {' and no '.join(absent)}")
        for name, place in take:
            _move(draft / name, root / place)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        clear_draft(draft)
        raise Damaged(f"{path}: {error}") from error
    except OSError as error:
        clear_draft(draft)
        raise ValueError(
            f"{error.filename or draft}: {error.strerror or error}, while {path.name} was unpacked; "
            "make room, or mend it, and run the same command again"
        ) from error
    shutil.rmtree(draft)


def _untar(path: Path, draft: Path, bar: tqdm) -> None:
    """Python's "data" filter refuses links and names that lead outside, and devices."""
    bar.total = path.stat().st_size
    with tarfile.open(path) as archive:
        for member in archive:
            archive.extract(member, draft, filter="data")
            bar.update(member.size)


def _unzip(path: Path, draft: Path, bar: tqdm) -> None:
    """zipfile compares each file with its CRC, and would quietly bend names that lead outside: they are no honest archive's."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        bar.total = sum(member.file_size for member in members)
        for member in members:
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in member.orig_filename:
                raise Damaged(f"{path}: {member.filename!r} would be written outside of its folder")
        for member in members:
            archive.extract(member, draft)
            bar.update(member.file_size)


def _move(source: Path, target: Path) -> None:
    """A file replaces a file; a folder becomes part of a folder, as VOC2007's test images join those of trainval."""
    if source.is_dir() and target.is_dir():
        for name in os.listdir(source):
            _move(source / name, target / name)
        return
    if target.is_dir():
        raise IsADirectoryError(0, "a folder stands where a file belongs", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
