"""Downloads of one file from a local server that breaks off, refuses, changes it or lacks Range support."""

from __future__ import annotations

import errno
import io
import json
import ssl

import numpy as np
import pytest

from detectors.commands.download import fetch as fetching
from detectors.commands.download.fetch import fetch, is_loopback
from tests.commands.download.server import local_server

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER_CONTENT = np.random.default_rng(1).bytes(300_000)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)


@pytest.fixture
def server():
    with local_server() as server:
        server.files["a.tar"] = CONTENT
        server.etags["a.tar"] = '"one"'
        yield server


def get(server, tmp_path):
    fetch(server.url("a.tar"), tmp_path / "a.tar", progress=False)


def file_names(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_download(server, tmp_path):
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == [("a.tar", None)]
    assert file_names(tmp_path) == ["a.tar"]


def test_a_broken_connection_resumes_where_it_stopped(server, tmp_path):
    server.cuts = [100_000, 50_000]
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == [("a.tar", None), ("a.tar", "bytes=100000-"), ("a.tar", "bytes=150000-")]
    assert server.sent == [100_000, 50_000, 150_000]  # each byte once


def test_a_second_call_resumes_where_the_first_gave_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 3)
    server.cuts = [70_000, 0, 0, 0]
    with pytest.raises(
        ValueError,
        match=r"70,000 of 300,000 bytes are in .*a\.tar\.part; run the same command again to resume",
    ):
        get(server, tmp_path)
    assert (tmp_path / "a.tar.part").read_bytes() == CONTENT[:70_000]
    server.cuts = []
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests[-1] == ("a.tar", "bytes=70000-")
    assert sum(server.sent) == len(CONTENT)


def test_an_ssl_error_is_temporary(server, tmp_path, monkeypatch):
    """Its error number is 1, which is EPERM for files."""
    open_response = fetching._open_response
    errors = [ssl.SSLError(ssl.SSL_ERROR_SSL, "bad record mac")]

    def fail_once(part):
        if errors:
            raise errors.pop()
        return open_response(part)

    monkeypatch.setattr(fetching, "_open_response", fail_once)
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_only_consecutive_attempts_without_a_byte_count(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    server.cuts = [10_000] * 20
    get(server, tmp_path)
    assert len(server.requests) == 21


def test_pauses_double_and_are_reported(server, tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(fetching, "PAUSE", 1.0)
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    server.statuses = [503, 503, 503, 503]
    get(server, tmp_path)
    assert pauses == [1, 2, 4, 8]
    assert "Service Unavailable; next attempt in 8 s" in capsys.readouterr().err


def test_without_range_support_the_download_starts_over(server, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == [("a.tar", None), ("a.tar", "bytes=100000-")]
    assert server.sent == [100_000, 300_000]


@pytest.mark.parametrize(
    ("etags", "content", "requests"),
    [
        pytest.param(('"one"', '"two"'), OTHER_CONTENT, 1, id="the server evaluates If-Range"),
        pytest.param(('W/"one"', 'W/"two"'), OTHER_CONTENT, 2, id="the response has another ETag"),
        pytest.param((None, None), OTHER_CONTENT[:-1], 2, id="the response has another size"),
    ],
)
def test_a_changed_file_is_downloaded_from_the_start(server, tmp_path, monkeypatch, etags, content, requests):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    server.etags["a.tar"] = etags[0]
    server.cuts = [100_000]
    with pytest.raises(ValueError, match="1 attempts"):
        get(server, tmp_path)
    server.requests.clear()
    server.files["a.tar"] = content
    server.etags["a.tar"] = etags[1]
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == content
    assert len(server.requests) == requests


def test_a_file_that_became_shorter_is_downloaded_from_the_start(server, tmp_path, monkeypatch):
    """The server answers 416."""
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    server.etags = {}
    server.cuts = [100_000]
    with pytest.raises(ValueError):
        get(server, tmp_path)
    server.files["a.tar"] = OTHER_CONTENT[:50_000]
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == OTHER_CONTENT[:50_000]


def test_a_part_of_another_url_is_not_resumed(server, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1000)
    note = {"url": "http://elsewhere/a.tar", "size": 300_000, "etag": None, "modified": None}
    (tmp_path / "a.tar.part.json").write_text(json.dumps(note))
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == [("a.tar", None)]


@pytest.mark.parametrize("note", ["", "{", None])
def test_a_part_without_a_valid_note_is_not_resumed(server, tmp_path, note):
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1000)
    if note is not None:
        (tmp_path / "a.tar.part.json").write_text(note)
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(server, tmp_path):
    """The process was killed after the last byte and before the renaming."""
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    note = {"url": server.url("a.tar"), "size": 300_000, "etag": '"one"', "modified": None}
    (tmp_path / "a.tar.part.json").write_text(json.dumps(note))
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests == []


def test_without_a_content_length_the_end_of_the_body_is_the_end(server, tmp_path):
    """GitHub serves archives like this. A truncated one is detected when it is unpacked."""
    server.lengths = False
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_refusal_is_permanent(server, tmp_path):
    with pytest.raises(
        ValueError, match=r"b\.tar: the server answers 404 .*save it as .*b\.tar and run the same command"
    ):
        fetch(server.url("b.tar"), tmp_path / "b.tar", progress=False)
    assert len(server.requests) == 1


def test_a_server_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    with local_server() as stopped:
        url = stopped.url("a.tar")
    with pytest.raises(
        ValueError, match=r"refused.*2 attempts.*nothing was downloaded yet.*run the same command again"
    ):
        fetch(url, tmp_path / "a.tar", progress=False)


def test_a_full_disk_keeps_the_part(server, tmp_path, monkeypatch):
    """The disk is full after 100,000 bytes, in the middle of a block; later there is room again."""

    class FullDiskFile:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, block):
            room = 100_000 - self.file.tell()
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(block[:room])

    def open_on_full_disk(path, mode, buffering):
        return FullDiskFile(io.FileIO(path, mode))

    monkeypatch.setattr(fetching, "open", open_on_full_disk, raising=False)
    with pytest.raises(
        ValueError,
        match=r"a\.tar\.part: No space left on device; 100,000 of 300,000 bytes .* fix the cause, then run",
    ):
        get(server, tmp_path)
    assert len(server.requests) == 1
    monkeypatch.setattr(fetching, "open", open)
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert server.requests[-1] == ("a.tar", "bytes=100000-")


def test_no_proxy_is_used_for_loopback_addresses(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    get(server, tmp_path)
    assert is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("images.cocodataset.org") and not is_loopback("10.0.0.1")


@pytest.mark.parametrize("lengths", [True, False])
def test_a_body_that_is_too_long_is_refused_and_removed(server, tmp_path, lengths):
    server.lengths = lengths
    with pytest.raises(ValueError, match="a.tar: the server sends more than 299,999 bytes"):
        fetch(server.url("a.tar"), tmp_path / "a.tar", max_bytes=299_999, progress=False)
    assert file_names(tmp_path) == []
    fetch(server.url("a.tar"), tmp_path / "a.tar", max_bytes=300_000, progress=False)


@pytest.mark.parametrize("note", ["[]", "3", '{"size": "9"}', "\ufeff{", "\0"])
def test_a_note_that_is_none_of_ours_starts_over(server, tmp_path, note):
    (tmp_path / "a.tar.part").write_bytes(b"old")
    (tmp_path / "a.tar.part.json").write_text(note)
    get(server, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
