"""Detections against recordings of Caffe and Darknet.

Caffe's DetectionOutput; Darknet's get_region_detections with do_nms_sort.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import nms

from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels
from detectors.boxes import cxcywh_to_xyxy
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.benchmark.operation_count import WAITING
from detectors.commands.verify import region_layer, ssd_recordings
from detectors.postprocess import PostProcess, ssd_scores, to_original, yolo_logistic_scores, yolo_scores
from detectors.structures import AnchorGrid, Detections, HeadOutputs, ImageInfo
from tests.test_targets import Counting

FIXTURES = Path(__file__).parent / "fixtures"
SSD_CASES = sorted(path.stem for path in (FIXTURES / "ssd").glob("det_*.npz"))
DECODE = json.loads((FIXTURES / "darknet/region_decode.json").read_text())
DECODE_CASES = [
    (name, number)
    for name, case in DECODE.items()
    for number, det in enumerate(case["dets"])
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
    offsets, logits = ssd_recordings.predictions(case)
    grid = ssd_recordings.recorded_grid(case, FIXTURES / "ssd")
    detections = caffe()(HeadOutputs(offsets.double(), logits.double()), grid)
    # Rows of anchor, label, score and box.
    expected = torch.from_numpy(case["caffe_det"].reshape(-1, 7).astype(np.float64))
    expected = expected[by_label_and_score(expected[:, 1], expected[:, 2])]
    order = by_label_and_score(detections.labels, detections.scores)
    assert_close(detections.labels[order] + 1, expected[:, 1].long())
    assert_close(detections.scores[order], expected[:, 2], atol=1e-5, rtol=1e-5)
    assert_close(detections.boxes[order] / 300, expected[:, 3:], atol=1e-5, rtol=1e-5)


def by_label_and_score(labels: torch.Tensor, scores: torch.Tensor) -> np.ndarray:
    """The order by label, the best score first in each."""
    return np.lexsort((-scores.numpy(), labels.numpy()))


@pytest.mark.parametrize(("name", "number"), DECODE_CASES)
def test_detections_equal_darknet(name, number):
    """Boxes, letterbox correction, thresholds and suppression per class."""
    case = DECODE[name]
    det = case["dets"][number]
    arrays = np.load(FIXTURES / "darknet/region_decode.npz")
    cells = arrays[f"{name}/anchors"].reshape(-1, 2)
    outputs = region_layer.region_outputs(
        torch.from_numpy(arrays[f"{name}/input"]), {**case, "anchors": cells}
    )
    grid = YoloAnchors(cells.tolist(), 32)((case["neth"], case["netw"]))
    rule = yolo_scores if case["softmax"] else yolo_logistic_scores
    post = PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=det["thresh"], nms_iou=det["nms"]
    )
    detections = to_original(post(outputs, grid), [letterbox_info(case, det)], clip=False)

    recorded = {
        key: torch.from_numpy(arrays[f"{name}/det{number}/{key}"])
        for key in ("box", "prob_nms_idx", "prob_nms_val")
    }
    row, label = recorded["prob_nms_idx"].long().T
    boxes = recorded["box"][row]  # Darknet numbers its boxes by anchor, row, column
    scores = recorded["prob_nms_val"]
    image_w = det["image_w"]
    image_h = det["image_h"]
    if det["relative"]:
        boxes = boxes * torch.tensor([image_w, image_h] * 2)
    ours = detections.scores.argsort()
    darknets = scores.argsort()
    assert_close(detections.scores[ours], scores[darknets], atol=1e-5, rtol=0)
    assert_close(detections.labels[ours], label[darknets])
    boxes = cxcywh_to_xyxy(boxes[darknets])
    assert_close(detections.boxes[ours], boxes, rtol=1e-5, atol=1e-5 * max(image_w, image_h))


def letterbox_info(case: dict, det: dict) -> ImageInfo:
    """As in correct_region_boxes: sizes are whole numbers, shifts exact halves."""
    net_w = case["netw"]
    net_h = case["neth"]
    w = det["image_w"]
    h = det["image_h"]
    if net_w / w < net_h / h:
        new_w = net_w
        new_h = h * net_w // w
    else:
        new_w = w * net_h // h
        new_h = net_h
    return ImageInfo(0, "0", "", (h, w), (new_w / w, new_h / h), ((net_w - new_w) / 2, (net_h - new_h) / 2))


def small_outputs(batch: int, seed: int) -> tuple[HeadOutputs, AnchorGrid]:
    grid = YoloAnchors([(1.0, 2.0), (2.0, 1.0)], 32)((96, 96))
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batch, grid.num_anchors, 8, generator=generator)
    offsets = torch.cat([raw[..., :2].sigmoid(), raw[..., 2:4]], -1)
    return HeadOutputs(offsets, 2 * raw[..., 4:7], 2 * raw[..., 7]), grid


def test_a_batch_gives_the_same_as_its_images_one_by_one():
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
        rows = slice(b, b + 1)
        image_outputs = HeadOutputs(
            outputs.offsets[rows], outputs.class_logits[rows], outputs.objectness[rows]
        )
        alone = post(image_outputs, grid)
        assert_close(whole.of_image(b).boxes, alone.boxes)
        assert_close(whole.of_image(b).scores, alone.scores)
        assert (alone.scores.diff() <= 0).all()


def test_boxes_that_overflow_are_dropped():
    outputs, grid = small_outputs(1, 1)
    outputs.offsets[0, 3, 2] = 1e4
    post = PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.0, nms_iou=1.0)
    detections = post(outputs, grid)
    assert detections.boxes.isfinite().all()
    assert len(detections.scores) == (grid.num_anchors - 1) * 3


def test_nothing_above_the_threshold():
    outputs, grid = small_outputs(2, 2)
    post = PostProcess(
        coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=1.0, nms_iou=0.45, max_detections=10
    )
    assert post(outputs, grid).boxes.shape == (0, 4)
    assert Detections.concatenate([]).boxes.shape == (0, 4)


def test_to_original_undoes_the_frame_and_clips():
    infos = [ImageInfo(0, "a", "", (100, 200), (2.0, 4.0), (10.0, 20.0)), ImageInfo(1, "b", "", (50, 50))]
    boxes = torch.tensor([[30.0, 60, 500, 100], [-5, 5, 60, 20]])
    detections = Detections(torch.tensor([0, 1]), boxes, torch.ones(2), torch.zeros(2).long())
    clipped = to_original(detections, infos).boxes
    assert_close(clipped, torch.tensor([[10.0, 10, 200, 20], [0, 5, 50, 20]]))
    unclipped = to_original(detections, infos, clip=False).boxes
    assert_close(unclipped, torch.tensor([[10.0, 10, 245, 20], [-5, 5, 60, 20]]))


def untrained(batch: int, classes: int, tied: bool = False) -> tuple[HeadOutputs, AnchorGrid]:
    """SSD300 without training: thousands of boxes above the threshold, every class everywhere.

    tied: many scores are equal.
    """
    grid = DefaultBoxes(ssd300_levels(), (300, 300))((300, 300))
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(batch, grid.num_anchors, 4, generator=generator)
    logits = torch.randn(batch, grid.num_anchors, classes + 1, generator=generator)
    return HeadOutputs(offsets, logits.round() if tied else logits), grid


def one_by_one(post: PostProcess, outputs: HeadOutputs, grid: AnchorGrid) -> list[tuple]:
    """Image, label, score and box of every detection, by torchvision's nms on each class of each image."""
    scores = post.score_rule(outputs)
    boxes = post.coder.decode(outputs.offsets, grid)
    rows = []
    for image, of_image in enumerate(scores):
        kept = []
        for label, of_class in enumerate(of_image.T):
            best = of_class.argsort(descending=True, stable=True)[: post.candidates_per_class]
            best = best[of_class[best] > post.score_threshold]
            descending = torch.arange(len(best), 0, -1).double()
            best = best[nms(boxes[image, best].double(), descending, post.nms_iou)]
            kept += [(-float(of_class[a]), a, label) for a in best.tolist()]
        kept = sorted(kept)[: post.max_detections]
        rows += [(image, label, -score, *boxes[image, a].tolist()) for score, a, label in kept]
    return rows


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("setting", [{}, {"max_detections": 2000}, {"max_detections": None}])
def test_a_batch_is_suppressed_as_class_after_class(tied, setting):
    """Equal scores: the lower anchor first, then the lower label."""
    outputs, grid = untrained(2, 3, tied)
    post = caffe()
    for name, value in setting.items():
        setattr(post, name, value)
    detections = post(outputs, grid)
    expected = one_by_one(post, outputs, grid)
    assert len(expected) >= 400
    rows = zip(
        detections.image.tolist(),
        detections.labels.tolist(),
        detections.scores.tolist(),
        *detections.boxes.T.tolist(),
        strict=True,
    )
    assert list(rows) == expected


@pytest.mark.parametrize("count", [1, 3])
def test_more_candidates_are_looked_at_where_the_best_are_suppressed(count):
    """The best 300 boxes of one image are the same one: its second detection has rank 301."""
    grid = YoloAnchors([(1.0, 1.0)], 10)((200, 200))
    boxes = torch.tensor([5.0, 5, 25, 25]).repeat(2, 400, 1)
    boxes[0, 300:] += torch.arange(1, 101)[:, None] * 30
    boxes[1] += torch.arange(400)[:, None] * 30
    outputs = yolo_outputs(boxes, torch.zeros(2, 400, dtype=torch.int64), grid)
    post = PostProcess(
        coder=YoloBoxCoder(),
        score_rule=yolo_scores,
        score_threshold=0.5,
        nms_iou=0.45,
        max_detections=count,
    )
    detections = post(outputs, grid)
    anchors = [0, 300, 301][:count] + [400, 401, 402][:count]
    scores = post.score_rule(outputs)[..., 0].flatten()
    assert detections.scores.tolist() == scores[anchors].tolist()


def work(batch: int, classes: int) -> Counter:
    outputs, grid = untrained(batch, classes)
    with Counting() as counting:
        detections = caffe()(outputs, grid)
    assert (torch.bincount(detections.image) == 200).all()
    return counting.operations


def test_operations_do_not_grow_with_images_or_classes():
    """The worst case, an untrained network; a loop over images and classes would take thousands."""
    counts = [work(*shape) for shape in ((1, 4), (3, 4), (1, 20), (4, 20), (8, 20), (8, 80), (2, 1))]
    assert all(count == counts[0] for count in counts)
    assert counts[0].total() <= 100
    assert sum(counts[0][name] for name in (*WAITING, "boolean_index")) == 8


@pytest.mark.parametrize("swap", [False, True])
def test_a_box_outside_the_image_suppresses_no_other_class(swap):
    """Suppression is per class wherever boxes are.

    torchvision separates classes by shifting their boxes, which works for coordinates from 0 on.
    """
    grid = YoloAnchors([(1.0, 1.0)], 10)((300, 300))
    boxes = torch.tensor([[290.0, 290, 300, 300], [-11, -11, -1, -1]]).repeat(450, 1)
    offsets = YoloBoxCoder().encode(boxes, grid)[None]
    logits = torch.full((1, 900, 2), -30.0)
    logits[0, 0, int(swap)] = 30.0
    logits[0, 1, 1 - int(swap)] = 30.0
    objectness = torch.full((1, 900), -30.0)
    objectness[0, :2] = torch.tensor([3.0, 2.0])
    post = PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.5, nms_iou=0.45)
    assert len(post(HeadOutputs(offsets, logits, objectness), grid).scores) == 2


def yolo_outputs(boxes: torch.Tensor, labels: torch.Tensor, grid: AnchorGrid) -> HeadOutputs:
    """Outputs of a batch (B, A, 4) whose boxes have the given labels and scores that fall along A."""
    logits = torch.nn.functional.one_hot(labels, 3) * 60.0 - 30
    objectness = torch.linspace(3, 1, boxes.shape[1]).expand(boxes.shape[:2])
    return HeadOutputs(YoloBoxCoder().encode(boxes, grid), logits, objectness)


def ordinary_boxes(count: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, A, 4) boxes that overlap in clusters, and (B, A) labels of 3 classes."""
    generator = torch.Generator().manual_seed(5)
    corner = torch.randint(0, 8, (batch, count, 2), generator=generator) * 30.0
    corner = corner + torch.rand(batch, count, 2, generator=generator) * 8
    size = 20 + 10 * torch.rand(batch, count, 2, generator=generator)
    labels = torch.randint(0, 3, (batch, count), generator=generator)
    return torch.cat([corner, corner + size], -1), labels


@pytest.mark.parametrize("extent", [1e4, 1e6, 1e9, 1e20, 3e37])
@pytest.mark.parametrize("cells", [12, 30])  # torchvision shifts the groups, or takes them one by one
def test_a_huge_box_leaves_the_suppression_of_others_alone(extent, cells):
    """Whatever its size: the other boxes, also of its image and class, are those without it, bit for bit."""
    grid = YoloAnchors([(1.0, 1.0)], 10)((10 * cells, 10 * cells))
    boxes, labels = ordinary_boxes(cells * cells, batch=4)
    boxes[1, 7] = 0  # without an area
    post = PostProcess(coder=YoloBoxCoder(), score_rule=yolo_scores, score_threshold=0.5, nms_iou=0.45)
    outputs = yolo_outputs(boxes, labels, grid)
    outputs.offsets[1, 7, 2:] = -50
    expected = post(outputs, grid)
    assert 100 < len(expected.scores) < boxes[..., 0].numel()
    outputs.offsets[1, 7, 2:] = float(np.log(extent))
    detections = post(outputs, grid)
    sides = detections.boxes[:, 2:] - detections.boxes[:, :2]
    huge = sides[:, 0] > 5 * extent
    assert huge.sum() == 1 and detections.image[huge] == 1
    assert_close(sides[huge][0], torch.full((2,), 10 * extent), rtol=1e-3, atol=0)
    tiny = (expected.boxes[:, 2:] - expected.boxes[:, :2])[:, 0] < 1e-3
    for name in ("image", "boxes", "scores", "labels"):
        assert torch.equal(getattr(detections, name)[~huge], getattr(expected, name)[~tiny])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_boxes_and_scores_that_are_not_finite_are_dropped(value):
    """Also with a threshold below 0, and they take no place among the best candidates."""
    grid = YoloAnchors([(1.0, 1.0)], 10)((120, 120))
    boxes, labels = ordinary_boxes(144, batch=2)
    post = PostProcess(
        coder=YoloBoxCoder(),
        score_rule=yolo_scores,
        score_threshold=-1.0,
        nms_iou=0.45,
        candidates_per_class=144 - 50,
    )
    outputs = yolo_outputs(boxes, labels, grid)
    usual = post(outputs, grid)
    outputs.offsets[0, :25, 1] = value
    outputs.class_logits[0, 25:50] = value
    detections = post(outputs, grid)
    assert detections.boxes.isfinite().all() and detections.scores.isfinite().all()
    assert_close(detections.of_image(1).boxes, usual.of_image(1).boxes, rtol=0, atol=0)
    alone = HeadOutputs(outputs.offsets[:1, 50:], outputs.class_logits[:1, 50:], outputs.objectness[:1, 50:])
    cut = {name: getattr(grid, name)[50:] for name in ("boxes_cxcywh", "stride", "cell")}
    rest = post(alone, replace(grid, **cut))
    # Of fewer anchors: a softmax over a shorter tensor rounds otherwise on some CPUs.
    assert_close(detections.of_image(0).scores, rest.scores, rtol=1e-6, atol=0)


@pytest.mark.parametrize("candidates", [None, 2])
def test_a_score_at_the_threshold_is_no_detection(candidates):
    """score > threshold, as in Darknet and Caffe. sigmoid(0) is exactly .5."""
    grid = YoloAnchors([(1.0, 1.0)], 10)((10, 30))
    objectness = torch.tensor([[0.0, 0.1, 0.0]])
    outputs = HeadOutputs(torch.full((1, 3, 4), 0.5), torch.zeros(1, 3, 1), objectness)
    post = PostProcess(
        coder=YoloBoxCoder(),
        score_rule=yolo_scores,
        score_threshold=0.5,
        nms_iou=0.45,
        candidates_per_class=candidates,
    )
    assert post(outputs, grid).scores.tolist() == objectness[0, 1:2].sigmoid().tolist()
