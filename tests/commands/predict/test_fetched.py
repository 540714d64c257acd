"""Images from an http server on this machine: limits, redirects, and one line for what fails."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from detectors.commands.predict import fetched as module
from detectors.commands.predict.frames import Reading, read_frames
from detectors.commands.predict.inputs import find_sources
from detectors.data.images import read_image

IMAGE = np.full((20, 30, 3), 90, np.uint8)
PNG = cv2.imencode(".png", IMAGE)[1].tobytes()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path in ("/ftp", "/file", "/here"):
            self.send_response(302)
            targets = {"/ftp": "ftp://localhost/x.png", "/file": "file:///etc/passwd", "/here": "/a.png"}
            self.send_header("Location", targets[self.path])
            self.end_headers()
        elif self.path == "/absent.png":
            self.send_error(404)
        else:
            body = {"/a.png": PNG, "/page": b"<html>"}.get(self.path, PNG + bytes(4000))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 9 * (self.path == "/short.png")))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def read(address: str):
    (outcome,) = read_frames(find_sources([address]), read_image, Reading())
    return outcome


@pytest.mark.parametrize("path", ["/a.png", "/here"])
def test_an_image_is_fetched_and_keeps_its_address(server, path):
    frame = read(server + path)
    np.testing.assert_array_equal(frame.image, IMAGE)
    assert frame.name == server + path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/absent.png", "it cannot be fetched (the server answers 404 Not Found)"),
        (
            "/ftp",
            "it cannot be fetched (it redirects to ftp://localhost/x.png, which is neither http nor https)",
        ),
        ("/file", "it cannot be fetched (the server answers 302 "),
        ("/short.png", "it cannot be fetched (the connection closed after"),
        ("/page", "the image cannot be decoded ("),
    ],
)
def test_what_cannot_be_fetched_or_used_is_one_line(server, path, reason):
    error = str(read(server + path))
    assert error.startswith(f"{server}{path}: {reason}")
    assert "\n" not in error


def test_size_and_time_are_limited(server, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 3000)
    assert "it is larger than" in str(read(server + "/large.png"))
    monkeypatch.undo()
    monkeypatch.setattr(module, "MOST_SECONDS", -1.0)
    assert "it took longer than" in str(read(server + "/a.png"))


def test_nobody_answers(monkeypatch):
    error = str(read("http://127.0.0.1:9/a.png"))
    assert "it cannot be fetched (" in error and "check the address in a browser" in error
