"""What the files of an evaluation are called."""

from detectors.training.evaluation_files import file_suffix


def test_only_the_best_checkpoint_on_val_writes_what_compare_reads(tmp_path):
    assert file_suffix(tmp_path / "converted.pt", "val") == "_converted"  # others may lie beside it
    assert (
        file_suffix(tmp_path / "last.pt", "val") == ""
    )  # without val images in training, there is no best.pt
    (tmp_path / "best.pt").touch()
    assert file_suffix(tmp_path / "best.pt", "val") == ""
    assert file_suffix(tmp_path / "best.pt", "test") == "_test"
    assert file_suffix(tmp_path / "last.pt", "val") == "_last"
    assert file_suffix(tmp_path / "last.pt", "test", "VOC_1a2b3c4d") == "_test_last_VOC_1a2b3c4d"
