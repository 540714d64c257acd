"""Where evaluate.py writes; that it evaluates is tested through the command in test_smoke.py."""

from __future__ import annotations

from evaluate import file_suffix


def test_only_the_best_checkpoint_on_val_writes_what_compare_reads(tmp_path):
    assert file_suffix(tmp_path / "converted.pt", "val") == ""  # a checkpoint alone in its folder
    (tmp_path / "best.pt").touch()
    assert file_suffix(tmp_path / "best.pt", "val") == ""
    assert file_suffix(tmp_path / "best.pt", "test") == "_test"
    assert file_suffix(tmp_path / "last.pt", "val") == "_last"
    assert file_suffix(tmp_path / "last.pt", "test") == "_test_last"
