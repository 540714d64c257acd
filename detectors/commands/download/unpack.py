"""Unpacks archives atomically: first into a draft folder beside the target, then by moving each file.

The draft folder is created first and removed last. If one is left, unpacking was interrupted and is repeated.
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

from detectors.commands.download.fetch import byte_bar


class DamagedArchive(ValueError):
    """An archive that differs from the published one."""


def draft_of(root: Path, archive: str) -> Path:
    return root / f".unpacking-{archive}"


def clear_draft(draft: Path) -> None:
    """Leaves an empty folder."""
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, exist_ok=True)


def unpack(path: Path, root: Path, contents: Sequence[tuple[str, str]], *, progress: bool = True) -> None:
    """Moves files and folders of an archive to their places below root. Existing files are replaced.

    contents: (path in the archive, path below root). Raises DamagedArchive if the archive is truncated, has a
    wrong checksum, lacks a path of `contents` or would write outside its folder. Raises ValueError if the
    disk is full.
    """
    draft = draft_of(root, path.name)
    clear_draft(draft)
    try:
        _extract(path, draft, progress)
        missing = [name for name, _ in contents if not (draft / name).exists()]
        if missing:
            raise DamagedArchive(f"{path}: holds no {' and no '.join(missing)}")
        for name, target in contents:
            _move(draft / name, root / target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        clear_draft(draft)
        raise DamagedArchive(f"{path}: {error}") from error
    except OSError as error:
        clear_draft(draft)
        raise ValueError(
            f"{error.filename or draft}: {error.strerror or error}, while unpacking {path.name}; "
            "make room or fix the cause, then run the same command again"
        ) from error
    shutil.rmtree(draft)


def _extract(path: Path, draft: Path, progress: bool) -> None:
    extract = _extract_zip if zipfile.is_zipfile(path) or path.suffix == ".zip" else _extract_tar
    with byte_bar(f"unpack {path.name}", progress) as bar:
        extract(path, draft, bar)


def _extract_tar(path: Path, draft: Path, bar: tqdm) -> None:
    """Python's "data" filter refuses devices, and links and names that lead outside the folder."""
    bar.total = path.stat().st_size
    with tarfile.open(path) as archive:
        for member in archive:
            archive.extract(member, draft, filter="data")
            bar.update(member.size)


def _extract_zip(path: Path, draft: Path, bar: tqdm) -> None:
    """Verifies the CRC of each file, and refuses names that lead outside the folder.

    zipfile would silently rewrite such names, but no honest archive has them.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        bar.total = sum(member.file_size for member in members)
        for member in members:
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in member.orig_filename:
                raise DamagedArchive(f"{path}: {member.filename!r} would be written outside its folder")
        for member in members:
            archive.extract(member, draft)
            bar.update(member.file_size)


def _move(source: Path, target: Path) -> None:
    """A file replaces a file. A folder is merged: VOC2007's test images join those of trainval."""
    if source.is_dir() and target.is_dir():
        for name in os.listdir(source):
            _move(source / name, target / name)
        return
    if target.is_dir():
        raise IsADirectoryError(0, "a folder stands where a file belongs", str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
