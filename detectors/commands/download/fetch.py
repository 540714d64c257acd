"""One file over HTTP, which goes on where it broke off: torchvision and torch.hub know no Range and start again from nothing."""

from __future__ import annotations

import errno
import http.client
import ipaddress
import json
import os
import re
import ssl
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

from tqdm import tqdm

ATTEMPTS = 6  # in a row in which nothing arrives, before it is given up
PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
BLOCK = 1 << 20  # bytes, the most in one read
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # statuses after which another attempt makes sense
LOCAL = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
}  # from files, never from a connection
RESUMED = "run the same command again: it goes on where it stopped"


class Part:
    """An unfinished download: FILE.part, and FILE.part.json with what the server said about the file that it is a part of."""

    def __init__(self, target: Path, url: str):
        self.path, self.note_path = (
            target.with_name(f"{target.name}.part"),
            target.with_name(f"{target.name}.part.json"),
        )
        self.url = url
        try:
            self.note = json.loads(self.note_path.read_text())
        except (FileNotFoundError, ValueError):
            self.note = {}
        total = self.note.get("size")
        if self.note.get("url") != url or (total is not None and self.have > total):
            self.drop()

    @property
    def have(self) -> int:
        """bytes on the disk"""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def complete(self) -> bool:
        return self.have > 0 and self.have == self.note.get("size")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note_path.unlink(missing_ok=True)
        self.note = {}

    def begin(self, response: http.client.HTTPResponse) -> None:
        """The whole file comes: whatever was there goes."""
        self.path.write_bytes(b"")
        length = response.headers.get("Content-Length")
        self.note = {"url": self.url, "size": int(length) if length else None, **validators(response)}
        self.note_path.write_text(json.dumps(self.note))

    def continues(self, response: http.client.HTTPResponse) -> bool:
        """Whether a 206 answer carries on after our last byte, with the file that it is a part of."""
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != self.have:
            return False
        if found[2] != "*" and self.note["size"] not in (None, int(found[2])):
            return False
        return all(
            value is None or self.note.get(name) in (None, value)
            for name, value in validators(response).items()
        )

    def state(self) -> str:
        total = self.note.get("size")
        if not self.have:
            return "nothing of it is there yet"
        return f"{self.have:,}{f' of {total:,}' if total else ''} bytes are in {self.path}"


def validators(response: http.client.HTTPResponse) -> dict[str, str | None]:
    """By which a server's file is known to be the same one."""
    return {"etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}


def fetch(url: str, target: Path, *, progress: bool = True) -> None:
    """Writes `target`, as a whole or not at all. What there is of it meanwhile is in `target`.part, and a later call goes on from there.

    A connection that breaks is opened again, ATTEMPTS times in a row without a byte. The part starts from nothing where the server has
    no Range, or another file by now. ValueError for a server that refuses or stays away, and for a disk that is full; the part stays.
    """
    part, failures = Part(target, url), 0
    with tqdm(
        desc=target.name, unit="B", unit_scale=True, leave=False, disable=None if progress else True
    ) as bar:
        while not part.complete:
            before = part.have
            try:
                _attempt(url, part, bar)
                break
            except (OSError, http.client.HTTPException) as error:
                failures = 1 if part.have > before else failures + 1
                if lasting := _lasting(error, part, target):
                    raise ValueError(lasting) from error
                reason = getattr(error, "reason", None) or str(error) or type(error).__name__
                if failures == ATTEMPTS:
                    raise ValueError(
                        f"{url}: {reason} ({ATTEMPTS} attempts); {part.state()}; {RESUMED}"
                    ) from error
                pause = PAUSE * 2 ** (failures - 1)
                tqdm.write(f"{url}: {reason}; another attempt in {pause:g} s", file=sys.stderr)
                time.sleep(pause)
    os.replace(part.path, target)
    part.drop()


def _lasting(error: Exception, part: Part, target: Path) -> str | None:
    """What is to be done where another attempt would only fail again."""
    if isinstance(error, HTTPError) and error.code not in TEMPORARY:
        what = f"{part.url}: the server answers {error.code} {error.reason}"
        return f"{what}; if you have the file from elsewhere, put it to {target} and run the same command"
    if getattr(error, "errno", None) in LOCAL and not isinstance(
        error, ssl.SSLError
    ):  # that has numbers of its own, which look like EPERM
        return (
            f"{part.path}: {error.strerror}; {part.state()}; what is there stays; mend that, then {RESUMED}"
        )
    return None


def _attempt(url: str, part: Part, bar: tqdm) -> None:
    """One answer of the server to its end. ConnectionError if that came too early."""
    with _response(url, part) as response, open(part.path, "ab", buffering=0) as file:
        total = part.note["size"]
        bar.total, bar.n = total, part.have
        while block := response.read1(BLOCK):
            rest = memoryview(block)
            while rest:  # unbuffered, so that the part's size is what is on the disk
                rest = rest[file.write(rest) :]
            bar.update(len(block))
    if total is not None and part.have < total:
        raise ConnectionError("the connection ended before the file did")
    if total is not None and part.have > total:
        part.drop()
        raise ConnectionError("more bytes came than the server had announced")


def _response(url: str, part: Part) -> http.client.HTTPResponse:
    """The answer whose body belongs behind what the part has; the part is emptied where that is impossible."""
    have, headers = part.have, {"Accept-Encoding": "identity", "User-Agent": "detectors"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if same := _strong(part.note.get("etag")) or part.note.get("modified"):
            headers["If-Range"] = same  # the whole file, if it is another one by now
    try:
        response = opener(url).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        part.drop()
        return _response(url, part)
    if have and response.status == http.client.PARTIAL_CONTENT:
        if part.continues(response):
            return response
        response.close()
        part.drop()
        return _response(url, part)
    part.begin(response)
    return response


def _strong(etag: str | None) -> str | None:
    """If-Range takes no weak ETag (W/"...")."""
    return etag if etag and etag.startswith('"') else None


def opener(url: str) -> OpenerDirector:
    """Through the environment's proxies, which know no loopback address but their own."""
    return build_opener(ProxyHandler({})) if is_loopback(urlsplit(url).hostname or "") else build_opener()


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
