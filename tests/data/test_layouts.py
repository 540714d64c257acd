"""The format that a folder's names show."""

from pathlib import Path

import pytest

from detectors.data.layouts import guess_format


@pytest.mark.parametrize(
    ("files", "format"),
    [
        (["Annotations/a.xml", "JPEGImages/a.jpg"], "voc"),
        (["VOC2007/Annotations/a.xml"], "voc"),
        (["annotations/train.json", "train/a.jpg"], "coco"),
        (["train/_annotations.coco.json", "train/a.jpg"], "coco"),
        (["labels/train/a.txt", "images/train/a.jpg"], "darknet"),
        (["train/labels/a.txt", "train/images/a.jpg"], "darknet"),
        (["data.yaml"], "darknet"),
        (["a.jpg"], None),
        ([], None),
    ],
)
def test_the_format_of_a_folder(files, format, tmp_path):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert guess_format(tmp_path) == format


def test_a_folder_that_is_not_there_shows_none():
    assert guess_format(Path("/no/such/folder")) is None
