"""What a scan of a data set found, kept in a file: parsing COCO's training set takes seconds, reading the arrays a fraction of one.

A file is valid as long as the names, sizes and times of everything that was read are the same. Known limit: a file that is rewritten with
the same length within one tick of the file system's clock, and an image that is replaced in place, look the same.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import tempfile
import time
import zipfile
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detectors.annotations import Annotations, Texts
from detectors.data.problems import Problem

CACHE_FORMAT = (
    2  # raise it with every change of what a scan returns for the same files, and of the layout of the file
)
MAGIC = b"detectors annotations %d\n" % CACHE_FORMAT
DIGEST = 32  # bytes
ARRAYS = ("sizes", "offsets", "boxes_original", "labels", "difficult", "crowd", "areas")
Scanned = tuple[Annotations, list[Problem]]

logger = logging.getLogger(__name__)


def cached(
    scan: Callable[..., Scanned],
    sources: Callable[..., Iterable[os.PathLike]],
    *,
    folder: str | os.PathLike | None,
    class_names: list[str] | None,
    **places: Any,
) -> Scanned:
    """scan(class_names=class_names, **places), or what it gave the last time.

    sources: with the same `places`, all files that the scan reads and all folders that it lists, as paths or entries of os.scandir.
    folder: where the files of this cache lie; None scans anew. What cannot be read or written there costs time, and nothing else.
    """
    arguments = places | {"class_names": class_names}
    try:
        key = None if folder is None else files_fingerprint(sources(**places))
    except OSError:
        key = None  # the scan knows better what to say about a missing file
    if key is None:
        return scan(**arguments)
    path = Path(folder) / f"{_name(scan.__name__, arguments)}.annotations"
    if (found := read_cache(path, key)) is not None:
        return found
    started = time.monotonic()
    found = scan(**arguments)
    if write_cache(path, key, found):
        logger.info("read %d images (%.1f s); kept in %s", len(found[0]), time.monotonic() - started, path)
    return found


def files_fingerprint(sources: Iterable[os.PathLike]) -> str:
    """A hash of names, sizes and times. OSError for a file that is not there."""
    stamps = []
    for source in sources:
        status = source.stat()
        stamps.append(f"{os.path.abspath(source)}\0{status.st_size}\0{status.st_mtime_ns}")
    return _hash("\n".join(sorted(stamps)))


def _name(reader: str, arguments: dict[str, Any]) -> str:
    """One file for each data set, split and choice of classes: a changed set overwrites its own.

    A relative place counts both as it is given, since the paths of the images begin with it, and as the place that it means here.
    """
    plain = {
        name: [os.fspath(value), os.path.abspath(value)] if isinstance(value, os.PathLike) else value
        for name, value in arguments.items()
    }
    return f"{reader}-{_hash(json.dumps(plain, sort_keys=True, default=list))[:DIGEST]}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).hexdigest()


def write_cache(path: Path, key: str, found: Scanned) -> bool:
    """Whether it was written: under a temporary name that is then changed, so that nobody ever reads half of it."""
    content = pack(key, found)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=".annotations-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(draft, 0o644)  # mkstemp's files are the owner's alone
            os.replace(draft, path)
        except OSError:
            os.unlink(draft)
            raise
    except OSError as error:
        _warn_unwritable(str(path.parent), error.strerror)
        return False
    return True


@functools.cache  # once for each folder, not for each split
def _warn_unwritable(folder: str, reason: str) -> None:
    logger.warning(
        "%s: annotations cannot be kept there (%s), so they are read anew each time; set paths.cache to another folder",
        folder,
        reason,
    )


def read_cache(path: Path, key: str) -> Scanned | None:
    """What was saved under this key; None if there is none, or if the file is damaged, of another version or of other annotations."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.info("%s cannot be read (%s); it is made anew", path, error.strerror)
        return None
    try:
        found = unpack_annotations(content, key)
    except ValueError as error:
        logger.info("%s: %s; it is made anew", path, error)
        return None
    return found


def pack(key: str, found: Scanned) -> bytes:
    """MAGIC, a hash of the rest, and the rest as numpy's npz."""
    annotations, problems = found
    ids = annotations.image_ids
    words = {
        "key": key,
        "class_names": annotations.class_names,
        "category_ids": annotations.category_ids,
        "problems": problems,
    }
    arrays = {name: getattr(annotations, name) for name in ARRAYS}
    arrays |= _pack_texts("words", Texts([json.dumps(words)])) | _pack_texts("paths", annotations.paths)
    arrays |= {"ids": np.array(ids, dtype=np.int64)} if isinstance(ids, array) else _pack_texts("ids", ids)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    rest = buffer.getbuffer()
    return b"".join([MAGIC, _digest(rest), rest])


def unpack_annotations(content: bytes, key: str) -> Scanned:
    """Law: unpack(pack(key, found), key) == found. ValueError for anything else, found by the hash before it is interpreted."""
    if not content.startswith(MAGIC):
        raise ValueError("of another version, or not a file of this cache")
    rest = memoryview(content)[len(MAGIC) + DIGEST :]
    if _digest(rest) != content[len(MAGIC) : len(MAGIC) + DIGEST]:
        raise ValueError("damaged")
    try:
        with np.load(io.BytesIO(rest), allow_pickle=False) as stored:
            arrays = dict(stored)
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"damaged ({error})") from error
    words = json.loads(_unpack_texts("words", arrays)[0])
    if words["key"] != key:
        raise ValueError("the annotations have changed")
    annotations = Annotations(
        class_names=tuple(words["class_names"]),
        image_ids=array("q", arrays["ids"].tobytes()) if "ids" in arrays else _unpack_texts("ids", arrays),
        paths=_unpack_texts("paths", arrays),
        category_ids=tuple(words["category_ids"]),
        **{name: arrays[name] for name in ARRAYS},
    )
    return annotations, [_problem(*fields) for fields in words["problems"]]


def _problem(kind: str, file: str, what: str, image: str, box: list[float] | None) -> Problem:
    return Problem(kind, file, what, image, None if box is None else tuple(box))


def _digest(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _pack_texts(name: str, texts: Texts) -> dict[str, np.ndarray]:
    return {f"{name}_text": np.frombuffer(texts.data, dtype=np.uint8), f"{name}_offsets": texts.offsets}


def _unpack_texts(name: str, arrays: dict[str, np.ndarray]) -> Texts:
    return Texts.packed(arrays[f"{name}_text"].tobytes(), arrays[f"{name}_offsets"])
