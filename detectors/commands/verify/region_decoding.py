"""Darknet's region layer at test time (region_decode.json): boxes, scores and suppression.

Boxes are numbered by (anchor, row, column), Darknet's order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detectors.boxes import xyxy_to_cxcywh
from detectors.coders import YoloBoxCoder
from detectors.commands.verify.comparison import Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.commands.verify.region_layer import VALUES, cell_grid, region_settings
from detectors.darknet.framing import frame
from detectors.darknet.region import activate, darknet_index, head_outputs, region_detections
from detectors.darknet.sections import Region
from detectors.postprocess import PostProcess, to_original
from detectors.structures import Detections, HeadOutputs


def decoding(folder: Folder, name: Path) -> Iterator[Fixture]:
    """region_decode.json, and its npz."""
    return folder.fixtures(name, _decoding)


def _decoding(case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    settings = region_settings(case, arrays["anchors"])
    raw = torch.from_numpy(arrays["input"])
    yield compare_numbers("output", activate(raw, settings), arrays["output"], VALUES)
    size = (case["neth"], case["netw"])
    for k, det in enumerate(case["dets"]):
        yield from compare_detections(raw, settings, size, det, arrays.under(f"det{k}"), f"det{k}")


def compare_detections(
    raw: Tensor,
    settings: Region,
    size: tuple[int, int],
    det: Settings,
    arrays: Arrays,
    label: str,
    *,
    labels: Sequence[int] | None = None,
    **tree_scores: Any,
) -> Iterator[Comparison]:
    """Boxes, objectness, and scores before and after suppression, for one image.

    raw: (1, n * (5 + C), H, W). size: the network's (height, width). det: the image's size, the thresholds
    and the kind of suppression. labels: ours, of the recording's classes; None: the same. tree_scores: see
    region_postprocess.
    """
    boxes = framed_boxes(raw, settings, size, det)
    yield compare_numbers(f"{label} boxes", boxes, arrays["box"], box_tolerance(det))
    objectness = torch.zeros(len(boxes))
    numbers = _darknet_numbers(torch.arange(len(boxes)), raw, settings)
    objectness[numbers] = head_outputs(raw, settings).objectness[0].sigmoid()
    above = torch.where(objectness > det["thresh"], objectness, 0)
    yield from compare_scores(
        f"{label} objectness", _nonzero(above), _nonzero(torch.from_numpy(arrays["obj"]))
    )

    found = partial(detected_scores, raw, settings, size, det["thresh"], **tree_scores)
    before = found(nms_iou=1.0)
    yield from compare_scores(f"{label} before NMS", before, _recorded_scores(arrays, "prob", labels))
    if det.get("nms_kind", "sort") == "sort":
        arrays.skip("obj_nms")  # only do_nms_obj sets it
        after = found(nms_iou=det["nms"])
    else:
        kept = _kept_by_objectness(raw, settings, det)
        yield from compare_scores(
            f"{label} objectness after NMS", kept, _nonzero(torch.from_numpy(arrays["obj_nms"]))
        )
        kept_numbers = {number for number, _ in kept}
        after = {pair: score for pair, score in before.items() if pair[0] in kept_numbers}
    yield from compare_scores(f"{label} after NMS", after, _recorded_scores(arrays, "prob_nms", labels))


def box_tolerance(det: Settings) -> Tolerance:
    """Boxes are in pixels of the image, or in fractions of its size if `relative` is set."""
    largest = 1 if det["relative"] else max(det["image_w"], det["image_h"])
    return Tolerance(absolute=1e-5 * largest, relative=1e-5)


def framed_boxes(raw: Tensor, settings: Region, size: tuple[int, int], det: Settings) -> Tensor:
    """(A, 4) cxcywh of every predicted box after correct_region_boxes, in Darknet's order."""
    boxes = _input_boxes(raw, settings, size)
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


def detected_scores(
    raw: Tensor,
    settings: Region,
    size: tuple[int, int],
    score_threshold: float,
    *,
    nms_iou: float,
    **tree_scores: Any,
) -> dict[tuple[int, int], float]:
    """(Darknet's box number, class) -> score of each of our detections. nms_iou=1 suppresses nothing."""
    detections = region_detections(
        raw, settings, size=size, score_threshold=score_threshold, nms_iou=nms_iou, **tree_scores
    )
    anchors = anchor_numbers(detections, _input_boxes(raw, settings, size))
    numbers = _darknet_numbers(anchors, raw, settings).tolist()
    pairs = zip(numbers, detections.labels.tolist(), strict=True)
    return dict(zip(pairs, detections.scores.tolist(), strict=True))


def anchor_numbers(detections: Detections, boxes: Tensor) -> Tensor:
    """(T,) the anchor of each detection: the first of the decoded boxes (A, 4) that equals it bit by bit."""
    rows = boxes.to(detections.boxes.dtype).tolist()
    anchor_of = {tuple(row): anchor for anchor, row in reversed(list(enumerate(rows)))}
    return torch.tensor([anchor_of[tuple(row)] for row in detections.boxes.tolist()], dtype=torch.int64)


def compare_scores(what: str, ours: dict, recorded: dict) -> Iterator[Comparison]:
    """The keys, which must be equal, and the scores of those that both have."""
    yield agree(f"{what}: which", set(ours), set(recorded))
    common = [key for key in recorded if key in ours]
    yield compare_numbers(
        f"{what}: scores", [ours[key] for key in common], [recorded[key] for key in common], VALUES
    )


def _input_boxes(raw: Tensor, settings: Region, size: tuple[int, int]) -> Tensor:
    """(A, 4) xyxy in pixels of the network's input, by the same operations as region_detections."""
    rows, columns = raw.shape[-2:]
    grid = cell_grid(settings, (rows, columns))
    boxes = YoloBoxCoder().decode(head_outputs(raw, settings).offsets, grid)[0]
    return boxes * boxes.new_tensor([size[1] / columns, size[0] / rows] * 2)


def _darknet_numbers(anchors: Tensor, raw: Tensor, settings: Region) -> Tensor:
    """Our anchor numbers -> Darknet's box numbers."""
    return darknet_index(anchors, tuple(raw.shape[-2:]), len(settings.anchors))


def _nonzero(values: Tensor) -> dict[tuple[int, int], float]:
    """(box number, 0) -> value, where it is not 0. values: (A,)."""
    return {(n, 0): value for n, value in enumerate(values.tolist()) if value != 0}


def _recorded_scores(
    arrays: Arrays, name: str, labels: Sequence[int] | None = None
) -> dict[tuple[int, int], float]:
    """(box number, class) -> score. labels: see compare_detections."""
    pairs = arrays[f"{name}_idx"].reshape(-1, 2).tolist()
    scores = arrays[f"{name}_val"].tolist()
    if labels is not None:
        pairs = [(box, labels[label]) for box, label in pairs]
    return {(box, label): score for (box, label), score in zip(pairs, scores, strict=True)}


def _objectness_only(outputs: HeadOutputs) -> Tensor:
    """A score rule with objectness as the score of a single class. (B, A, 1)"""
    return outputs.objectness.sigmoid()[..., None]


def _kept_by_objectness(raw: Tensor, settings: Region, det: Settings) -> dict[tuple[int, int], float]:
    """do_nms_obj: suppression by objectness, all classes together. (box number, 0) -> objectness."""
    outputs = head_outputs(raw, settings)
    grid = cell_grid(settings, tuple(raw.shape[-2:]))
    postprocess = PostProcess(
        coder=YoloBoxCoder(),
        score_rule=_objectness_only,
        score_threshold=det["thresh"],
        nms_iou=det["nms"],
    )
    detections = postprocess(outputs, grid)
    anchors = anchor_numbers(detections, YoloBoxCoder().decode(outputs.offsets, grid)[0])
    numbers = _darknet_numbers(anchors, raw, settings).tolist()
    return {(number, 0): score for number, score in zip(numbers, detections.scores.tolist(), strict=True)}
