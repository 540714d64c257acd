"""Downloads one file over HTTP and resumes where it stopped. torchvision and torch.hub always start over."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import math
import os
import re
import ssl
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, OpenerDirector, ProxyHandler, Request, build_opener

from tqdm import tqdm

ATTEMPTS = 6  # consecutive attempts without a byte before giving up
PAUSE = 1.0  # seconds before the second attempt; doubles with each further one
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20  # bytes per read, at most
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses worth another attempt
LOCAL = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
}  # errors of the file system, never of a connection
RESUME_HINT = "run the same command again to resume where it stopped"


class Part:
    """An unfinished download: FILE.part, and FILE.part.json with size and validators of the whole file."""

    def __init__(self, target: Path, url: str, *, max_bytes: float = math.inf):
        self.max_bytes = max_bytes
        self.path = target.with_name(f"{target.name}.part")
        self.note_path = target.with_name(f"{target.name}.part.json")
        self.url = url
        try:
            note = json.loads(self.note_path.read_bytes())
        except (FileNotFoundError, ValueError):
            note = None
        self.note = note if isinstance(note, dict) else {}
        total = self.note.get("size")
        if (
            not isinstance(total, int | None)
            or self.note.get("url") != url
            or (total is not None and self.bytes_on_disk > total)
        ):
            self.discard()

    @property
    def bytes_on_disk(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def complete(self) -> bool:
        return self.bytes_on_disk > 0 and self.bytes_on_disk == self.note.get("size")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self.note = {}

    def begin(self, response: http.client.HTTPResponse) -> None:
        """Starts over, for a response with the whole file."""
        self.path.write_bytes(b"")
        length = response.headers.get("Content-Length", "")
        self.note = {
            "url": self.url,
            "size": int(length) if length.isdecimal() else None,
            **validators(response),
        }
        self.note_path.write_text(json.dumps(self.note))

    def continues(self, response: http.client.HTTPResponse) -> bool:
        """Whether a 206 response starts after the last byte of this part and is about the same file."""
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            return False
        start, total = match.groups()
        if int(start) != self.bytes_on_disk:
            return False
        if total != "*" and self.note["size"] not in (None, int(total)):
            return False
        return all(
            value is None or self.note.get(name) in (None, value)
            for name, value in validators(response).items()
        )

    def describe(self) -> str:
        if not self.bytes_on_disk:
            return "nothing was downloaded yet"
        total = self.note.get("size")
        amount = f"{self.bytes_on_disk:,} of {total:,}" if total else f"{self.bytes_on_disk:,}"
        return f"{amount} bytes are in {self.path}"


def validators(response: http.client.HTTPResponse) -> dict[str, str | None]:
    """Headers that change when the file on the server changes."""
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}


def fetch(url: str, target: Path, *, max_bytes: float = math.inf, progress: bool = True) -> None:
    """Writes `target` atomically. An unfinished download stays in `target`.part, where a later call resumes.

    Reconnects until ATTEMPTS consecutive attempts bring no byte. Starts over if the server does not support
    Range or if its file has changed. Raises ValueError if the server refuses or does not answer, or if the
    disk is full; the part is kept. Raises ValueError for a file above max_bytes; the part is removed.
    """
    part = Part(target, url, max_bytes=max_bytes)
    with byte_bar(target.name, progress) as bar:
        _complete(part, target, bar)
    os.replace(part.path, target)
    part.discard()


def byte_bar(title: str, progress: bool) -> tqdm:
    """A bar that counts bytes, shown on a terminal only; never if not `progress`."""
    return tqdm(desc=title, unit="B", unit_scale=True, leave=False, disable=None if progress else True)


def _complete(part: Part, target: Path, bar: tqdm) -> None:
    """Downloads the rest of the part, in as many attempts as it takes."""
    failures = 0
    while not part.complete:
        before = part.bytes_on_disk
        try:
            _attempt(part, bar)
            return
        except (OSError, http.client.HTTPException) as error:
            failures = 1 if part.bytes_on_disk > before else failures + 1
            message = _permanent_failure(error, part, target)
            if message:
                raise ValueError(message) from error
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            if failures == ATTEMPTS:
                message = f"{part.url}: {reason} ({ATTEMPTS} attempts); {part.describe()}; {RESUME_HINT}"
                raise ValueError(message) from error
            pause = PAUSE * 2 ** (failures - 1)
            tqdm.write(f"{part.url}: {reason}; next attempt in {pause:g} s", file=sys.stderr)
            time.sleep(pause)


def _permanent_failure(error: Exception, part: Part, target: Path) -> str | None:
    """The message for an error that another attempt cannot fix; None for a temporary one."""
    if isinstance(error, HTTPError) and error.code not in TEMPORARY:
        return (
            f"{part.url}: the server answers {error.code} {error.reason}; "
            f"if you have the file from elsewhere, save it as {target} and run the same command"
        )
    # The numbers of SSL's errors can look like EPERM.
    if isinstance(error, OSError) and error.errno in LOCAL and not isinstance(error, ssl.SSLError):
        return f"{part.path}: {error.strerror}; {part.describe()}; fix the cause, then {RESUME_HINT}"
    return None


def _attempt(part: Part, bar: tqdm) -> None:
    """Reads one response to its end. Raises ConnectionError if it is shorter or longer than announced."""
    with _open_response(part) as response, open(part.path, "ab", buffering=0) as file:
        total = part.note["size"]
        bar.total = total
        bar.n = part.bytes_on_disk
        _check_size(part, total or 0)
        while block := response.read1(BLOCK):
            _check_size(part, part.bytes_on_disk + len(block))
            rest = memoryview(block)
            while rest:  # unbuffered: the size of the part counts only bytes that are on disk
                written = file.write(rest)
                rest = rest[written:]
            bar.update(len(block))
    if total is not None and part.bytes_on_disk < total:
        raise ConnectionError("the connection closed before the end of the file")
    if total is not None and part.bytes_on_disk > total:
        part.discard()
        raise ConnectionError("the server sent more bytes than announced")


def _check_size(part: Part, size: int) -> None:
    if size > part.max_bytes:
        part.discard()
        raise ValueError(
            f"{part.url}: the server sends more than {part.max_bytes:,} bytes, more than this archive has; "
            "what was downloaded is removed; a proxy may answer in its place"
        )


def _open_response(part: Part) -> http.client.HTTPResponse:
    """A response whose body continues the part. If the server cannot continue, the part is emptied first."""
    resuming = part.bytes_on_disk > 0
    headers = {"Accept-Encoding": "identity", "User-Agent": "detectors"}
    if resuming:
        headers["Range"] = f"bytes={part.bytes_on_disk}-"
        validator = _strong(part.note.get("etag")) or part.note.get("modified")
        if validator:
            headers["If-Range"] = validator  # a server whose file has changed sends all of it
    try:
        response = opener(part.url).open(Request(part.url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not resuming:
            raise
        part.discard()
        return _open_response(part)
    if resuming and response.status == http.client.PARTIAL_CONTENT:
        if part.continues(response):
            return response
        response.close()
        part.discard()
        return _open_response(part)
    part.begin(response)
    return response


def _strong(etag: str | None) -> str | None:
    """The ETag if If-Range accepts it, which excludes weak ones (W/"...")."""
    return etag if etag and etag.startswith('"') else None


def opener(url: str, *handlers: BaseHandler) -> OpenerDirector:
    """Uses the proxies of the environment, except for loopback addresses, which a proxy cannot reach."""
    if is_loopback(urlsplit(url).hostname or ""):
        return build_opener(ProxyHandler({}), *handlers)
    return build_opener(*handlers)


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
