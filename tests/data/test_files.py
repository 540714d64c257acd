"""Files are written atomically: after an error while writing, the old file is there and nothing else."""

from __future__ import annotations

import errno
import json
import os

import pytest

from detectors.data.files import Appender, atomic_file, link, write_json, write_text
from tests.faults import file_size_limit


def test_an_error_leaves_the_previous_file(tmp_path):
    path = tmp_path / "new" / "numbers.bin"
    with atomic_file(path) as file:
        file.write(b"old")

    def interrupted_write() -> None:
        with atomic_file(path) as file:
            file.write(b"half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted_write()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["numbers.bin"]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with atomic_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_json_and_text(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": [1, None]}
    assert (tmp_path / "a.json").read_text().endswith("}\n")
    write_text(tmp_path / "b.txt", "größer\n")
    assert (tmp_path / "b.txt").read_bytes() == "größer\n".encode()


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/a.json: a folder lies where a file is to be written; "
    ):
        write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("hard_links", [True, False], ids=["hard links", "none"])
def test_a_second_name_keeps_what_the_first_one_had(tmp_path, monkeypatch, hard_links):
    """Also where the file system has no hard links, and in the place of an older file."""
    if not hard_links:

        def no_links(*names) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)
    write_text(tmp_path / "last", "step 7")
    write_text(tmp_path / "step_7", "older")
    link(tmp_path / "last", tmp_path / "step_7")
    assert (tmp_path / "step_7").read_text() == "step 7"
    assert os.path.samefile(tmp_path / "last", tmp_path / "step_7") == hard_links
    write_text(tmp_path / "last", "step 8")
    assert (tmp_path / "step_7").read_text() == "step 7"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step_7"]


def test_a_record_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "records"
    path.write_bytes(b"old ")
    appender = Appender(path)
    appender.append(b"first ")
    with file_size_limit(12), pytest.raises(OSError, match="File too large"):
        appender.append(b"second ")
    assert path.read_bytes() == b"old first "
    appender.append(b"third")
    appender.close()
    assert path.read_bytes() == b"old first third"
