"""darknet_detector: a cfg that ends in a convolution and a region layer, for any number of classes."""

from __future__ import annotations

import pytest
import torch

from detectors.darknet.cfg_detector import darknet_detector
from tests.darknet import cfgs

TINY = cfgs.tiny(0.125, 3)


def test_the_last_two_sections_follow_the_number_of_classes():
    images = torch.zeros(1, 3, 64, 64)
    counts = {}
    for classes in (3, 7):
        detector = darknet_detector(num_classes=classes, cfg=TINY).eval()
        counts[classes] = detector.parameter_count
        with torch.no_grad():
            assert detector(images).class_logits.shape == (1, 2 * 2 * 5, classes)
    last = 1024 // 8  # channels before the last convolution: weights and a bias for each filter
    assert counts[7] - counts[3] == 5 * (7 - 3) * (last + 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("channels=3", "channels=1", r"channels=1 in \[net\], but images have 3"),
        ("width=64", "width=80", "with 64 x 80 pixels and 2 x 3 cells, a cell is not a square"),
        (
            TINY[TINY.index("[region]") :],
            "",
            r"a detector ends in \[convolutional\] and \[region\]; this network ends in "
            r"\[convolutional\], \[convolutional\]",
        ),
    ],
    ids=["grey", "oblong cells", "no region"],
)
def test_what_is_no_detector_is_refused(old, new, message):
    text = TINY.replace(old, new)
    assert text != TINY
    with pytest.raises(ValueError, match=message):
        darknet_detector(num_classes=3, cfg=text)
