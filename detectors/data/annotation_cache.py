"""A file cache for scanned annotations: parsing COCO's training set takes seconds, loading it far less.

A cache file is valid as long as everything that was read has the same name, size and modification time.
Known limit: a file rewritten with the same length within one tick of the file system's clock goes unnoticed,
and so does an image replaced in place.
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

# Increase it when a scan returns something else for the same files, or when the layout of the file changes.
CACHE_FORMAT = 3
MAGIC = b"detectors annotations %d\n" % CACHE_FORMAT
DIGEST = 32  # bytes
ARRAYS = ("sizes", "offsets", "boxes_original", "labels", "difficult", "crowd", "areas")
Scanned = tuple[Annotations, list[Problem]]

logger = logging.getLogger(__name__)


def cached(
    scan: Callable[..., Scanned],
    sources: Callable[..., Iterable[Path | os.DirEntry[str]]],
    *,
    folder: str | os.PathLike | None,
    class_names: list[str] | None,
    **places: Any,
) -> Scanned:
    """The result of scan(class_names=class_names, **places), from the cache if possible.

    sources: a function of `places` that yields all files that the scan reads and all folders that it lists,
    as paths or entries of os.scandir.
    folder: the folder of the cache files; None: always scan. A cache file that cannot be read or written only
    costs time.
    """
    arguments = places | {"class_names": class_names}
    try:
        key = None if folder is None else files_fingerprint(sources(**places))
    except OSError:
        key = None  # the scan has a better message for a missing file
    if folder is None or key is None:
        return scan(**arguments)
    path = Path(folder) / f"{_name(scan.__name__, arguments)}.annotations"
    scanned = read_cache(path, key)
    if scanned is not None:
        return scanned
    started = time.monotonic()
    scanned = scan(**arguments)
    if write_cache(path, key, scanned):
        seconds = time.monotonic() - started
        logger.info("read %d images (%.1f s); cached in %s", len(scanned[0]), seconds, path)
    return scanned


def files_fingerprint(sources: Iterable[Path | os.DirEntry[str]]) -> str:
    """A hash of names, sizes and modification times. OSError for a missing file."""
    stamps = []
    for source in sources:
        status = source.stat()
        stamps.append(f"{os.path.abspath(source)}\0{status.st_size}\0{status.st_mtime_ns}")
    return _hash("\n".join(sorted(stamps)))


def _name(reader: str, arguments: dict[str, Any]) -> str:
    """A file name for each data set, split and choice of classes; a changed set overwrites its own file.

    A relative path counts as given, because the paths of the images start with it, and as the absolute path
    that it stands for.
    """
    key = {
        name: [os.fspath(value), os.path.abspath(value)] if isinstance(value, os.PathLike) else value
        for name, value in arguments.items()
    }
    return f"{reader}-{_hash(json.dumps(key, sort_keys=True, default=list))[:DIGEST]}"


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST).hexdigest()


def write_cache(path: Path, key: str, scanned: Scanned) -> bool:
    """Write the file atomically. False, with a warning, if the folder is not writable."""
    content = pack(key, scanned)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=".annotations-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(draft, 0o644)  # only the owner may read mkstemp's files
            os.replace(draft, path)
        except OSError:
            os.unlink(draft)
            raise
    except OSError as error:
        _warn_unwritable(str(path.parent), error.strerror)
        return False
    return True


@functools.cache  # once per folder, not per split
def _warn_unwritable(folder: str, reason: str) -> None:
    logger.warning(
        "%s: annotations cannot be cached there (%s), so they are parsed every time; "
        "set paths.cache to another folder",
        folder,
        reason,
    )


def read_cache(path: Path, key: str) -> Scanned | None:
    """What was saved with this key.

    None if there is no file, or if it is damaged, from another version, or for other annotations.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.info("%s cannot be read (%s); it is rebuilt", path, error.strerror)
        return None
    try:
        return unpack_annotations(content, key)
    except ValueError as error:
        logger.info("%s: %s; it is rebuilt", path, error)
        return None


def pack(key: str, scanned: Scanned) -> bytes:
    """MAGIC, a hash of the rest, and the rest in numpy's npz format."""
    annotations, problems = scanned
    ids = annotations.image_ids
    words = {
        "key": key,
        "class_names": annotations.class_names,
        "category_ids": annotations.category_ids,
        "problems": problems,
    }
    arrays = {name: getattr(annotations, name) for name in ARRAYS}
    if annotations.image_labels is not None:
        arrays["image_labels"] = annotations.image_labels
    arrays |= _pack_texts("words", Texts([json.dumps(words)]))
    assert isinstance(annotations.paths, Texts)
    arrays |= _pack_texts("paths", annotations.paths)
    if isinstance(ids, Texts):
        arrays |= _pack_texts("ids", ids)
    else:
        arrays["ids"] = np.array(ids, dtype=np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    rest = buffer.getbuffer()
    return b"".join([MAGIC, _digest(rest), rest])


def unpack_annotations(content: bytes, key: str) -> Scanned:
    """Law: unpack_annotations(pack(key, scanned), key) == scanned.

    ValueError for any other content. The hash is checked before anything is interpreted.
    """
    if not content.startswith(MAGIC):
        raise ValueError("from another version, or not a cache file")
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
    image_ids = array("q", arrays["ids"].tobytes()) if "ids" in arrays else _unpack_texts("ids", arrays)
    annotations = Annotations(
        class_names=tuple(words["class_names"]),
        image_ids=image_ids,
        paths=_unpack_texts("paths", arrays),
        category_ids=tuple(words["category_ids"]),
        image_labels=arrays.get("image_labels"),
        **{name: arrays[name] for name in ARRAYS},
    )
    return annotations, [_problem(*fields) for fields in words["problems"]]


def _problem(
    kind: str, file: str, what: str, image: str, box: tuple[float, float, float, float] | None
) -> Problem:
    """box: JSON has made a list of it."""
    if box is None:
        return Problem(kind, file, what, image)
    left, top, right, bottom = box
    return Problem(kind, file, what, image, (left, top, right, bottom))


def _digest(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _pack_texts(name: str, texts: Texts) -> dict[str, np.ndarray]:
    return {f"{name}_text": np.frombuffer(texts.data, dtype=np.uint8), f"{name}_offsets": texts.offsets}


def _unpack_texts(name: str, arrays: dict[str, np.ndarray]) -> Texts:
    return Texts.packed(arrays[f"{name}_text"].tobytes(), arrays[f"{name}_offsets"])
