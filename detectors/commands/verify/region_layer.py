"""Darknet's region layer: region_train (its gradient, cost and statistics) and region_decode (boxes, scores,
suppression).

Facts about the recordings' layout: input and output are (B, n * (5 + C), H, W) with channel = anchor * (5 +
C) + entry; truths are (B, 30, 5) x, y, w, h, class relative to the input, an image's list ending at the first
x of 0; boxes are numbered (anchor, row, column).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detectors.anchors import YoloAnchors
from detectors.boxes import xyxy_to_cxcywh
from detectors.coders import YoloBoxCoder
from detectors.commands.verify.comparison import Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.darknet.framing import frame
from detectors.darknet.region import (
    activate,
    darknet_index,
    head_outputs,
    region_detections,
    region_loss,
    region_matcher,
)
from detectors.darknet.sections import Region
from detectors.postprocess import PostProcess, to_original
from detectors.structures import AnchorGrid, Detections, HeadOutputs, Matcher, Targets
from detectors.targets import TargetEncoder

VALUES = Tolerance(absolute=1e-5)
DELTAS = Tolerance(absolute=3e-5, relative=1e-5)
COST = Tolerance(relative=2e-5)
REGION_STATISTICS = Tolerance(absolute=2e-6)
PRINTED = (
    "truth_iou",
    "class_probability",
    "objectness",
    "no_objectness",
    "recall",
    "truths",
)  # in the order of `stats`


def region_training(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_train.json"""
    cases = folder.json(name)
    arrays = folder.arrays(name.with_suffix(".npz"))
    for case, settings in cases.items():
        yield Fixture(f"{name.stem}/{case}", partial(_training, settings, arrays.under(case)))


def decoding(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_decode.json"""
    cases = folder.json(name)
    arrays = folder.arrays(name.with_suffix(".npz"))
    for case, settings in cases.items():
        yield Fixture(f"{name.stem}/{case}", partial(_decoding, settings, arrays.under(case)))


def region_settings(case: Mapping, anchors: np.ndarray) -> Region:
    """A case's settings as the section of a cfg; what matters to training only may be absent."""
    training = ("thresh", "coord_scale", "object_scale", "noobject_scale", "class_scale")
    numbers = {key: float(case.get(key, 1.0)) for key in training}
    flags = {key: bool(case.get(key, 1)) for key in ("rescore", "bias_match")}
    pairs = tuple((float(w), float(h)) for w, h in np.asarray(anchors, np.float64).reshape(-1, 2))
    return Region(pairs, case["classes"], bool(case["softmax"]), **flags, **numbers, jitter=0.0, random=False)


def region_outputs(raw: Tensor, case: Mapping) -> HeadOutputs:
    """A case's raw predictions (B, n * (5 + C), H, W) in our order. case: settings and `anchors`."""
    return head_outputs(raw, region_settings(case, case["anchors"]))


def region_targets(truth: np.ndarray, size: tuple[int, int]) -> Targets:
    """(B, 30, 5) -> Targets in pixels of an input of `size` (height, width), or in cells where that is the
    grid's size.

    float64 truths keep Darknet's float32 cell: a product that rounds up to a whole number there is put just
    above it here.
    """
    truth = torch.from_numpy(truth)
    valid = (truth[..., 0] != 0).cumprod(1).bool()
    scale = torch.tensor([size[1], size[0]])
    centre = truth[..., :2] * scale
    half = truth[..., 2:4] * scale / 2
    if truth.dtype == torch.float64:
        centre = torch.maximum(centre, (truth[..., :2].float() * scale).floor().double() + 1e-9)
    boxes = torch.where(valid[..., None], torch.cat([centre - half, centre + half], -1), 0)
    return Targets(boxes, torch.where(valid, truth[..., 4], 0).long(), valid)


def _training(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    for key in (
        "thresh",
        "coord_scale",
        "object_scale",
        "noobject_scale",
        "class_scale",
        "rescore",
        "bias_match",
    ):
        case[key]  # an error if it is absent
    settings, cells, batch = region_settings(case, arrays["anchors"]), (case["H"], case["W"]), case["batch"]
    raw = torch.from_numpy(arrays["input"])
    yield compare_numbers("output", activate(raw, settings), arrays["output"], VALUES)

    delta = region_delta(raw, settings, arrays["truth"], seen=case["seen"])
    yield compare_numbers("delta", delta, arrays["delta"], DELTAS)
    yield compare_numbers("cost", darknet_cost(delta), arrays["cost"].reshape(()), COST)

    raw = raw.double().requires_grad_()
    outputs = head_outputs(raw, settings)
    grid = exact_grid(settings, cells)
    targets = region_targets(arrays["truth"].astype(np.float64), cells)
    loss = seen_loss(settings, seen=case["seen"], batch=batch)
    encoded = TargetEncoder(region_matcher(settings), YoloBoxCoder())(targets, grid, outputs)
    (batch * sum(loss(outputs, encoded, grid).values())).backward()
    yield compare_numbers("delta_in", -raw.grad, arrays["delta_in"], DELTAS)
    statistics = loss.statistics(outputs, encoded, grid)
    yield compare_numbers(
        "statistics", torch.stack([statistics[key] for key in PRINTED]), arrays["stats"], REGION_STATISTICS
    )


def cell_grid(settings: Region, cells: tuple[int, int]) -> AnchorGrid:
    """One pixel per cell: Darknet computes in cells, too."""
    return YoloAnchors(settings.anchors, stride=1)(cells)


def exact_grid(settings: Region, cells: tuple[int, int]) -> AnchorGrid:
    """cell_grid in float64."""
    grid = cell_grid(settings, cells)
    return replace(
        grid, boxes_cxcywh=grid.boxes_cxcywh.double(), stride=grid.stride.double(), cell=grid.cell.double()
    )


def seen_loss(settings: Region, *, seen: int, batch: int) -> nn.Module:
    """seen: as the layer compares it, after the batch was counted."""
    loss = region_loss(settings)
    loss.images_seen += seen - batch
    return loss


def region_delta(raw: Tensor, settings: Region, truth: np.ndarray, *, seen: int) -> Tensor:
    """Darknet's `delta`, see delta_of, as (B, n * (5 + C), H, W) float64."""
    cells = tuple(raw.shape[-2:])
    targets = region_targets(truth.astype(np.float64), cells)
    outputs = head_outputs(raw.detach().double(), settings)
    delta = delta_of(
        outputs,
        targets,
        exact_grid(settings, cells),
        seen_loss(settings, seen=seen, batch=len(raw)),
        region_matcher(settings),
    )
    return delta.unflatten(1, (*cells, -1)).permute(0, 3, 4, 1, 2).flatten(1, 2)


def delta_of(
    outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, loss: nn.Module, matcher: Matcher
) -> Tensor:
    """(B, A, 5 + C): the negative gradient of the batch's sum by the activated x, y, objectness and by the
    raw w, h and classes.

    By the activated objectness it is a straight line, weight * (target - o), because neither depends on o.
    Two points give the line: dividing the sigmoid's derivative out at o itself would lose it near 0 and 1.
    """
    flat = outputs.objectness.detach()
    at = [replace(outputs, objectness=torch.full_like(flat, logit)) for logit in (-1.0, 1.0)]
    low, high = (_gradient(outputs, targets, grid, loss, matcher) for outputs in at)
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64).sigmoid()
    first, last = (side.objectness / (o * (1 - o)) for side, o in zip((low, high), ends, strict=True))
    objectness = first + (flat.sigmoid() - ends[0]) * (last - first) / (ends[1] - ends[0])
    return -torch.cat([low.offsets, objectness[..., None], low.class_logits], -1)


def _gradient(
    outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, loss: nn.Module, matcher: Matcher
) -> HeadOutputs:
    """The gradient of the batch's sum by each of the head's outputs.

    The loss's count of images stays as it was.
    """
    outputs = HeadOutputs(
        *(
            tensor.detach().requires_grad_()
            for tensor in (outputs.offsets, outputs.class_logits, outputs.objectness)
        )
    )
    encoded = TargetEncoder(matcher, YoloBoxCoder())(targets, grid, outputs)
    (len(outputs.offsets) * sum(deepcopy(loss)(outputs, encoded, grid).values())).backward()
    return HeadOutputs(outputs.offsets.grad, outputs.class_logits.grad, outputs.objectness.grad)


def darknet_cost(delta: Tensor) -> float:
    """The sum of squares in Darknet's memory order, one by one in float32 as it does: thousands of small
    terms round off 2e-5 of it.
    """
    return float(np.cumsum(delta.flatten().numpy().astype(np.float32) ** 2, dtype=np.float32)[-1])


def _decoding(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    settings = region_settings(case, arrays["anchors"])
    raw = torch.from_numpy(arrays["input"])
    yield compare_numbers("output", activate(raw, settings), arrays["output"], VALUES)
    for k, det in enumerate(case["dets"]):
        yield from detections(
            raw, settings, (case["neth"], case["netw"]), det, arrays.under(f"det{k}"), f"det{k}"
        )


def detections(
    raw: Tensor, settings: Region, size: tuple[int, int], det: Settings, arrays: Arrays, label: str
) -> Iterator[Comparison]:
    """raw: (1, n * (5 + C), H, W); size: (height, width) of the network; det: image size, thresholds, kind of
    suppression.
    """
    boxes = framed_boxes(raw, settings, size, det)
    yield compare_numbers(f"{label} boxes", boxes, arrays["box"], box_tolerance(det))
    objectness = torch.zeros(len(boxes))
    anchors = torch.arange(len(boxes))
    objectness[_darknet_numbers(anchors, raw, settings)] = head_outputs(raw, settings).objectness[0].sigmoid()
    above = torch.where(objectness > det["thresh"], objectness, 0)
    yield from compare_scores(
        f"{label} objectness", _nonzero(above), _nonzero(torch.from_numpy(arrays["obj"]))
    )

    before = scores(raw, settings, size, det["thresh"], nms_iou=1.0)
    yield from compare_scores(f"{label} before NMS", before, _pairs(arrays, "prob"))
    if det.get("nms_kind", "sort") == "sort":
        arrays.skip("obj_nms")  # holds for do_nms_obj only
        after = scores(raw, settings, size, det["thresh"], nms_iou=det["nms"])
    else:
        kept = _objectness_kept(raw, settings, det)
        yield from compare_scores(
            f"{label} objectness after NMS", kept, _nonzero(torch.from_numpy(arrays["obj_nms"]))
        )
        after = {pair: score for pair, score in before.items() if pair[0] in {number for number, _ in kept}}
    yield from compare_scores(f"{label} after NMS", after, _pairs(arrays, "prob_nms"))


def box_tolerance(det: Settings) -> Tolerance:
    """Boxes are in pixels of the image, or in shares of it where `relative`."""
    return Tolerance(
        absolute=1e-5 * (1 if det["relative"] else max(det["image_w"], det["image_h"])), relative=1e-5
    )


def framed_boxes(raw: Tensor, settings: Region, size: tuple[int, int], det: Settings) -> Tensor:
    """(A, 4) centre and size of every predicted box after correct_region_boxes, in Darknet's order."""
    boxes = _boxes(raw, settings, size)
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    image_size = (det["image_h"], det["image_w"])
    original = to_original(
        Detections(zeros, boxes, zeros.float(), zeros), [frame(image_size, size, "letterbox")], clip=False
    )
    boxes_cxcywh = xyxy_to_cxcywh(original.boxes)
    if det["relative"]:
        boxes_cxcywh = boxes_cxcywh / torch.tensor([image_size[1], image_size[0]] * 2)
    ordered = torch.empty_like(boxes_cxcywh)
    ordered[_darknet_numbers(torch.arange(len(boxes_cxcywh)), raw, settings)] = boxes_cxcywh
    return ordered


def scores(
    raw: Tensor, settings: Region, size: tuple[int, int], threshold: float, *, nms_iou: float
) -> dict[tuple[int, int], float]:
    """(Darknet's box number, class) -> score of what our detect() finds. nms_iou=1 suppresses nothing."""
    detections = region_detections(raw, settings, size=size, score_threshold=threshold, nms_iou=nms_iou)
    anchors = anchor_numbers(detections, _boxes(raw, settings, size))
    numbers = _darknet_numbers(anchors, raw, settings).tolist()
    return dict(
        zip(zip(numbers, detections.labels.tolist(), strict=True), detections.scores.tolist(), strict=True)
    )


def anchor_numbers(detections: Detections, boxes: Tensor) -> Tensor:
    """(T,) which of all decoded boxes (A, 4) each detection is: the one with the same numbers to the last
    bit.
    """
    place = {
        tuple(row): number
        for number, row in reversed(list(enumerate(boxes.to(detections.boxes.dtype).tolist())))
    }
    return torch.tensor([place[tuple(row)] for row in detections.boxes.tolist()], dtype=torch.int64)


def compare_scores(what: str, ours: dict, recorded: dict) -> Iterator[Comparison]:
    """Which boxes (and classes), exactly; and the scores of those that both have."""
    yield agree(f"{what}: which", set(ours), set(recorded))
    common = [key for key in recorded if key in ours]
    yield compare_numbers(
        f"{what}: scores", [ours[key] for key in common], [recorded[key] for key in common], VALUES
    )


def _boxes(raw: Tensor, settings: Region, size: tuple[int, int]) -> Tensor:
    """(A, 4) xyxy pixels of the network's input, computed as detect() does."""
    rows, columns = raw.shape[-2:]
    boxes = YoloBoxCoder().decode(head_outputs(raw, settings).offsets, cell_grid(settings, (rows, columns)))[
        0
    ]
    return boxes * boxes.new_tensor([size[1] / columns, size[0] / rows] * 2)


def _darknet_numbers(anchors: Tensor, raw: Tensor, settings: Region) -> Tensor:
    return darknet_index(anchors, tuple(raw.shape[-2:]), len(settings.anchors))


def _nonzero(values: Tensor) -> dict[tuple[int, int], float]:
    """(box number, 0) -> value"""
    return {(n, 0): value for n, value in enumerate(values.tolist()) if value != 0}


def _pairs(arrays: Arrays, name: str) -> dict[tuple[int, int], float]:
    index = arrays[f"{name}_idx"].reshape(-1, 2).tolist()
    values = arrays[f"{name}_val"].tolist()
    return {(box, label): value for (box, label), value in zip(index, values, strict=True)}


def _objectness_kept(raw: Tensor, settings: Region, det: Settings) -> dict[tuple[int, int], float]:
    """do_nms_obj: suppression by objectness, all classes together."""
    outputs = head_outputs(raw, settings)
    grid = cell_grid(settings, tuple(raw.shape[-2:]))
    rule = lambda given: given.objectness.sigmoid()[..., None]  # noqa: E731
    post = PostProcess(
        coder=YoloBoxCoder(), score_rule=rule, score_threshold=det["thresh"], nms_iou=det["nms"]
    )
    detections = post(outputs, grid)
    anchors = anchor_numbers(detections, YoloBoxCoder().decode(outputs.offsets, grid)[0])
    numbers = _darknet_numbers(anchors, raw, settings).tolist()
    return {(number, 0): score for number, score in zip(numbers, detections.scores.tolist(), strict=True)}
