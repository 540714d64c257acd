"""Downloads data sets to where conf/data/*.yaml expect them: detectors download voc2007 voc2012 [paths.data=/big/disk]."""

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

from detectors.commands.download.fetch import RESUMED, Part, fetch
from detectors.commands.download.sources import SOURCES, Archive, DataSource
from detectors.commands.download.unpack import Damaged, clear_draft, draft_of, unpack
from detectors.config.entry import verb
from detectors.config.schema import composed
from detectors.data.suggestions import did_you_mean

Plan = tuple[Path, list[Archive]]  # a data set's root, and the archives that it lacks


@verb
def main(arguments: list[str] | None = None) -> None:
    listed = ", ".join(
        f"{name} ({gigabytes(sum(a.size for a in source.archives))})" for name, source in SOURCES.items()
    )
    parser = argparse.ArgumentParser(
        prog="detectors download", description=f"Downloads and unpacks: {listed}."
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a data set; or paths.data=/FOLDER, as for train.py"
    )
    parser.add_argument(
        "--keep-archives", action="store_true", help="leave the archives beside what was unpacked of them"
    )
    asked = parser.parse_intermixed_args(arguments)
    overrides = [word for word in asked.names if "=" in word]
    sources = chosen([word for word in asked.names if word not in overrides], SOURCES)
    roots = {name: root_of(source, overrides) for name, source in sources.items()}
    try:
        download(sources, roots, keep_archives=asked.keep_archives)
    except KeyboardInterrupt as stop:
        print(f"stopped; {RESUMED}", file=sys.stderr)
        raise SystemExit(130) from stop
    for name, source in sources.items():
        print(
            f"{name}: in {roots[name]}; to use it: python train.py {' '.join([f'data={source.config}', *overrides])}{source.remark}"
        )


def chosen(names: Sequence[str], sources: Mapping[str, DataSource]) -> dict[str, DataSource]:
    """ValueError for a name that is not among the sources."""
    if not names:
        raise ValueError(f"no data set is named; there are: {', '.join(sources)}")
    for name in names:
        if name not in sources:
            raise ValueError(
                f"{name}: no data set of this name can be downloaded{did_you_mean(name, sources, listed=True)}"
            )
    return {name: sources[name] for name in dict.fromkeys(names)}


def root_of(source: DataSource, overrides: Sequence[str]) -> Path:
    """data.root of the data set's yaml: whoever trains with the same overrides finds it there."""
    for override in overrides:
        if not override.startswith("paths."):
            raise ValueError(f"{override}: only paths.* says where data sets lie; set paths.data=/FOLDER")
    return Path(composed([f"data={source.config}", *overrides])["data"]["root"]).absolute()


def download(
    sources: Mapping[str, DataSource],
    roots: Mapping[str, Path],
    *,
    keep_archives: bool = False,
    progress: bool = True,
) -> None:
    """Fetches and unpacks what is missing of each data set. Without a request where nothing is.

    ValueError for a full disk, a server that refuses, an archive that is not what was published, another download into the same folder.
    """
    plans = {}
    for name, source in sources.items():
        if not missing(source, roots[name]):
            print(f"{name}: all of it is there, nothing to do")
            continue
        plans[name] = (roots[name], missing(source, roots[name]))
    with contextlib.ExitStack() as stack:
        for root in dict.fromkeys(root for root, _ in plans.values()):
            stack.enter_context(locked(root))
        check_space(list(plans.values()), keep_archives)
        for name, (root, archives) in plans.items():
            print(f"{sources[name].title}: {sources[name].page}\n  {sources[name].terms}", flush=True)
            for archive in archives:
                get(archive, root, keep_archives=keep_archives, progress=progress)


def missing(source: DataSource, root: Path) -> list[Archive]:
    """Archives of which something is not there, or whose unpacking was cut off."""
    return [
        archive
        for archive in source.archives
        if draft_of(root, archive.name).exists() or not archive.there(root)
    ]


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Two downloads into one folder would write the same part. The lock is on the folder itself and ends with the process."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    except OSError as error:
        raise ValueError(
            f"{root}: {error.strerror}; name a folder that can be written with paths.data=/FOLDER"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(
            f"{root}: another download into this folder is under way; wait for it, or end it"
        ) from error
    except OSError:
        pass  # some network file systems have no locks
    try:
        yield
    finally:
        os.close(handle)


def check_space(plans: Sequence[Plan], keep_archives: bool) -> None:
    """ValueError that says for each disk what is needed, what is free, and what to do."""
    disks: dict[int, list[tuple[Path, Archive]]] = {}
    for root, archives in plans:
        for archive in archives:
            if draft_of(root, archive.name).exists():
                clear_draft(draft_of(root, archive.name))
            disks.setdefault(os.stat(root).st_dev, []).append((root, archive))
    short = []
    for wanted in disks.values():
        needed, free = space_needed(wanted, keep_archives), shutil.disk_usage(wanted[0][0]).free
        if needed > free:
            where = " and ".join(str(root) for root in dict.fromkeys(root for root, _ in wanted))
            what = f"{gigabytes(needed)} are needed, and {gigabytes(free)} are free"
            short.append(f"{where}: {what}; make room, or name another disk with paths.data=/FOLDER")
    if short:
        raise ValueError("\n".join(short))


def space_needed(wanted: Sequence[tuple[Path, Archive]], keep_archives: bool) -> int:
    """bytes: the most that is taken at any time, if each archive goes once it is unpacked. What has been fetched is taken already."""
    taken = most = 0
    for root, archive in wanted:
        taken += max(0, archive.size - fetched(archive, root)) + archive.unpacked
        most = max(most, taken)
        taken -= 0 if keep_archives else archive.size
    return most


def fetched(archive: Archive, root: Path) -> int:
    """bytes of it on the disk"""
    target = root / archive.name
    return target.stat().st_size if target.exists() else Part(target, archive.url).have


def get(archive: Archive, root: Path, *, keep_archives: bool, progress: bool) -> None:
    """One archive, fetched, checked and unpacked. One that is not what was published is removed, so that another call fetches it anew."""
    target = root / archive.name
    if not target.exists():
        print(f"  {archive.url} ({gigabytes(archive.size)})", flush=True)
        fetch(archive.url, target, progress=progress)
    try:
        check_sum(target, archive.md5)
        unpack(target, root, archive.take, progress=progress)
    except Damaged as error:
        target.unlink()
        advice = f"run the same command again; if this comes back, {archive.url} is no longer what was published, or a proxy changed it"
        raise ValueError(f"{error}; the file was removed. To go on, {advice}") from error
    if not archive.there(root):
        raise ValueError(
            f"{target}: was unpacked into {root}, but not all that belongs there came out of it; is it the whole archive?"
        )
    if not keep_archives:
        target.unlink()


def check_sum(path: Path, md5: str | None) -> None:
    """Damaged if it is another than published."""
    if md5 is None:
        return
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise Damaged(f"{path}: its MD5 checksum is {found}, and {md5} was published")


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
