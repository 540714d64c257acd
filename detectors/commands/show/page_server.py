"""The server of the page: 127.0.0.1 only, and it answers only browsers that ask for this machine by name.

GET  /                                          the page, one file
GET  /about                                     runs, images to pick from, limits
POST /images            an image file           -> its name and size
GET  /images/NAME                               -> the same, and the ground truth
GET  /pictures/NAME                             a JPEG of it
GET  /detections?image=&score=&iou=&rule=       what each run finds; the network sees an image once
GET  /heat?image=&run=                          objectness of each cell of a run
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from detectors.commands.show.image_store import ImageStore, StoredImage
from detectors.commands.show.shown_run import ShownRun, Suppression
from detectors.config.schema import SUPPRESSIONS

ADDRESS = "127.0.0.1"
HOSTS = (ADDRESS, "localhost")  # names of this machine in the Host header; a page elsewhere has its own name
PAGE = Path(__file__).with_name("page.html")
LISTED_IMAGES = 5000  # of a data set
WAIT = 30  # seconds without a byte that end a connection
DRAINED_PIECE = 2**16  # bytes of a refused upload that are read at a time
NO_IMAGE = "this image is no longer kept; drop it again"


class Refused(Exception):
    """An answer with a status of its own and one message."""

    def __init__(self, status: HTTPStatus, text: str):
        super().__init__(text)
        self.status = status


class PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, runs: Sequence[ShownRun], images: ImageStore, largest_upload: int):
        """largest_upload: bytes. OSError: the port is taken."""
        self.runs = list(runs)
        self.images = images
        self.largest_upload = largest_upload
        self.page = PAGE.read_bytes()
        self.policy = content_policy(self.page.decode())
        super().__init__((ADDRESS, port), PageRequest)
        self.port = self.server_address[1]
        self.address = f"http://{ADDRESS}:{self.port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def content_policy(page: str) -> str:
    """The page may run its own script and style alone, and ask this server alone."""

    def hashes(element: str) -> str:
        parts = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class PageRequest(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = WAIT

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, *args: object) -> None:
        """Nothing: the page shows what goes wrong."""

    def _answer(self, work: Callable[[], tuple[bytes, str]]) -> None:
        try:
            self._refuse_strangers()
            content, kind = work()
            status = HTTPStatus.OK
        except Refused as error:
            content, kind, status = _json({"error": str(error)}), "application/json", error.status
        except (ValueError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            content, kind, status = _json({"error": str(error)}), "application/json", HTTPStatus.BAD_REQUEST
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        if status is not HTTPStatus.OK:
            self.send_header("Connection", "close")  # what else the client sent has not been read
        self.end_headers()
        self.wfile.write(content)

    def _refuse_strangers(self) -> None:
        """Another site's page can send requests here, also under a name of its own that leads here."""
        hosts = [f"{name}:{self.server.port}" for name in HOSTS]
        if self.headers.get("Host") not in hosts:
            raise Refused(HTTPStatus.FORBIDDEN, f"open this page as {self.server.address}")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            raise Refused(HTTPStatus.FORBIDDEN, "requests of other pages are not answered")

    def _get(self) -> tuple[bytes, str]:
        place = urlsplit(self.path)
        values = {name: texts[-1] for name, texts in parse_qs(place.query).items()}
        first, _, rest = place.path.removeprefix("/").partition("/")
        if place.path == "/":
            return self.server.page, "text/html; charset=utf-8"
        if first == "pictures":
            return self._image(rest).jpeg(), "image/jpeg"
        if first == "images":
            return _json(self._image(rest).about()), "application/json"
        answers = {"/about": self._about, "/detections": self._detections, "/heat": self._heat}
        if place.path not in answers:
            raise Refused(HTTPStatus.NOT_FOUND, f"{place.path}: there is no such place")
        return _json(answers[place.path](values)), "application/json"

    def _post(self) -> tuple[bytes, str]:
        if self.path != "/images":
            raise Refused(HTTPStatus.NOT_FOUND, f"{self.path}: there is no such place")
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal() or len(text) > 15:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the length of the image is missing")
        length = int(text)
        limit = self.server.largest_upload
        if length > limit:
            self._drain(length)
            sizes = f"{length / 1e6:.1f} MB, more than the {limit / 1e6:g} MB that --megabytes allows"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the file has {sizes}")
        content = self.rfile.read(length)
        if len(content) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, "the upload broke off; drop the image again")
        return _json(self.server.images.add(content).about()), "application/json"

    def _drain(self, length: int) -> None:
        """Reads what is not wanted, up to four times the limit: a browser shows no answer before that."""
        left = min(length, 4 * self.server.largest_upload)
        while left > 0 and (piece := self.rfile.read(min(DRAINED_PIECE, left))):
            left -= len(piece)

    def _image(self, name: str) -> StoredImage:
        try:
            return self.server.images.get(name)
        except KeyError as error:
            raise Refused(HTTPStatus.NOT_FOUND, NO_IMAGE) from error

    def _about(self, values: dict[str, str]) -> dict[str, Any]:
        runs = self.server.runs
        ids = self.server.images.annotations.image_ids[:LISTED_IMAGES]
        return {
            "runs": [run.about() for run in runs],
            "images": [str(image_id) for image_id in ids],
            "rules": self._rules(),
            "largest_upload": self.server.largest_upload,
        }

    def _rules(self) -> list[str]:
        own = (run.detector.postprocess.nms for run in self.server.runs)
        return list(dict.fromkeys((*SUPPRESSIONS, *own)))

    def _detections(self, values: dict[str, str]) -> dict[str, Any]:
        stored = self._image(values.get("image", ""))
        rule = values.get("rule", SUPPRESSIONS[0])
        if rule not in self._rules():
            raise Refused(HTTPStatus.BAD_REQUEST, f"rule={rule}: there is no such rule")
        suppression = Suppression(_share(values, "score"), _share(values, "iou"), rule)
        return {"runs": [self._found(run, stored, suppression) for run in self.server.runs]}

    @staticmethod
    def _found(run: ShownRun, stored: StoredImage, suppression: Suppression) -> dict[str, Any]:
        """What one run finds, or why it cannot take this image or rule: the others still show theirs."""
        if suppression.rule not in (*SUPPRESSIONS, run.detector.postprocess.nms):
            return {
                "error": f"{suppression.rule} is a rule for classes in a tree, which this run does not have"
            }
        try:
            return run.detections(stored.look(run), suppression)
        except (ValueError, MemoryError) as error:
            return {"error": str(error) or "out of memory"}

    def _heat(self, values: dict[str, str]) -> dict[str, Any]:
        number = values.get("run", "")
        if not number.isdecimal() or len(number) > 3 or int(number) >= len(self.server.runs):
            raise Refused(HTTPStatus.BAD_REQUEST, f"run={number}: there is no such run")
        run = self.server.runs[int(number)]
        return {"levels": run.heat(self._image(values.get("image", "")).look(run))}


def _share(values: dict[str, str], name: str) -> float:
    """A number from 0 to 1."""
    text = values.get(name, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}={text}: must be a number from 0 to 1")
    return value


def _json(content: object) -> bytes:
    return json.dumps(content, allow_nan=False).encode()
