"""Where evaluate.py writes, and what it refuses; that it evaluates is tested through the command in
test_smoke.py.
"""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import pytest

from detectors.commands.evaluate import fault_counts, fault_lines, file_suffix, with_data
from detectors.config.check import check
from detectors.config.schema import Config, EvaluateConfig, composed
from detectors.data.problems import Problem


def test_only_the_best_checkpoint_on_val_writes_what_compare_reads(tmp_path):
    assert file_suffix(tmp_path / "converted.pt", "val") == ""  # a checkpoint alone in its folder
    (tmp_path / "best.pt").touch()
    assert file_suffix(tmp_path / "best.pt", "val") == ""
    assert file_suffix(tmp_path / "best.pt", "test") == "_test"
    assert file_suffix(tmp_path / "last.pt", "val") == "_last"
    assert file_suffix(tmp_path / "last.pt", "test") == "_test_last"


def asked(config: Config, split: str, **data) -> Config:
    return with_data(config, EvaluateConfig(run="r", split=split, data=asdict(config.data) | data))


@pytest.mark.parametrize(
    ("split", "data"),
    [
        ("test", {"test": ["VOC2007/test"]}),
        ("val", {"val": ["VOC2012/val"], "root": "/moved/VOCdevkit"}),  # a part of VOC2012/trainval
        ("val", {"val": ["VOC2010/val", "VOC2012/trainval"]}),
    ],
)
def test_ap_on_training_images_is_refused(split, data):
    config = check(composed(["data=voc0712plus"]))
    with pytest.raises(
        ValueError,
        match=r"data\.(val|test)=.*: the run was trained on VOC20(07/test|12/val|12/trainval); choose images",
    ):
        asked(config, split, **data)
    assert asked(config, "train", **data).data.train == config.data.train  # it says so itself


def test_other_images_may_be_evaluated():
    config = check(composed(["data=voc0712"]))
    assert asked(config, "test", test=["VOC2007/test"]).data.test == ["VOC2007/test"]
    assert asked(config, "val", root="/another/set", val=["VOC2012/val"]).data.root == "/another/set"
    assert with_data(config, EvaluateConfig(run="r", split="train")) is config


def test_what_was_not_measured_on_is_told():
    """What the reader leaves out makes the set smaller; an image that cannot be decoded counts as missed."""
    missing = [
        Problem("missing-image", "a.jpg", "listed in val.txt"),
        Problem("missing-image", "b.jpg", "listed in val.txt"),
    ]
    flat = Problem("no-area", "c.xml", "object 1 cat [3, 3, 3, 9]")
    sound, broken = (
        SimpleNamespace(problems={}, summary=lambda: ""),
        SimpleNamespace(problems={"d.jpg": flat}, summary=lambda: "1 broken"),
    )
    assert fault_counts([], sound) == {} and fault_lines([], sound) == []
    assert fault_counts([*missing, flat], broken) == {
        "left_out": {"missing-image": 2, "no-area": 1},
        "broken_images": 1,
    }
    first, second = fault_lines([*missing, flat], broken)
    assert first.endswith("does not count at all: 2 images that are not there, 1 boxes without area\n")
    assert second.endswith("count as missed: 1 broken\n")
