"""metrics.csv: what is appended, and what a resume keeps of it."""

from __future__ import annotations

import csv

import pytest

from detectors.training.csv_log import METRICS, CsvLog
from tests.faults import file_size_limit

ROWS = ["step,tag,value", "1,train/rate,0.1", "2,train/rate,0.2", "2,val/AP,0.5", "3,train/rate,0.3"]


def text(folder):
    return (folder / METRICS).read_bytes().decode()


def earlier(folder, rows=ROWS, end="\n"):
    (folder / METRICS).write_text("\n".join(rows) + end)


def test_values_keep_all_digits_and_tags_any_character(tmp_path):
    log = CsvLog(tmp_path)
    log.scalars({"train/rate": 0.1 + 0.2, "train/loss/total": float("nan")}, 10)
    log.scalars({'val_class/a,"b"\nc/AP50': 1e-07}, 20)
    log.close(True)
    with (tmp_path / METRICS).open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["step", "tag", "value"],
            ["10", "train/rate", "0.30000000000000004"],
            ["10", "train/loss/total", "nan"],
            ["20", 'val_class/a,"b"\nc/AP50', "1e-07"],
        ]


def test_a_resume_removes_what_it_will_write_again(tmp_path):
    earlier(tmp_path)
    log = CsvLog(tmp_path, first_step=3)
    assert text(tmp_path).splitlines() == ROWS[:4]
    assert log.before_redone == {}
    log.scalars({"train/rate": 0.25}, 3)
    log.close(False)
    assert text(tmp_path).splitlines() == [*ROWS[:4], "3,train/rate,0.25"]


def test_an_evaluation_that_is_made_again_is_removed(tmp_path):
    earlier(tmp_path)
    log = CsvLog(tmp_path, first_step=3, redo_evaluation=True)
    assert text(tmp_path).splitlines() == ROWS[:3]
    assert log.before_redone == {"train/rate": 0.2}
    earlier(tmp_path, ROWS[:3])
    assert CsvLog(tmp_path, first_step=3, redo_evaluation=True).before_redone == {}


def test_a_new_run_starts_anew(tmp_path):
    earlier(tmp_path)
    CsvLog(tmp_path).close(False)
    assert text(tmp_path) == "step,tag,value\n"


@pytest.mark.parametrize(
    "tail", ["", "3", "3,train/rate", "3,train/rate,0.", '3,"val_class/a\n', "\x00\x00\n"]
)
def test_a_row_that_a_kill_cut_short_is_dropped(tmp_path, tail):
    earlier(tmp_path, [*ROWS[:4], tail], end="")
    CsvLog(tmp_path, first_step=4).close(False)
    assert text(tmp_path).splitlines() == ROWS[:4]


def test_a_full_disk_leaves_no_part_of_a_row(tmp_path):
    log = CsvLog(tmp_path)
    log.scalars({"train/rate": 0.5}, 1)
    with file_size_limit((tmp_path / METRICS).stat().st_size + 5), pytest.raises(OSError, match="too large"):
        log.scalars({"train/rate": 0.5}, 2)
    log.scalars({"train/rate": 0.5}, 3)
    assert text(tmp_path).splitlines() == ["step,tag,value", "1,train/rate,0.5", "3,train/rate,0.5"]


def test_another_programs_file_is_not_touched(tmp_path):
    earlier(tmp_path, ["epoch,loss", "1,2"])
    before = text(tmp_path)
    for first_step in (0, 3):
        with pytest.raises(ValueError) as error:
            CsvLog(tmp_path, first_step=first_step)
        assert str(error.value) == (
            f"{tmp_path / METRICS}: its columns are epoch, loss, not step, tag, value; move it away, "
            "or leave csv out of trainer.trackers"
        )
    assert text(tmp_path) == before
