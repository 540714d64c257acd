"""A local HTTP server that serves bytes from memory, records requests and fails on demand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class LocalServer:
    """The server's files, its behaviour and the requests it received."""

    files: dict[str, bytes] = field(default_factory=dict)  # path -> content
    etags: dict[str, str] = field(default_factory=dict)  # path -> ETag, for files that have one
    cuts: list[int] = field(
        default_factory=list
    )  # length in bytes at which each of the next bodies breaks off
    statuses: list[int] = field(default_factory=list)  # error statuses of the next responses
    ranges: bool = True  # whether Range is supported
    lengths: bool = True  # whether responses have a Content-Length
    address: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (path, Range header)
    sent: list[int] = field(default_factory=list)  # bytes of each response body

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@contextmanager
def local_server() -> Iterator[LocalServer]:
    state = LocalServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            respond(self, state)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(request: BaseHTTPRequestHandler, state: LocalServer) -> None:
    path = request.path.lstrip("/")
    state.requests.append((path, request.headers.get("Range")))
    state.sent.append(0)
    if state.statuses:
        request.send_error(state.statuses.pop(0))
        return
    if path not in state.files:
        request.send_error(404)
        return
    content = state.files[path]
    etag = state.etags.get(path)
    start = requested_start(request, etag) if state.ranges else 0
    if start >= len(content) > 0:
        request.send_error(416)
        return
    body = content[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if etag:
        request.send_header("ETag", etag)
    if state.lengths:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if state.cuts:
        body = body[: state.cuts.pop(0)]
    state.sent[-1] = len(body)
    request.wfile.write(body)


def requested_start(request: BaseHTTPRequestHandler, etag: str | None) -> int:
    """First byte of the Range header, or 0 if the file is not the one that If-Range names (RFC 9110)."""
    match = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    unchanged = request.headers.get("If-Range") in (None, etag)
    return int(match[1]) if match and unchanged else 0
