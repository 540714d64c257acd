"""One file from a server on the loopback address that breaks off, refuses, changes the file or knows no ranges."""

from __future__ import annotations

import errno
import io
import json
import ssl

import numpy as np
import pytest

from detectors.commands.download import fetch as fetching
from detectors.commands.download.fetch import fetch, is_loopback
from tests.commands.download.server import serving

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.0)


@pytest.fixture
def served():
    with serving() as server:
        server.files["a.tar"] = CONTENT
        server.etags["a.tar"] = '"one"'
        yield server


def get(served, tmp_path):
    fetch(served.url("a.tar"), tmp_path / "a.tar", progress=False)


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_whole_file(served, tmp_path):
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked == [("a.tar", None)]
    assert left(tmp_path) == ["a.tar"]


def test_a_broken_connection_goes_on_where_it_stopped(served, tmp_path):
    served.cuts = [100_000, 50_000]
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked == [("a.tar", None), ("a.tar", "bytes=100000-"), ("a.tar", "bytes=150000-")]
    assert served.sent == [100_000, 50_000, 150_000]  # no byte twice


def test_a_second_call_goes_on_where_the_first_gave_up(served, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 3)
    served.cuts = [70_000, 0, 0, 0]
    with pytest.raises(
        ValueError,
        match=r"70,000 of 300,000 bytes are in .*a\.tar\.part; run the same command again: it goes on",
    ):
        get(served, tmp_path)
    assert (tmp_path / "a.tar.part").read_bytes() == CONTENT[:70_000]
    served.cuts = []
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked[-1] == ("a.tar", "bytes=70000-")
    assert sum(served.sent) == len(CONTENT)


def test_a_connection_whose_encryption_breaks_is_opened_again(served, tmp_path, monkeypatch):
    """Such an error's number, 1, means something else than the file system's EPERM."""
    response, broken = fetching._response, iter([ssl.SSLError(ssl.SSL_ERROR_SSL, "bad record mac")])

    def breaking(*arguments):
        for error in broken:
            raise error
        return response(*arguments)

    monkeypatch.setattr(fetching, "_response", breaking)
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_attempts_count_from_the_last_byte_that_came(served, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    served.cuts = [10_000] * 20
    get(served, tmp_path)
    assert len(served.asked) == 21


def test_pauses_double_and_are_told(served, tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(fetching, "PAUSE", 1.0)
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    served.statuses = [503, 503, 503, 503]
    get(served, tmp_path)
    assert pauses == [1, 2, 4, 8]
    assert "Service Unavailable; another attempt in 8 s" in capsys.readouterr().err


def test_a_server_without_ranges_starts_again(served, tmp_path):
    served.ranges, served.cuts = False, [100_000]
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked == [("a.tar", None), ("a.tar", "bytes=100000-")]
    assert served.sent == [100_000, 300_000]


@pytest.mark.parametrize(
    ("etags", "content", "requests"),
    [
        pytest.param(('"one"', '"two"'), OTHER, 1, id="the server sees it by If-Range"),
        pytest.param(('W/"one"', 'W/"two"'), OTHER, 2, id="its answer has another ETag"),
        pytest.param((None, None), OTHER[:-1], 2, id="its answer has another size"),
    ],
)
def test_another_file_by_now_starts_again(served, tmp_path, monkeypatch, etags, content, requests):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    served.etags["a.tar"], served.cuts = etags[0], [100_000]
    with pytest.raises(ValueError, match="1 attempts"):
        get(served, tmp_path)
    served.asked.clear()
    served.files["a.tar"], served.etags["a.tar"] = content, etags[1]
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == content
    assert len(served.asked) == requests


def test_a_shorter_file_by_now_answers_416(served, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    served.etags, served.cuts = {}, [100_000]
    with pytest.raises(ValueError):
        get(served, tmp_path)
    served.files["a.tar"] = OTHER[:50_000]
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == OTHER[:50_000]


def test_a_part_of_another_address_is_not_gone_on_from(served, tmp_path):
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1000)
    (tmp_path / "a.tar.part.json").write_text(
        json.dumps({"url": "http://elsewhere/a.tar", "size": 300_000, "etag": None, "modified": None})
    )
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked == [("a.tar", None)]


@pytest.mark.parametrize("note", ["", "{", None])
def test_a_part_without_a_usable_note_is_not_gone_on_from(served, tmp_path, note):
    (tmp_path / "a.tar.part").write_bytes(b"x" * 1000)
    if note is not None:
        (tmp_path / "a.tar.part.json").write_text(note)
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(served, tmp_path):
    """The process was killed between the last byte and the renaming."""
    (tmp_path / "a.tar.part").write_bytes(CONTENT)
    note = {"url": served.url("a.tar"), "size": 300_000, "etag": '"one"', "modified": None}
    (tmp_path / "a.tar.part.json").write_text(json.dumps(note))
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked == []


def test_without_a_length_the_end_is_the_end(served, tmp_path):
    """As GitHub serves its archives; what is missing then shows when it is unpacked."""
    served.lengths = False
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT


def test_what_a_server_refuses_is_not_tried_again(served, tmp_path):
    with pytest.raises(
        ValueError, match=r"b\.tar: the server answers 404 .*put it to .*b\.tar and run the same command"
    ):
        fetch(served.url("b.tar"), tmp_path / "b.tar", progress=False)
    assert len(served.asked) == 1


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    with serving() as gone:
        url = gone.url("a.tar")
    with pytest.raises(
        ValueError, match=r"refused.*2 attempts.*nothing of it is there yet.*run the same command again"
    ):
        fetch(url, tmp_path / "a.tar", progress=False)


def test_a_full_disk_keeps_the_part(served, tmp_path, monkeypatch):
    """The disk takes 100,000 bytes, in the middle of a block; later there is room again."""

    class Full:
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

    monkeypatch.setattr(
        fetching, "open", lambda path, mode, buffering: Full(io.FileIO(path, mode)), raising=False
    )
    with pytest.raises(
        ValueError,
        match=r"a\.tar\.part: No space left on device; 100,000 of 300,000 bytes .* mend that, then run the same command",
    ):
        get(served, tmp_path)
    assert len(served.asked) == 1
    monkeypatch.setattr(fetching, "open", open)
    get(served, tmp_path)
    assert (tmp_path / "a.tar").read_bytes() == CONTENT
    assert served.asked[-1] == ("a.tar", "bytes=100000-")


def test_a_proxy_is_not_asked_for_the_loopback_address(served, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    get(served, tmp_path)
    assert is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("images.cocodataset.org") and not is_loopback("10.0.0.1")
