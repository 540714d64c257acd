"""Detections against Caffe's DetectionOutput and Darknet's get_region_detections + do_nms_sort, recorded from
the original programs.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.verify import region_layer, ssd_recordings
from detectors.postprocess import PostProcess, ssd_scores, to_original, yolo_logistic_scores, yolo_scores
from detectors.structures import Detections, HeadOutputs, ImageInfo

FIXTURES = Path(__file__).parent / "fixtures"
SSD_CASES = sorted(path.stem for path in (FIXTURES / "ssd").glob("det_*.npz"))
DECODE = json.loads((FIXTURES / "darknet/region_decode.json").read_text())
DECODE_CASES = [
    (name, k)
    for name, case in DECODE.items()
    for k, det in enumerate(case["dets"])
    if det["nms_kind"] == "sort"
]


def caffe() -> PostProcess:
    return PostProcess(
        coder=SSDBoxCoder(),
        score_rule=ssd_scores,
        score_threshold=0.01,
        nms_iou=0.45,
        candidates_per_class=400,
        max_detections=200,
    )


@pytest.mark.parametrize("name", SSD_CASES)
def test_detections_equal_caffe(name):
    case = np.load(FIXTURES / f"ssd/{name}.npz")
    loc, conf = ssd_recordings.predictions(case)
    found = caffe()(
        HeadOutputs(loc.double(), conf.double()), ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    )
    expected = torch.from_numpy(
        case["caffe_det"].reshape(-1, 7).astype(np.float64)
    )  # prior, label, score, box
    order = lambda label, score: np.lexsort((-score.numpy(), label.numpy()))  # noqa: E731
    ours, theirs = order(found.labels, found.scores), order(expected[:, 1], expected[:, 2])
    assert_close(found.labels[ours] + 1, expected[theirs, 1].long())
    assert_close(found.scores[ours], expected[theirs, 2], atol=1e-5, rtol=1e-5)
    assert_close(found.boxes[ours] / 300, expected[theirs, 3:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "k"), DECODE_CASES)
def test_detections_equal_darknet(name, k):
    """Boxes, letterbox correction, thresholds and per-class suppression; Darknet numbers its boxes (anchor,
    row, column).
    """
    case, det = DECODE[name], DECODE[name]["dets"][k]
    arrays = np.load(FIXTURES / "darknet/region_decode.npz")
    get = lambda key: torch.from_numpy(arrays[f"{name}/det{k}/{key}"])  # noqa: E731
    cells = arrays[f"{name}/anchors"].reshape(-1, 2)
    outputs = region_layer.region_outputs(
        torch.from_numpy(arrays[f"{name}/input"]), {**case, "anchors": cells}
    )
    grid = YoloAnchors(cells.tolist(), 32)((case["neth"], case["netw"]))
    rule = yolo_scores if case["softmax"] else yolo_logistic_scores
    post = PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=det["thresh"], nms_iou=det["nms"]
    )
    found = to_original(post(outputs, grid), [letterbox_info(case, det)], clip=False)

    index = get("prob_nms_idx").long()
    boxes = get("box")[index[:, 0]]
    if det["relative"]:
        boxes = boxes * torch.tensor([det["image_w"], det["image_h"]] * 2)
    boxes = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    ours, theirs = found.scores.argsort(), get("prob_nms_val").argsort()
    assert_close(found.scores[ours], get("prob_nms_val")[theirs], atol=1e-5, rtol=0)
    assert_close(found.labels[ours], index[theirs, 1])
    assert_close(found.boxes[ours], boxes[theirs], rtol=1e-5, atol=1e-5 * max(det["image_w"], det["image_h"]))


def letterbox_info(case: dict, det: dict) -> ImageInfo:
    """correct_region_boxes: whole-number sizes, exact half shifts."""
    net_w, net_h, w, h = case["netw"], case["neth"], det["image_w"], det["image_h"]
    new_w, new_h = (net_w, h * net_w // w) if net_w / w < net_h / h else (w * net_h // h, net_h)
    return ImageInfo(0, "0", "", (h, w), (new_w / w, new_h / h), ((net_w - new_w) / 2, (net_h - new_h) / 2))


def small_outputs(batch: int, seed: int) -> tuple[HeadOutputs, object]:
    grid = YoloAnchors([(1.0, 2.0), (2.0, 1.0)], 32)((96, 96))
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batch, grid.num_anchors, 8, generator=generator)
    return HeadOutputs(
        torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1), 2 * raw[..., 4:7], 2 * raw[..., 7]
    ), grid


def test_a_batch_gives_what_its_images_give_alone():
    outputs, grid = small_outputs(4, 0)
    post = PostProcess(
        coder=YoloBoxCoder(),
        score_rule=yolo_scores,
        score_threshold=0.1,
        nms_iou=0.45,
        candidates_per_class=6,
        max_detections=5,
    )
    whole = post(outputs, grid)
    assert (torch.bincount(whole.image, minlength=4) == 5).any()
    for b in range(4):
        alone = post(
            HeadOutputs(
                outputs.offsets[b : b + 1], outputs.class_logits[b : b + 1], outputs.objectness[b : b + 1]
            ),
            grid,
        )
        mine = whole.of_image(b)
        assert_close(mine.boxes, alone.boxes)
        assert_close(mine.scores, alone.scores)
        assert (alone.scores.diff() <= 0).all()


def test_boxes_that_overflow_are_dropped():
    outputs, grid = small_outputs(1, 1)
    outputs.offsets[0, 3, 2] = 1e4
    post = PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.0, nms_iou=1.0)
    found = post(outputs, grid)
    assert found.boxes.isfinite().all()
    assert len(found.scores) == (grid.num_anchors - 1) * 3


def test_nothing_above_the_threshold():
    outputs, grid = small_outputs(2, 2)
    found = PostProcess(
        coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=1.0, nms_iou=0.45, max_detections=10
    )(outputs, grid)
    assert found.boxes.shape == (0, 4)
    assert Detections.concatenate([]).boxes.shape == (0, 4)


def test_to_original_undoes_the_frame_and_clips():
    infos = [ImageInfo(0, "a", "", (100, 200), (2.0, 4.0), (10.0, 20.0)), ImageInfo(1, "b", "", (50, 50))]
    given = Detections(
        torch.tensor([0, 1]),
        torch.tensor([[30.0, 60, 500, 100], [-5, 5, 60, 20]]),
        torch.ones(2),
        torch.zeros(2).long(),
    )
    assert_close(to_original(given, infos).boxes, torch.tensor([[10.0, 10, 200, 20], [0, 5, 50, 20]]))
    assert_close(
        to_original(given, infos, clip=False).boxes, torch.tensor([[10.0, 10, 245, 20], [-5, 5, 60, 20]])
    )


@pytest.mark.slow
def test_an_untrained_network_is_quick():
    """Thousands of boxes above the threshold: SSD300, 8 images, every class everywhere.

    Seconds would be a loop over images and classes.
    """
    grid = DefaultBoxes(ssd300_levels(), (300, 300))((300, 300))
    generator = torch.Generator().manual_seed(0)
    outputs = HeadOutputs(
        torch.randn(8, 8732, 4, generator=generator), torch.randn(8, 8732, 21, generator=generator)
    )
    start = perf_counter()
    found = caffe()(outputs, grid)
    assert (torch.bincount(found.image) == 200).all()
    print(f"8 untrained SSD300 images: {perf_counter() - start:.2f} s")


@pytest.mark.parametrize("swap", [False, True])
def test_a_box_outside_of_the_image_suppresses_no_other_class(swap):
    """Suppression is per class wherever boxes lie: torchvision shifts classes apart, which counts on
    coordinates from 0 on.
    """
    grid = YoloAnchors([(1.0, 1.0)], 10)((300, 300))
    offsets = YoloBoxCoder().encode(
        torch.tensor([[290.0, 290, 300, 300], [-11, -11, -1, -1]]).repeat(450, 1), grid
    )[None]
    logits = torch.full((1, 900, 2), -30.0)
    logits[0, 0, int(swap)] = logits[0, 1, 1 - int(swap)] = 30.0
    objectness = torch.full((1, 900), -30.0)
    objectness[0, :2] = torch.tensor([3.0, 2.0])
    post = PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.5, nms_iou=0.45)
    assert len(post(HeadOutputs(offsets, logits, objectness), grid).scores) == 2
