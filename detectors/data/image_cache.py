"""A cache of decoded images, in memory or on disk, shared by all loading processes. Each is decoded once."""

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

IMAGE_CACHE_VERSION = 1  # increase it when the file's layout or the decoder changes
MARK_BYTES = 4  # size of an image's mark
CHECKSUM_STRIDE = 1021  # bytes; at least four bytes of each 4,096-byte page enter the checksum
MEMORY_MARGIN = 1 << 30  # bytes of memory that must stay free
DISK_MARGIN = 1 << 28  # bytes of disk space that must stay free
MEMORY_LIMITS = (  # of a container: files with the bytes allowed and the bytes used (cgroup v2, v1)
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class ImageCache:
    """A file that every process maps: a mark for each image, then the pixels of all images.

    The position of an image follows from the annotated sizes. A mark is 0 until its image is written, then a
    checksum of some of its bytes. An image that another process is still writing, or that a power cut left
    incomplete on disk, does not match its mark and is decoded again. An image whose size differs from its
    annotation is not cached. Images are copied in and out.
    """

    def __init__(self, path: str, sizes: np.ndarray, handle: int | None = None):
        """path: a file of the right length, see open_cache. sizes: (N, 2) (height, width).

        handle: a file descriptor that is closed together with this object.
        """
        self.path = path
        self.sizes = sizes
        if handle is not None:
            weakref.finalize(self, os.close, handle)
        self._map()

    def _map(self) -> None:
        marks_end = MARK_BYTES * len(self.sizes)
        ends = marks_end + np.cumsum(self.sizes.prod(1) * 3)
        self.starts = np.concatenate([[marks_end], ends]).astype(np.int64)  # (N + 1,) offsets in the file
        self.bytes = np.memmap(self.path, mode="r+", shape=(int(self.starts[-1]),))
        self.marks = self.bytes[: self.starts[0]].view(np.uint32)  # (N,)

    def __getstate__(self) -> dict:
        return {"path": self.path, "sizes": self.sizes}  # another process maps the same file

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._map()

    def get(self, row: int) -> np.ndarray | None:
        """(h, w, 3) uint8, or None if the image is not in the cache."""
        mark = int(self.marks[row])
        if not mark:
            return None
        image = np.array(self.bytes[self.starts[row] : self.starts[row + 1]])
        return image.reshape(*self.sizes[row], 3) if mark == _mark(image) else None

    def put(self, row: int, image: np.ndarray) -> None:
        """Store an image of its annotated size; ignore any other. The mark is written after the pixels."""
        if image.shape[:2] == tuple(self.sizes[row]):
            pixels = np.ascontiguousarray(image).reshape(-1)
            self.bytes[self.starts[row] : self.starts[row + 1]] = pixels
            self.marks[row] = _mark(pixels)


def open_cache(kind: str, annotations: Annotations, folder: Path | str) -> ImageCache | None:
    """kind: "none", "ram", or "disk" (a file in `folder`, which the next run with the same images continues).

    All space is reserved at once, so that it cannot run out later. ValueError if there is not enough.
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
    """An anonymous file in memory. The system frees it when its last process ends, even if that is killed."""
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
        raise ValueError(
            f"data.image_cache=disk: {folder} cannot be written ({error.strerror}); "
            "set paths.cache to another folder, or data.image_cache=ram or none"
        ) from error
    try:
        allocated = os.fstat(handle).st_blocks * 512
        free = shutil.disk_usage(folder).free - DISK_MARGIN
        _check_space("disk", need - allocated, free, f"the disk of {folder}")
        _reserve(handle, need, "disk")
    except ValueError:
        if not allocated:
            path.unlink()
        raise
    finally:
        os.close(handle)
    return ImageCache(str(path), annotations.sizes)


def images_fingerprint(paths: Sequence[str], sizes: np.ndarray) -> str:
    """A hash of the paths, lengths and modification times of the files, and of the annotated sizes."""
    digest = hashlib.sha256(f"{IMAGE_CACHE_VERSION}\n".encode())
    for path in paths:
        digest.update(f"{path}\0{_length_and_time(path)}\n".encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(sizes, dtype=np.int64).tobytes())
    return digest.hexdigest()[:24]


def free_memory() -> int:
    """Bytes that can still be allocated: of the machine, or of the container if that has fewer."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    for limit_file, used_file in MEMORY_LIMITS:
        try:
            limit = Path(limit_file).read_text().strip()
            if limit != "max":
                free = min(free, int(limit) - int(Path(used_file).read_text()))
        except (OSError, ValueError):
            continue
    return free


def _check_space(kind: str, need: int, free: int, where: str) -> None:
    if need > free:
        other = "disk or none" if kind == "ram" else "none"
        raise ValueError(
            f"data.image_cache={kind}: the decoded images take {need / 1e9:.1f} GB, and {where} has room for "
            f"{max(free, 0) / 1e9:.1f} GB; set data.image_cache={other}, free some, or use smaller images"
        )


def _reserve(handle: int, need: int, kind: str) -> None:
    """Extend the file to `need` bytes with zeros; keep what it already contains."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, need)
        else:
            os.ftruncate(handle, need)
    except OSError as error:
        what = f"no room for {need / 1e9:.1f} GB ({error.strerror})"
        raise ValueError(f"data.image_cache={kind}: {what}; set data.image_cache=none") from error


def _mark(pixels: np.ndarray) -> int:
    """(n,) uint8 -> a checksum that is never 0."""
    return zlib.crc32(np.ascontiguousarray(pixels[::CHECKSUM_STRIDE]).data) | 1


def _length_and_time(path: str) -> tuple[int, int]:
    """(bytes, modification time in nanoseconds since 1970) of a file; zeros for a missing file."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
