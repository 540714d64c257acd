"""Images and videos by http and https, within limits of size and time, in a temporary file."""

from __future__ import annotations

import http.client
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request

from detectors.commands.download.fetch import opener
from detectors.data.images import ImageError

MOST_BYTES = 100 * 2**20
MOST_SECONDS = 60.0  # for the whole file
SILENT_SECONDS = 15.0  # without a byte
READ_BYTES = 2**18  # bytes
ADVICE = "check the address in a browser, or download the file and name it"


class _WebOnly(HTTPRedirectHandler):
    """Follows redirects to http and https alone; urllib follows those to ftp, too."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"it redirects to {newurl}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def fetched(address: str) -> Iterator[Path]:
    """A temporary file with the content of an address. ImageError says why it could not be fetched."""
    with tempfile.TemporaryDirectory(prefix="detectors-") as folder:
        path = Path(folder) / f"fetched{Path(urlsplit(address).path).suffix}"
        try:
            _save(address, path)
        except HTTPError as error:
            raise _unfetched(address, f"the server answers {error.code} {error.reason}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise _unfetched(address, str(reason)) from error
        yield path


def _save(address: str, path: Path) -> None:
    deadline = monotonic() + MOST_SECONDS
    request = Request(address, headers={"User-Agent": "detectors"})
    with (
        opener(address, _WebOnly()).open(request, timeout=SILENT_SECONDS) as response,
        path.open("wb") as file,
    ):
        size = 0
        while piece := response.read1(READ_BYTES):
            size += file.write(piece)
            if size > MOST_BYTES:
                raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB")
            if monotonic() > deadline:
                raise ValueError(f"it took longer than {MOST_SECONDS:g} s")
        expected = response.headers.get("Content-Length", "")
        if expected.isdecimal() and size < int(expected):
            raise ValueError(f"the connection closed after {size:,} of {int(expected):,} bytes")


def _unfetched(address: str, reason: str) -> ImageError:
    return ImageError(address, f"it cannot be fetched ({reason}); {ADVICE}", "missing-image")
