"""Decoded images kept, in memory or on disk, and shared by all loading processes: each is decoded once, by whoever needs it first."""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detectors.annotations import Annotations

IMAGE_CACHE_VERSION = 1  # of the file's layout and of the decoder
MARK_BYTES = 4  # of one image's mark
SAMPLED = (
    1021  # every so manieth byte of an image goes into its mark: four and more of each page of 4,096 bytes
)
MEMORY_MARGIN = 1 << 30  # bytes of memory that stay free for everything else
DISK_MARGIN = 1 << 28
MEMORY_LIMITS = (  # of a container: bytes allowed, bytes used (cgroup v2, v1)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class ImageCache:
    """One file that every process maps: a mark for each image, then the pixels, each image at a place that its annotated size gives it.

    A mark is 0 until its image has been written, then a checksum of some of its bytes: an image that another process is still writing, or
    that a power cut left half on disk, does not match its mark and is decoded anew. An image whose size is not the annotated one has
    no place here. Images go in and out as copies.
    """

    def __init__(self, path: str, sizes: np.ndarray, handle: int | None = None):
        """path: of a file of the right length, see open_cache. sizes: (N, 2) (height, width). handle: kept open as long as this object."""
        self.path, self.sizes = path, sizes
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        self._map()

    def _map(self) -> None:
        ends = MARK_BYTES * len(self.sizes) + np.cumsum(self.sizes.prod(1) * 3)
        self.starts = np.concatenate([[MARK_BYTES * len(self.sizes)], ends]).astype(
            np.int64
        )  # (N + 1,) places in the file
        self.bytes = np.memmap(self.path, mode="r+", shape=(int(self.starts[-1]),))
        self.marks = self.bytes[: self.starts[0]].view(np.uint32)  # (N,)

    def __getstate__(self) -> dict:
        return {"path": self.path, "sizes": self.sizes}  # another process maps the same file

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()

    def get(self, row: int) -> np.ndarray | None:
        """(h, w, 3) uint8, or None if the image is not here."""
        mark = int(self.marks[row])
        if not mark:
            return None
        image = np.array(self.bytes[self.starts[row] : self.starts[row + 1]])
        return image.reshape(*self.sizes[row], 3) if mark == _mark(image) else None

    def put(self, row: int, image: np.ndarray) -> None:
        """The mark last, so that whoever sees it finds the pixels."""
        if image.shape[:2] == tuple(self.sizes[row]):
            pixels = np.ascontiguousarray(image).reshape(-1)
            self.bytes[self.starts[row] : self.starts[row + 1]] = pixels
            self.marks[row] = _mark(pixels)


def open_cache(kind: str, annotations: Annotations, folder: Path | str) -> ImageCache | None:
    """kind: "none", "ram" or "disk" (a file in `folder`, found again by the next run with the same images, half filled or full).

    The space is taken at once, so that nothing can run out of it later. ValueError if there is not enough.
    """
    if kind == "none" or not len(annotations):
        return None
    need = int(annotations.sizes.prod(1).sum()) * 3 + MARK_BYTES * len(annotations)
    if kind == "ram":
        return _in_memory(annotations.sizes, need)
    if kind == "disk":
        return _on_disk(annotations, need, Path(folder))
    raise ValueError(f"data.image_cache={kind!r}: choose none, ram or disk")


def _in_memory(sizes: np.ndarray, need: int) -> ImageCache:
    """A file without a name: memory that the system takes back when the last process that has it ends, however it ends."""
    if not hasattr(os, "memfd_create"):
        raise ValueError("data.image_cache=ram: needs Linux; set data.image_cache=disk or none")
    _check_space("ram", need, free_memory() - MEMORY_MARGIN, "memory")
    handle = os.memfd_create("decoded images")
    _reserve(handle, need, "ram")
    return ImageCache(f"/proc/{os.getpid()}/fd/{handle}", sizes, handle)


def _on_disk(annotations: Annotations, need: int, folder: Path) -> ImageCache:
    path = folder / f"{images_fingerprint(annotations.paths, annotations.sizes)}.pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        what = f"{folder} cannot be written ({error.strerror})"
        raise ValueError(
            f"data.image_cache=disk: {what}; set paths.cache to another folder, or data.image_cache=ram or none"
        ) from error
    try:
        there = os.fstat(handle).st_blocks * 512
        _check_space(
            "disk", need - there, shutil.disk_usage(folder).free - DISK_MARGIN, f"the disk of {folder}"
        )
        _reserve(handle, need, "disk")
    except ValueError:
        if not there:
            path.unlink()
        raise
    finally:
        os.close(handle)
    return ImageCache(str(path), annotations.sizes)


def images_fingerprint(paths: Sequence[str], sizes: np.ndarray) -> str:
    """Changes with any file's path, length or time of change, and with any annotated size."""
    whole = hashlib.sha256(f"{IMAGE_CACHE_VERSION}\n".encode())
    for path in paths:
        whole.update(f"{path}\0{_stamp(path)}\n".encode("utf-8", "surrogatepass"))
    whole.update(np.ascontiguousarray(sizes, dtype=np.int64).tobytes())
    return whole.hexdigest()[:24]


def free_memory() -> int:
    """Bytes that this process and its children may still take: the machine's, or its container's if that is less."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    for limit, used in MEMORY_LIMITS:
        try:
            allowed = Path(limit).read_text().strip()
            free = min(free, int(allowed) - int(Path(used).read_text())) if allowed != "max" else free
        except (OSError, ValueError):
            continue
    return free


def _check_space(kind: str, need: int, free: int, where: str) -> None:
    if need > free:
        other = "disk or none" if kind == "ram" else "none"
        what = f"the decoded images take {need / 1e9:.1f} GB, and {where} has room for {max(free, 0) / 1e9:.1f} GB"
        raise ValueError(
            f"data.image_cache={kind}: {what}; set data.image_cache={other}, free some, or store the images smaller"
        )


def _reserve(handle: int, need: int, kind: str) -> None:
    """Makes the file as long as it must be, with zeros where it was not; what it holds already stays."""
    try:
        os.posix_fallocate(handle, 0, need) if hasattr(os, "posix_fallocate") else os.ftruncate(handle, need)
    except OSError as error:
        raise ValueError(
            f"data.image_cache={kind}: no room for {need / 1e9:.1f} GB ({error.strerror}); set data.image_cache=none"
        ) from error


def _mark(pixels: np.ndarray) -> int:
    """(n,) uint8 -> a checksum that is never 0."""
    return zlib.crc32(np.ascontiguousarray(pixels[::SAMPLED])) | 1


def _stamp(path: str) -> tuple[int, int]:
    """(bytes, nanoseconds since 1970) of a file; zeros for one that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
