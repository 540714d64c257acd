"""The table of tags against docs/curves.md and against what the detectors log."""

import re
from pathlib import Path

import pytest
import torch

from detectors.models.ssd import ssd160
from detectors.models.yolov2 import yolov2_tiny
from detectors.training.tags import TAGS, check_tag
from tests.oracles import pad_targets

CURVES = Path(__file__).parents[2] / "docs" / "curves.md"


def test_a_class_name_may_have_any_character():
    for name in ("a/b", "a\nb", "\x1b[31m", " "):
        assert check_tag(f"val_class/{name}/AP50") == f"val_class/{name}/AP50"


def test_the_refusal_names_the_nearest_tag():
    with pytest.raises(ValueError, match="did you mean 'train/loss/total'"):
        check_tag("train/los/total")


def test_docs_explain_each_tag_and_no_other():
    explained = re.findall(r"^\| `([^`]+)` \|", CURVES.read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(TAGS)


@pytest.mark.parametrize("build", [yolov2_tiny, ssd160])
def test_everything_that_a_detector_logs_has_a_tag(build):
    detector, size = build(num_classes=3, width=0.05), (160, 160)
    images, targets = (
        torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8),
        pad_targets([[[10.0, 20, 90, 120]], [[40.0, 40, 150, 80]]]),
    )
    outputs = detector(images)
    grid = detector.grid(size)
    encoded = detector.encoder(targets, grid, outputs)
    for term in detector.loss(outputs, encoded, grid):
        check_tag(f"train/loss/{term}")
    for stage in (detector.encoder, detector.loss):
        for name in stage.statistics(outputs, encoded, grid):
            check_tag(f"train/{name}")
