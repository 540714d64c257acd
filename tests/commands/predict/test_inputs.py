"""From what a person types to sources: folders, patterns, lists, addresses, cameras, and one error for each
place that cannot be used.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detectors.commands.predict.inputs import InputSource, find_sources, given_sources


def found(*places: str) -> list[str]:
    """kind:name of each source; an error's text."""
    return [s if isinstance(s := source, str) else text(source) for source in find_sources(places)]


def text(source) -> str:
    return f"error: {source}" if isinstance(source, Exception) else f"{source.kind}:{source.name}"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """a.jpg, b.PNG, deep/er/c.webp, deep/clip.mp4, .hidden/d.jpg, a loop of links, notes.md."""
    for name in (
        "a.jpg",
        "b.PNG",
        "deep/er/c.webp",
        "deep/clip.mp4",
        ".hidden/d.jpg",
        "notes.md",
        "odd[1].jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "loop").symlink_to(tmp_path / "deep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_everything_below_it_once(place):
    here = ["image:a.jpg", "image:b.PNG", "image:odd[1].jpg", "video:deep/clip.mp4", "image:deep/er/c.webp"]
    assert found(".") == here
    assert found("deep/") == ["video:deep/clip.mp4", "image:deep/er/c.webp"]
    assert found(".hidden") == ["image:.hidden/d.jpg"]


def test_patterns_are_sorted_and_may_match_folders(place):
    assert found("*.jpg") == ["image:a.jpg", "image:odd[1].jpg"]
    assert found("**/*.webp") == ["image:deep/er/c.webp"]
    assert found("d*p") == ["video:deep/clip.mp4", "image:deep/er/c.webp"]
    assert found("odd[1].jpg") == ["image:odd[1].jpg"]  # a file of that very name
    assert found("*.gif") == ["error: *.gif: no file matches this pattern"]


def test_a_list_names_places_from_its_own_folder_or_the_working_directory(place):
    lines = ["# remark", "", "c.webp", "a.jpg", " ../clip.mp4 ", "https://x.org/y.png", "nowhere.jpg", "c.*"]
    (place / "deep/er/list.txt").write_text("\n".join(lines))
    assert found("deep/er/list.txt") == [
        "image:deep/er/c.webp",
        "image:a.jpg",
        "video:deep/er/../clip.mp4",
        "image:https://x.org/y.png",
        "error: deep/er/list.txt: line 7: nowhere.jpg: no such image or folder",
        "image:deep/er/c.webp",
    ]
    (place / "empty.txt").write_text("# nothing\n")
    (place / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert "names no image; a list has one path" in found("empty.txt")[0]
    assert "bytes.txt: the list of images is not UTF-16 text" in found("bytes.txt")[0]


def test_a_dash_reads_a_list_from_stdin(place, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a.jpg\r\ndeep\n")))
    assert found("-") == ["image:a.jpg", "video:deep/clip.mp4", "image:deep/er/c.webp"]


def test_addresses_and_cameras(place):
    assert found("http://h/a%20b.jpg?x=1", "https://h/v.MP4", "webcam:3", "0") == [
        "image:http://h/a%20b.jpg?x=1",
        "video:https://h/v.MP4",
        "camera:webcam:3",
        "camera:webcam:0",
    ]
    (place / "0").touch()
    assert found("0") == ["image:0"]  # a file of this name comes first
    assert "only http:// and https:// addresses are fetched" in found("file:///etc/passwd")[0]


def test_what_is_not_there_is_named_and_the_others_stay(place):
    assert found("a.jgp", "a.jpg", "gone/x.jpg") == [
        "error: a.jgp: no such image or folder; did you mean 'a.jpg'?",
        "image:a.jpg",
        "error: gone/x.jpg: no such image or folder; there is no folder gone",
    ]
    (place / "empty").mkdir()
    assert "empty: no image or video in this folder or below it" in found("empty")[0]


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("https://x.org/a/b.jpg?big=1", "image", "x.org/b.jpg"),
        ("http://x.org:80/", "image", "x.org/x.org"),
        ("http://x.org/a/..", "image", "x.org/x.org"),
        ("webcam:2", "camera", "webcam-2"),
        ("a/b.mp4", "video", "a/b.mp4"),
    ],
)
def test_files_about_a_source_have_a_plain_name(name, kind, path):
    assert InputSource(kind, name).path == Path(path)


def test_what_a_program_gives_may_be_mixed(place):
    array = np.zeros((2, 3, 3), np.uint8)
    sources = list(given_sources([array, "deep", Path("a.jpg")]))
    assert [source.kind for source in sources] == ["array", "video", "image", "image"]
    assert sources[0].image is array
