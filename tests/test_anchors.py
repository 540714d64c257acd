"""Default boxes against Caffe's PriorBox layer (recorded), YOLO anchors against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import YOLO_ANCHORS, DefaultBoxes, YoloAnchors, ssd300_levels, ssd512_levels
from detectors.boxes import cxcywh_to_xyxy

MAKERS = {
    "ssd300_voc": (ssd300_levels("voc"), 300),
    "ssd300_coco": (ssd300_levels("coco"), 300),
    "ssd512_voc": (ssd512_levels("voc"), 512),
}


@pytest.mark.parametrize("name", MAKERS)
def test_default_boxes_equal_caffe(name, fixtures):
    levels, side = MAKERS[name]
    expected = torch.from_numpy(np.load(fixtures / "ssd/priors.npz")[name]).double()
    ours = cxcywh_to_xyxy(DefaultBoxes(levels, (side, side))((side, side)).boxes_cxcywh.double()) / side
    assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_ssd512_coco_sizes():
    """There is no recording of SSD512 on COCO, only the published integer sizes and the number of boxes."""
    levels = ssd512_levels("coco")
    assert [level.min_size for level in levels] == [20, 51, 133, 215, 296, 378, 460]
    grid = DefaultBoxes(levels, (512, 512))((512, 512))
    assert grid.num_anchors == 24564
    third = [4.0, 4.0, 20 * 2**0.5, 20 / 2**0.5]  # the third anchor of the first cell: aspect ratio 2
    assert_close(grid.boxes_cxcywh[2], torch.tensor(third))


@pytest.mark.parametrize("name", ["ssd300_voc", "ssd300_coco"])
@pytest.mark.parametrize(("clip", "recorded"), [("cxcywh", "clip_centre"), ("wh", "clip_wh")])
def test_clipped_default_boxes_equal_the_ports(name, clip, recorded, fixtures):
    arrays = np.load(fixtures / "ssd/priors.npz")
    levels, side = MAKERS[name]
    plain = DefaultBoxes(levels, (side, side))((side, side)).boxes_cxcywh
    clipped = DefaultBoxes(levels, (side, side), clip)((side, side)).boxes_cxcywh
    changed = ((plain - clipped).abs().amax(1) > 1e-6 * side).nonzero().flatten()
    assert_close(changed, torch.from_numpy(arrays[f"{name}_{recorded}_idx"].astype(np.int64)))
    boxes = cxcywh_to_xyxy(clipped[changed].double()) / side
    assert_close(boxes, torch.from_numpy(arrays[f"{name}_{recorded}_boxes"]).double(), atol=1e-6, rtol=1e-6)


def test_yolo_anchors_lie_in_their_cells():
    grid = YoloAnchors(YOLO_ANCHORS["voc"], 32)((64, 96))
    assert grid.num_anchors == 2 * 3 * 5
    index = 0
    for row in range(2):
        for column in range(3):
            for w, h in YOLO_ANCHORS["voc"]:
                expected = torch.tensor([column * 32 + 16, row * 32 + 16, w * 32, h * 32])
                assert_close(grid.boxes_cxcywh[index], expected)
                assert grid.cell[index].tolist() == [column, row]
                index += 1


def test_sizes_may_be_given_as_a_list():
    assert ssd300_levels([30, 60, 111, 162, 213, 264, 315]) == ssd300_levels("voc")
    levels = ssd512_levels([10, 20, 30, 40, 50, 60, 70, 80])
    assert [(level.min_size, level.max_size) for level in levels] == [(n, n + 10) for n in range(10, 80, 10)]


def test_errors_name_the_wrong_size_or_shape():
    with pytest.raises(ValueError, match=r"\(100, 96\).*multiples of its stride 32"):
        YoloAnchors([(1, 1)], 32)((100, 96))
    with pytest.raises(ValueError, match=r"input.size=\[300, 300\]"):
        DefaultBoxes(ssd300_levels(), (300, 300))((320, 320))
    with pytest.raises(ValueError, match="pairs"):
        YoloAnchors([(1, 0)], 32)
    with pytest.raises(ValueError, match="voc and coco"):
        ssd300_levels("kitti")
    for sizes in ([30, 60], [30, 60, 111, 162, 213, 264, 264], [0, 60, 111, 162, 213, 264, 315]):
        with pytest.raises(ValueError, match="7 ascending numbers of pixels"):
            ssd300_levels(sizes)
    with pytest.raises(ValueError, match="clip"):
        DefaultBoxes(ssd300_levels(), (300, 300), "yes")
