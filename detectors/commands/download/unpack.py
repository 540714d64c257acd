"""Unpacks archives atomically: first into a draft folder beside the target, then by moving each file.

The draft folder is created first and removed last. If one is left, unpacking was interrupted and is repeated.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tqdm import tqdm

from detectors.commands.download.fetch import byte_bar

MAX_RATIO = 100  # bytes unpacked for each byte of the archive; COCO's annotations have 4
MAX_MEMBERS = 1_000_000  # COCO's train2017 has 118,288
FILE_TYPES = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: not given, as by an archive from Windows
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # unpacked block by block; others take any memory
# What the libraries raise for a file that is damaged; struct.error and the last two for odd headers.
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    RuntimeError,
    ValueError,
    OverflowError,
)


class DamagedArchive(ValueError):
    """An archive that differs from the published one."""


def draft_of(root: Path, archive: str) -> Path:
    return root / f".unpacking-{archive}"


def clear_draft(draft: Path) -> None:
    """Leaves an empty folder."""
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, exist_ok=True)


class Member(NamedTuple):
    """A file or folder of an archive, as its header describes it."""

    name: str
    size: int  # bytes
    fault: str | None = None  # why it is refused


def unpack(
    path: Path,
    root: Path,
    contents: Sequence[tuple[str, str]],
    *,
    max_bytes: int | None = None,
    progress: bool = True,
) -> None:
    """Moves files and folders of an archive to their places below root. Existing files are replaced.

    contents: (path in the archive, path below root). max_bytes: of all files together, besides MAX_RATIO.
    Raises DamagedArchive if the archive is truncated, has a wrong checksum, lacks a path of `contents`, would
    write outside its folder or too many bytes, or holds anything but files and folders. Raises ValueError if
    the disk is full.
    """
    draft = draft_of(root, path.name)
    clear_draft(draft)
    try:
        _extract(path, draft, min(MAX_RATIO * path.stat().st_size, max_bytes or 2**63), progress)
        missing = [name for name, _ in contents if not (draft / name).exists()]
        if missing:
            raise DamagedArchive(f"{path}: holds no {' and no '.join(missing)}")
        for name, target in contents:
            _move(draft / name, root / target)
    except DamagedArchive:
        clear_draft(draft)
        raise
    except DAMAGE as error:
        clear_draft(draft)
        raise DamagedArchive(f"{path}: {error}") from error
    except OSError as error:
        clear_draft(draft)
        if error.errno == errno.EINVAL and error.filename is None:  # a header that leads before the file
            raise DamagedArchive(f"{path}: {error}") from error
        raise ValueError(
            f"{error.filename or draft}: {error.strerror or error}, while unpacking {path.name}; "
            "make room or fix the cause, then run the same command again"
        ) from error
    shutil.rmtree(draft)


def _extract(path: Path, draft: Path, max_bytes: int, progress: bool) -> None:
    """Checks all headers, then extracts. No file can become larger than its header says."""
    extract = _extract_zip if zipfile.is_zipfile(path) or path.suffix == ".zip" else _extract_tar
    with byte_bar(f"unpack {path.name}", progress) as bar:
        extract(path, draft, max_bytes, bar)


def _extract_tar(path: Path, draft: Path, max_bytes: int, bar: tqdm) -> None:
    """Uncompressed only, so that the file limits what its headers can hold."""
    with tarfile.open(path, "r:") as archive:
        bar.total = _check(path, map(_tar_member, archive), max_bytes)
        for member in archive.getmembers():
            archive.extract(member, draft, filter="data")
            bar.update(member.size)


def _extract_zip(path: Path, draft: Path, max_bytes: int, bar: tqdm) -> None:
    """Verifies the CRC of each file."""
    with zipfile.ZipFile(path) as archive:
        bar.total = _check(path, map(_zip_member, archive.infolist()), max_bytes)
        for member in archive.infolist():
            archive.extract(member, draft)
            bar.update(member.file_size)


def _tar_member(member: tarfile.TarInfo) -> Member:
    fault = None
    if not (member.isreg() or member.isdir()):
        fault = _special(is_link=member.issym() or member.islnk())
    elif member.issparse():
        fault = "is a sparse file"
    return Member(member.name, member.size, fault)


def _zip_member(member: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(member.external_attr >> 16)
    fault = None
    if "\\" in member.orig_filename:
        fault = "would be written outside its folder"
    elif kind not in FILE_TYPES:
        fault = _special(is_link=kind == stat.S_IFLNK)
    elif member.compress_type not in ZIP_METHODS:
        fault = f"is compressed by method {member.compress_type}; data sets use deflate"
    elif member.flag_bits & 1:
        fault = "is encrypted"
    return Member(member.filename, member.file_size, fault)


def _special(*, is_link: bool) -> str:
    return f"is {'a link' if is_link else 'a device or pipe'}, which could lead outside its folder"


def _check(path: Path, members: Iterable[Member], max_bytes: int) -> int:
    """The bytes of all members. DamagedArchive names the first that is refused; nothing is written before.

    The libraries would rewrite a name that leads outside, but no honest archive has one.
    """
    total = 0
    for number, member in enumerate(members, 1):
        name = PurePosixPath(member.name)
        fault = member.fault
        if name.is_absolute() or ".." in name.parts:
            fault = "would be written outside its folder"
        total += member.size
        if member.size < 0 or total > max_bytes:
            fault = (
                f"has {member.size:,} bytes: the archive's {path.stat().st_size:,} bytes would become more "
                f"than {max_bytes:,}, which no data set needs"
            )
        if number > MAX_MEMBERS:
            fault = f"is number {number:,}; data sets have fewer files"
        if fault:
            raise DamagedArchive(f"{path}: {member.name[:200]!r} {fault}")
    return total


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
