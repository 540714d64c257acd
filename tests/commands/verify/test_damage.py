"""The verify command on damaged and unknown files: it names each of them, and still compares the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detectors.commands.verify import command
from detectors.commands.verify.recordings import Folder
from tests.commands.verify.test_command import run
from tests.recorded import copy, write_cases


@pytest.fixture
def region(tmp_path) -> Path:
    """Two cases of region_train."""
    return write_cases(tmp_path / "region", "region_train", {"one": "one", "one_class": "other"})


def test_a_truncated_npz_is_named(region, capsys):
    path = region / "region_train.npz"
    path.write_bytes(path.read_bytes()[:-2000])
    status, output = run(region, capsys)
    assert status == 1
    for words in ("region_train.json", "region_train.npz: not an npz file", "truncated?"):
        assert words in output


def test_a_damaged_array_is_named_and_the_other_cases_run(region, capsys):
    path = region / "region_train.npz"
    data = bytearray(path.read_bytes())
    start = data.index(b"other/input.npy") + 1000
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    status, output = run(region, capsys)
    assert status == 1
    assert "array 'other/input' cannot be read" in output
    assert all("pass" in line for line in output.splitlines() if line.startswith("region_train/one "))


def test_a_missing_key_is_named(region, capsys):
    path = region / "region_train.json"
    settings = json.loads(path.read_text())
    del settings["one"]["coord_scale"]
    path.write_text(json.dumps(settings))
    status, output = run(region, capsys)
    assert status == 1
    (line,) = {line for line in output.splitlines() if "NOT RUN" in line}
    assert line.startswith("region_train/one ") and "no key 'coord_scale'" in line


def test_a_truncated_json_is_named(region, capsys):
    path = region / "region_train.json"
    path.write_text(path.read_text()[:200])
    status, output = run(region, capsys)
    assert status == 1
    assert "region_train.json: invalid JSON" in output


def test_an_unknown_file_is_named(region, capsys):
    (region / "surprise.bin").write_bytes(b"x")
    for document in ("README.md", "LICENSE", "recipe.py", ".hidden/x"):
        (region / document).parent.mkdir(exist_ok=True)
        (region / document).write_text("not a recording")
    status, output = run(region, capsys)
    assert status == 1
    not_run = [line.split()[0] for line in output.splitlines() if "NOT RUN" in line]
    assert not_run == ["surprise.bin"] * 2  # in the table, and once more at the end


@pytest.mark.parametrize("name", ["region_train.npz", "region_train.json"])
def test_half_of_a_pair_is_named(region, name, capsys):
    (region / name).unlink()
    status, output = run(region, capsys)
    assert status == 1
    assert "region_train.npz" in output and ("no such file" in output or "no reader knows its kind" in output)


def test_an_array_without_settings_is_named(region, capsys):
    path = region / "region_train.json"
    settings = json.loads(path.read_text())
    del settings["other"]
    path.write_text(json.dumps(settings))
    status, output = run(region, capsys)
    assert status == 1
    assert "arrays that no fixture reads: other/" in output


def test_a_changed_number_fails(region, capsys):
    arrays = dict(np.load(region / "region_train.npz"))
    arrays["other/delta"] = arrays["other/delta"] + np.float32(1e-3)
    np.savez(region / "region_train.npz", **arrays)
    status, output = run(region, capsys)
    assert status == 1
    failed = [line for line in output.splitlines() if "FAIL: " in line]
    assert {tuple(line.split()[:2]) for line in failed} == {("region_train/other", "delta")}


def test_a_missing_cfg_is_named(tmp_path, capsys):
    copy(
        tmp_path,
        "net.json",
        "net_mini-*",
        "cfg/mini-tiny*",
        "cfg/mini-darknet*",
        "cfg/mini-yolov2-64*",
        "cfg/mini-yolov2-1*",
    )
    status, output = run(tmp_path, capsys)
    assert status == 1
    (line,) = {line for line in output.splitlines() if "NOT RUN" in line}
    assert line.startswith("net/mini-yolov2-nosoftmax ")
    assert "mini-yolov2-nosoftmax.cfg: no such cfg file" in line


def test_an_unknown_operation_is_named(tmp_path):
    write_cases(tmp_path, "ops", {"reorg0": "reorg0"})
    settings = json.loads((tmp_path / "ops.json").read_text())
    settings["reorg0"]["op"] = "shortcut"
    (tmp_path / "ops.json").write_text(json.dumps(settings))
    (row,) = [row for row in command.verify(Folder(tmp_path)) if row.bad]
    assert "unknown op 'shortcut'" in row.note


def test_remarks_are_no_failures(region, capsys):
    (region / "cfg").mkdir()
    (region / "cfg/spare.cfg").write_text("[net]\n")
    (region / "MANIFEST.json").write_text(
        json.dumps({"files": {"gone.npz": {}, "region_train.json": {"sha256": "0"}}})
    )
    status, output = run(region, capsys)
    assert status == 0
    assert output.count("remark: ") == 3
    for words in (
        "cfg/spare.cfg is used by no fixture",
        "lists gone.npz, which does not exist",
        "the sha256 of region_train.json is not the one in MANIFEST.json",
    ):
        assert words in output


def test_failed_leaves_out_the_lines_that_pass(region, capsys):
    command.main([str(region), "--failed"])
    assert "region_train/one" not in capsys.readouterr().out


def test_a_missing_folder_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([str(tmp_path / "nowhere")])
    assert end.value.code == 2
    assert "no such folder" in capsys.readouterr().err
