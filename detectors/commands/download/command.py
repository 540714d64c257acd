"""Downloads data sets to where conf/data/*.yaml look for them: detectors download bccd [paths.data=/big]"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from detectors.commands.download.fetch import RESUME_HINT, Part, fetch
from detectors.commands.download.sources import SOURCES, Archive, DataSource
from detectors.commands.download.unpack import DamagedArchive, clear_draft, draft_of, unpack
from detectors.config.composing import composed
from detectors.config.entry import verb
from detectors.data.suggestions import did_you_mean


@verb
def main(arguments: list[str] | None = None) -> None:
    args = _arguments(arguments)
    overrides = [name for name in args.names if "=" in name]
    sources = select_sources([name for name in args.names if "=" not in name], SOURCES)
    roots = {name: root_of(source, overrides) for name, source in sources.items()}
    try:
        download(sources, roots, keep_archives=args.keep_archives)
    except KeyboardInterrupt as stop:
        print(f"stopped; {RESUME_HINT}", file=sys.stderr)
        raise SystemExit(130) from stop
    for name, source in sources.items():
        command = " ".join(["python train.py", f"data={source.config}", *overrides])
        print(f"{name}: in {roots[name]}; to use it: {command}{source.remark}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    sizes = {name: sum(archive.size for archive in source.archives) for name, source in SOURCES.items()}
    listed = ", ".join(f"{name} ({gigabytes(size)})" for name, size in sizes.items())
    parser = argparse.ArgumentParser(
        prog="detectors download", description=f"Downloads and unpacks data sets: {listed}."
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a data set, or paths.data=/FOLDER as for train.py"
    )
    parser.add_argument("--keep-archives", action="store_true", help="keep the archives after unpacking")
    return parser.parse_intermixed_args(arguments)


def select_sources(names: Sequence[str], sources: Mapping[str, DataSource]) -> dict[str, DataSource]:
    """The named sources, each once. ValueError: a name is unknown, or there is none."""
    if not names:
        raise ValueError(f"name a data set to download; there are: {', '.join(sources)}")
    for name in names:
        if name not in sources:
            hint = did_you_mean(name, sources, listed=True)
            raise ValueError(f"{name}: not a data set that can be downloaded{hint}")
    return {name: sources[name] for name in dict.fromkeys(names)}


def root_of(source: DataSource, overrides: Sequence[str]) -> Path:
    """data.root of the set's yaml file, where train.py looks for it with the same overrides."""
    for override in overrides:
        if not override.startswith("paths."):
            raise ValueError(f"{override}: only paths.* settings are allowed here; set paths.data=/FOLDER")
    config = composed([f"data={source.config}", *overrides])
    return Path(config["data"]["root"]).absolute()


def download(
    sources: Mapping[str, DataSource],
    roots: Mapping[str, Path],
    *,
    keep_archives: bool = False,
    progress: bool = True,
) -> None:
    """Fetches and unpacks the missing archives of each data set. A complete set needs no request.

    roots: name -> folder. Raises ValueError if the disk is too small, a server refuses, an archive differs
    from the published one, or another download into the same folder is running.
    """
    missing = {name: missing_archives(source, roots[name]) for name, source in sources.items()}
    for name, archives in missing.items():
        if not archives:
            print(f"{name}: already complete, nothing to do")
    missing = {name: archives for name, archives in missing.items() if archives}
    with contextlib.ExitStack() as stack:
        for root in dict.fromkeys(roots[name] for name in missing):
            stack.enter_context(locked(root))
        check_space(
            [(roots[name], archive) for name, archives in missing.items() for archive in archives],
            keep_archives,
        )
        for name, archives in missing.items():
            source = sources[name]
            print(f"{source.title}: {source.page}\n  {source.terms}", flush=True)
            for archive in archives:
                install(archive, roots[name], keep_archives=keep_archives, progress=progress)


def missing_archives(source: DataSource, root: Path) -> list[Archive]:
    """Archives with missing files or whose unpacking was interrupted."""
    return [
        archive
        for archive in source.archives
        if draft_of(root, archive.name).exists() or not archive.is_complete(root)
    ]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keeps a second download out of the folder, which would write the same part.

    The lock is on the folder itself and ends with the process.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise ValueError(f"{root}: {error.strerror}; set paths.data=/FOLDER to a writable folder") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(
            f"{root}: another download into this folder is running; wait for it or stop it"
        ) from error
    except OSError:
        pass  # some network file systems do not support locks
    try:
        yield
    finally:
        os.close(handle)


def check_space(wanted: Sequence[tuple[Path, Archive]], keep_archives: bool) -> None:
    """Raises ValueError that names each disk with too little space. First empties drafts that were left.

    wanted: (root of the data set, archive) in the order in which they will be unpacked.
    """
    disks: dict[int, list[tuple[Path, Archive]]] = {}
    for root, archive in wanted:
        draft = draft_of(root, archive.name)
        if draft.exists():
            clear_draft(draft)
        disks.setdefault(os.stat(root).st_dev, []).append((root, archive))
    problems = []
    for disk in disks.values():
        needed = space_needed(disk, keep_archives)
        free = shutil.disk_usage(disk[0][0]).free
        if needed > free:
            folders = " and ".join(dict.fromkeys(str(root) for root, _ in disk))
            problems.append(
                f"{folders}: {gigabytes(needed)} needed, {gigabytes(free)} free; "
                "make room, or choose another disk with paths.data=/FOLDER"
            )
    if problems:
        raise ValueError("\n".join(problems))


def space_needed(wanted: Sequence[tuple[Path, Archive]], keep_archives: bool) -> int:
    """Bytes still needed on disk at the peak. Unless keep_archives, each archive is removed once unpacked."""
    used = 0
    peak = 0
    for root, archive in wanted:
        used += max(0, archive.size - downloaded_bytes(archive, root)) + archive.unpacked
        peak = max(peak, used)
        if not keep_archives:
            used -= archive.size
    return peak


def downloaded_bytes(archive: Archive, root: Path) -> int:
    """Bytes of the archive on disk."""
    target = root / archive.name
    return target.stat().st_size if target.exists() else Part(target, archive.url).bytes_on_disk


def install(archive: Archive, root: Path, *, keep_archives: bool, progress: bool) -> None:
    """Fetches, verifies and unpacks an archive. Removes a damaged one: the next call fetches it again."""
    target = root / archive.name
    if not target.exists():
        print(f"  {archive.url} ({gigabytes(archive.size)})", flush=True)
        fetch(archive.url, target, max_bytes=2 * archive.size, progress=progress)
    try:
        verify_checksum(target, archive.md5)
        unpack(target, root, archive.contents, max_bytes=2 * archive.unpacked, progress=progress)
    except DamagedArchive as error:
        target.unlink()
        raise ValueError(
            f"{error}; the file was removed. Run the same command again; if this error comes back, "
            f"{archive.url} has changed since it was published, or a proxy alters it"
        ) from error
    if not archive.is_complete(root):
        raise ValueError(f"{target}: unpacked into {root}, but files are missing; is the archive complete?")
    if not keep_archives:
        target.unlink()


def verify_checksum(path: Path, md5: str | None) -> None:
    """Raises DamagedArchive if the MD5 checksum differs. md5: None skips the check."""
    if md5 is None:
        return
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != md5:
        raise DamagedArchive(f"{path}: its MD5 checksum is {actual}, the published one is {md5}")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
