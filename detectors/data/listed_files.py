"""From a name in a list to a file of a folder: names that lead elsewhere, special files, and near names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from itertools import islice

from detectors.data.files import require_regular
from detectors.data.image_headers import IMAGE_SUFFIXES
from detectors.data.problems import Problem

KNOWN_SUFFIXES = (*IMAGE_SUFFIXES, ".gif", ".webp", ".xml")  # what counts as a suffix when names are compared
WALKED = 500_000  # files that are looked at for a near name


class ListedFolder:
    """A folder and its files, which a list names. One listing is faster than a lookup per file.

    Symbolic links are followed, to files and folders anywhere: they are the user's own. Only the text of a
    name decides whether it leads out of the folder.
    suffixes: whether the list's names have suffixes (COCO) or not (VOC).
    """

    def __init__(self, path: str | os.PathLike[str], *, suffixes: bool):
        self.path = os.fspath(path)
        self.suffixes = suffixes
        self.start = os.path.join(os.path.abspath(path), "")
        with os.scandir(self.path) as entries:
            self.names = {entry.name: entry.is_file() for entry in entries}  # name -> whether it is a file

    def leads_out(self, name: str) -> bool:
        """Whether a name leads out of the folder: by an absolute path, or by `..` at any place."""
        return name not in self.names and not os.path.abspath(self.join(name)).startswith(self.start)

    def join(self, name: str) -> str:
        """The path of a name, without `..`, which could lead elsewhere behind a link."""
        return os.path.join(self.path, os.path.normpath(name) if ".." in name else name)

    def find(self, name: str) -> tuple[str, bool] | None:
        """The path of a name that does not lead out, and whether it is a file; None if there is nothing.

        The suffix may be in other capitals.
        """
        stem, suffix = os.path.splitext(name)
        for variant in (name, stem + suffix.lower(), stem + suffix.upper()):
            path = self.join(variant)
            if variant in self.names:
                return path, self.names[variant]
            if "/" in variant and os.path.lexists(path):
                return path, os.path.isfile(path)
        return None

    def hint(self, name: str) -> str:
        """ "; there is 'sub/a.JPG' (in a subfolder, other capitals)" for a near name; "" if there is none."""
        near = {found: self._differences(name, found) for found in self._by_key.get(_key(name), ())}
        if not near:
            return ""
        found = min(near, key=lambda found: len(near[found]))
        return f"; there is {found!r} ({', '.join(near[found])})"

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        """_key() -> the files with it in this folder and below, as names relative to it."""
        by_key: dict[str, list[str]] = {}
        for file in islice(self._walk(), WALKED):
            by_key.setdefault(_key(file), []).append(file)
        return by_key

    def _walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.path):
            folders.sort()
            for file in sorted(files):
                yield os.path.relpath(os.path.join(folder, file), self.path)

    def _differences(self, name: str, found: str) -> list[str]:
        """How a listed name differs from that of a file."""
        folder, last = _parts(name)
        found_folder, found_last = _parts(found)
        stem, suffix = split_suffix(last)
        found_stem, found_suffix = split_suffix(found_last)
        texts = []
        if "\\" in name:
            texts.append("write / between folders, not a backslash")
        if folder != found_folder:
            texts.append("in a subfolder" if found_folder else "not in a subfolder")
        if unicodedata.normalize("NFC", stem) != unicodedata.normalize("NFC", found_stem):
            texts.append("other capitals")
        elif stem != found_stem:
            texts.append("the same accents in another Unicode form, NFC or NFD")
        if suffix and not self.suffixes:
            texts.append("this list has names without suffixes")
        elif suffix != found_suffix and self.suffixes:
            texts.append("another suffix")
        return texts or ["a kind of file that is not read"]


def special_file(path: str) -> Problem:
    """The problem with an entry of a folder that is not a file: a folder, a FIFO, a link to nothing."""
    reason = "it was not a file"
    try:
        require_regular(path)
    except FileNotFoundError:
        return Problem("missing-image", path, "it is a link to a file that is not there", path)
    except OSError as error:
        reason = error.strerror or str(error)
    return Problem("broken-image", path, f"the image cannot be read ({reason})", path)


def split_suffix(name: str) -> tuple[str, str]:
    """("a.1", ".JPG") for "a.1.JPG", but ("a.1", "") for "a.1": only KNOWN_SUFFIXES count."""
    stem, suffix = os.path.splitext(name)
    return (stem, suffix) if suffix.lower() in KNOWN_SUFFIXES else (name, "")


def _key(name: str) -> str:
    """What near names share: the last part, without suffix, capitals and the Unicode form of accents."""
    stem, _ = split_suffix(_parts(name)[1])
    return unicodedata.normalize("NFC", stem.casefold())


def _parts(name: str) -> tuple[str, str]:
    """(folder, last part), also of a name with backslashes."""
    folder, _, last = name.replace("\\", "/").rpartition("/")
    return folder, last
