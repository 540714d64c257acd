"""An HTTP server on the loopback address that serves bytes from memory, writes down what was asked of it, and can fail on purpose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Served:
    """What a server has, how it behaves, and what it was asked: (path, Range or None) with the number of bytes of the answer's body."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)  # of a file that has one
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes of their body
    statuses: list[int] = field(default_factory=list)  # the next answers are these errors
    ranges: bool = True
    lengths: bool = True  # whether answers have a Content-Length
    address: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@contextmanager
def serving() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            answer(self, served)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, served: Served) -> None:
    path = request.path.lstrip("/")
    served.asked.append((path, request.headers.get("Range")))
    served.sent.append(0)
    if served.statuses:
        request.send_error(served.statuses.pop(0))
        return
    if path not in served.files:
        request.send_error(404)
        return
    whole, etag = served.files[path], served.etags.get(path)
    start = asked_start(request, etag) if served.ranges else 0
    if start >= len(whole) > 0:
        request.send_error(416)
        return
    body = whole[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
    if etag:
        request.send_header("ETag", etag)
    if served.lengths:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    body = body[: served.cuts.pop(0)] if served.cuts else body
    served.sent[-1] = len(body)
    request.wfile.write(body)


def asked_start(request: BaseHTTPRequestHandler, etag: str | None) -> int:
    """As RFC 9110 has it: a Range counts only while the file is the one that If-Range names."""
    found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    same = request.headers.get("If-Range") in (None, etag)
    return int(found[1]) if found and same else 0
