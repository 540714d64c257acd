"""Naive versions of what the code base does: plain loops written from the formulae, without its code.

Slow and obvious.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from detectors.structures import AnchorGrid, HeadOutputs, Level, Targets

# ---------------------------------------------------------------- inputs


def pad_targets(images: list[list[list[float]]]) -> Targets:
    """Boxes per image -> Targets; labels count 0, 1, 2, 0, ..."""
    most = max(len(boxes) for boxes in images)
    boxes = torch.zeros(len(images), most, 4)
    labels = torch.zeros(len(images), most, dtype=torch.int64)
    valid = torch.zeros(len(images), most, dtype=torch.bool)
    for b, rows in enumerate(images):
        for t, row in enumerate(rows):
            boxes[b, t] = torch.tensor(row)
            labels[b, t] = t % 3
            valid[b, t] = True
    return Targets(boxes, labels, valid)


def random_targets(
    generator: torch.Generator, *, batch: int, most: int, classes: int, size: tuple[int, int]
) -> Targets:
    """Random boxes inside an image of `size` (height, width); some images have none."""
    limit = torch.tensor([size[1], size[0]])
    wh = (0.03 + 0.6 * torch.rand(batch, most, 2, generator=generator) ** 2) * limit
    low = torch.rand(batch, most, 2, generator=generator) * (limit - wh)
    count = torch.randint(0, most + 1, (batch, 1), generator=generator)
    valid = torch.arange(most) < count
    boxes = torch.cat([low, low + wh], -1) * valid[..., None]
    return Targets(boxes, torch.randint(0, classes, (batch, most), generator=generator) * valid, valid)


def small_ssd_grid(size: tuple[int, int]) -> AnchorGrid:
    """A few hundred square and oblong default boxes in two levels."""
    boxes_cxcywh = []
    levels = []
    for stride, side in ((16, 24.0), (32, 56.0)):
        level = Level(size[0] // stride, size[1] // stride, float(stride), 3)
        levels.append(level)
        for row in range(level.rows):
            for column in range(level.columns):
                for w, h in ((side, side), (side * 1.4, side / 1.4), (side / 1.4, side * 1.4)):
                    boxes_cxcywh.append([(column + 0.5) * stride, (row + 0.5) * stride, w, h])
    count = len(boxes_cxcywh)
    return AnchorGrid(
        torch.tensor(boxes_cxcywh), torch.ones(count), torch.zeros(count, 2), size, tuple(levels)
    )


# ---------------------------------------------------------------- boxes


def iou(a, b) -> float:
    """IoU of two (xmin, ymin, xmax, ymax) boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def iou_float32(a, b) -> float:
    """The same, rounded to float32 after every operation as in C: exact ties depend on it."""
    a = np.asarray(a, np.float32)
    b = np.asarray(b, np.float32)
    width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = max(width, np.float32(0)) * max(height, np.float32(0))
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def corners(cx: float, cy: float, w: float, h: float) -> list[float]:
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------- YOLOv2's region loss


def responsible_cell(targets: Targets, grid: AnchorGrid) -> list[dict[int, int]]:
    """Per image: anchor number -> box number; later boxes overwrite earlier ones."""
    return [{a: boxes[-1] for a, boxes in on_anchor.items()} for on_anchor in boxes_on_anchors(targets, grid)]


def boxes_on_anchors(targets: Targets, grid: AnchorGrid) -> list[dict[int, list[int]]]:
    """Per image: anchor number -> the numbers of its boxes."""
    (level,) = grid.levels
    images = []
    for boxes, valid in zip(targets.boxes.tolist(), targets.valid.tolist(), strict=True):
        on_anchor: dict[int, list[int]] = {}
        for t, (x0, y0, x1, y1) in enumerate(boxes):
            if not valid[t]:
                continue
            column = min(int((x0 + x1) / 2 / level.stride), level.columns - 1)
            row = min(int((y0 + y1) / 2 / level.stride), level.rows - 1)
            best_iou = -1.0
            best_shape = 0
            for k in range(level.per_location):
                w, h = grid.boxes_cxcywh[k, 2:].tolist()
                shape_iou = iou(corners(0, 0, w, h), corners(0, 0, x1 - x0, y1 - y0))
                if shape_iou > best_iou:
                    best_iou = shape_iou
                    best_shape = k
            anchor = (row * level.columns + column) * level.per_location + best_shape
            on_anchor.setdefault(anchor, []).append(t)
        images.append(on_anchor)
    return images


REGION_OPTIONS = {  # Darknet's; prior_scale is that of the moment
    "coord_scale": 1.0,
    "object_scale": 5.0,
    "noobject_scale": 1.0,
    "class_scale": 1.0,
    "class_weights": None,
    "normalizer": "batch",
    "box_error": "log",
    "weigh_small_boxes": True,
    "objectness_target": "iou",
    "ignore_iou": 0.6,
    "ignore_at_limit": False,
    "ignore_truths": None,
    "prior_scale": 0.0,
    "prior_boxes": "unassigned",
    "class_activation": "softmax",
    "shared_class": "last",
}
REGION_KINDS = {"box": "box", "prior": "box", "object": "object", "noobject": "object", "class": "class"}


def region_loss(
    outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, **options: object
) -> dict[str, float]:
    """RegionLoss's formula, anchor by anchor. options: those of REGION_OPTIONS that differ."""
    chosen = {**REGION_OPTIONS, **options}
    terms: dict[str, list[tuple[float, float]]] = {name: [] for name in REGION_KINDS}  # weights and errors
    for b, on_anchor in enumerate(boxes_on_anchors(targets, grid)):
        for a in range(grid.num_anchors):
            if a in on_anchor:
                add_positive(terms, outputs, targets, grid, (b, a), on_anchor[a], chosen)
            else:
                add_negative(terms, outputs, targets, grid, (b, a), chosen)
    count = {kind: len(outputs.offsets) for kind in REGION_KINDS.values()}
    if chosen["normalizer"] == "anchors":
        count = {
            kind: 1e-6 + sum(w > 0 for name, of in REGION_KINDS.items() if of == kind for w, _ in terms[name])
            for kind in count
        }
    return {name: sum(w * e for w, e in pairs) / count[REGION_KINDS[name]] for name, pairs in terms.items()}


def add_positive(terms, outputs, targets, grid, place, boxes, options) -> None:
    """The terms of an anchor with a box; the last of `boxes` owns it. place: image and anchor."""
    b, a = place
    box = targets.boxes[b, boxes[-1]].tolist()
    w = box[2] - box[0]
    h = box[3] - box[1]
    stride = grid.stride[a].item()
    column, row = grid.cell[a].tolist()
    pw, ph = grid.boxes_cxcywh[a, 2:].tolist()
    centre = ((box[0] + box[2]) / 2 / stride - column, (box[1] + box[3]) / 2 / stride - row)
    weight = options["coord_scale"]
    if options["weigh_small_boxes"]:
        weight *= 2 - w * h / (grid.size[0] * grid.size[1])
    if options["prior_boxes"] == "all" and options["prior_scale"]:
        weight = options["prior_scale"]
    goal = (*centre, math.log(w / pw), math.log(h / ph))
    terms["box"].append((weight, region_box_error(outputs, grid, place, goal, options)))
    own_iou = iou(region_prediction(outputs, grid, place), box)
    goal = own_iou if options["objectness_target"] == "iou" else 1.0
    objectness = sigmoid(outputs.objectness[b, a].item())
    terms["object"].append((options["object_scale"], (objectness - goal) ** 2 / 2))

    labels = [targets.labels[b, t].item() for t in boxes]
    label = labels[-1] if options["shared_class"] == "last" else min(labels)
    logits = outputs.class_logits[b, a].tolist()
    if options["class_activation"] == "softmax":
        error = math.log(sum(math.exp(x - max(logits)) for x in logits)) + max(logits) - logits[label]
    else:
        hot = set(labels) if options["shared_class"] == "last" else {label}
        error = sum(-math.log(sigmoid(x) if c in hot else 1 - sigmoid(x)) for c, x in enumerate(logits))
    weights = options["class_weights"] or [1.0] * len(logits)
    terms["class"].append((options["class_scale"] * weights[label], error))


def add_negative(terms, outputs, targets, grid, place, options) -> None:
    """The terms of an anchor without a box."""
    b, a = place
    error = region_box_error(outputs, grid, place, (0.5, 0.5, 0.0, 0.0), options)
    terms["prior"].append((options["prior_scale"], error))
    boxes = targets.boxes[b][targets.valid[b]].tolist()
    if options["ignore_truths"] is not None:
        boxes = boxes[len(boxes) - min(options["ignore_truths"], len(boxes)) :]
    best = max((iou(region_prediction(outputs, grid, place), box) for box in boxes), default=0.0)
    limit = options["ignore_iou"]
    ignored = best >= limit if options["ignore_at_limit"] else best > limit
    objectness = sigmoid(outputs.objectness[b, a].item())
    terms["noobject"].append((0.0 if ignored else options["noobject_scale"], objectness**2 / 2))


def region_prediction(outputs: HeadOutputs, grid: AnchorGrid, place: tuple[int, int]) -> list[float]:
    """The predicted box, xyxy pixels. place: image and anchor."""
    b, a = place
    tx, ty, tw, th = outputs.offsets[b, a].tolist()
    pw, ph = grid.boxes_cxcywh[a, 2:].tolist()
    column, row = grid.cell[a].tolist()
    stride = grid.stride[a].item()
    return corners((column + tx) * stride, (row + ty) * stride, pw * math.exp(tw), ph * math.exp(th))


def region_box_error(outputs: HeadOutputs, grid: AnchorGrid, place: tuple[int, int], goal, options) -> float:
    """Half the squared error of the predicted offsets; sizes as logarithms or in cells."""
    b, a = place
    predicted = outputs.offsets[b, a].tolist()
    if options["box_error"] == "cells":
        cells = [size / grid.stride[a].item() for size in grid.boxes_cxcywh[a, 2:].tolist()]
        predicted, goal = (
            [*offsets[:2], *(math.exp(t) * size for t, size in zip(offsets[2:], cells, strict=True))]
            for offsets in (predicted, goal)
        )
    return sum((p - g) ** 2 for p, g in zip(predicted, goal, strict=True)) / 2


# ---------------------------------------------------------------- SSD's multibox loss


def multibox_match(targets: Targets, grid: AnchorGrid, b: int, positive_iou: float = 0.5) -> dict[int, int]:
    """Anchor number -> box number of image b: greedy over all pairs, then every anchor with IoU >= .5."""
    boxes = [t for t, valid in enumerate(targets.valid[b].tolist()) if valid]
    overlaps = all_ious(targets, grid, b)
    owner: dict[int, int] = {}
    free = set(boxes)
    for (t, a), value in sorted(overlaps.items(), key=lambda item: (-item[1], item[0][1], item[0][0])):
        if value > 1e-6 and t in free and a not in owner:
            owner[a] = t
            free.discard(t)
    for a in range(grid.num_anchors):
        best = max(boxes, key=lambda t: overlaps[t, a], default=None)
        if a not in owner and best is not None and overlaps[best, a] >= positive_iou:
            owner[a] = best
    return owner


def last_box_match(targets: Targets, grid: AnchorGrid, b: int, positive_iou: float = 0.5) -> dict[int, int]:
    """Anchor number -> box number of image b: every anchor with IoU >= .5, then each box's best anchor.

    A box takes its best anchor even if an earlier box has it.
    """
    boxes = [t for t, valid in enumerate(targets.valid[b].tolist()) if valid]
    overlaps = all_ious(targets, grid, b)
    owner: dict[int, int] = {}
    for a in range(grid.num_anchors):
        best = max(boxes, key=lambda t: overlaps[t, a], default=None)
        if best is not None and overlaps[best, a] >= positive_iou:
            owner[a] = best
    for t in boxes:
        owner[max(range(grid.num_anchors), key=lambda a: overlaps[t, a])] = t
    return owner


def all_ious(targets: Targets, grid: AnchorGrid, b: int) -> dict[tuple[int, int], float]:
    """(box number, anchor number) -> IoU, in image b."""
    anchors = [corners(*row) for row in grid.boxes_cxcywh.tolist()]
    return {
        (t, a): iou_float32(box, anchor)
        for t, box in enumerate(targets.boxes[b].tolist())
        if targets.valid[b, t]
        for a, anchor in enumerate(anchors)
    }


def multibox_loss(outputs: HeadOutputs, targets: Targets, grid: AnchorGrid, variances) -> dict[str, float]:
    """Equations 1 to 3 of the SSD paper with Caffe's matching, mining and normaliser."""
    box_sum = class_sum = positives = 0
    for b in range(len(outputs.offsets)):
        owner = multibox_match(targets, grid, b)
        positives += len(owner)
        logs = outputs.class_logits[b].double().log_softmax(-1)
        for a, t in owner.items():
            x0, y0, x1, y1 = targets.boxes[b, t].tolist()
            cx, cy, w, h = grid.boxes_cxcywh[a].tolist()
            goal = [
                ((x0 + x1) / 2 - cx) / w,
                ((y0 + y1) / 2 - cy) / h,
                math.log((x1 - x0) / w),
                math.log((y1 - y0) / h),
            ]
            for value, target, variance in zip(outputs.offsets[b, a].tolist(), goal, variances, strict=True):
                error = abs(value - target / variance)
                box_sum += error * error / 2 if error < 1 else error - 0.5
            class_sum -= logs[a, targets.labels[b, t] + 1].item()
        hardest = sorted(
            (-logs[a, 0].item() for a in range(grid.num_anchors) if a not in owner), reverse=True
        )
        class_sum += sum(hardest[: 3 * len(owner)])
    return {"box": box_sum / max(1, positives), "class": class_sum / max(1, positives)}


# ---------------------------------------------------------------- evaluation


def voc_judge(gt_boxes, detections, threshold, inclusive):
    """Codes of one class's detections, in their order.

    gt_boxes: [(image, box, difficult)]; detections: [(image, box, score)].
    """
    codes = [None] * len(detections)
    taken = set()
    for d in sorted(range(len(detections)), key=lambda d: -detections[d][2]):
        image, box, _ = detections[d]
        best = None
        best_iou = -1.0
        for t, (gt_image, gt_box, _) in enumerate(gt_boxes):
            overlap = iou(box, gt_box)
            if gt_image == image and overlap > best_iou:
                best = t
                best_iou = overlap
        if best is None or not (best_iou >= threshold if inclusive else best_iou > threshold):
            codes[d] = "F"
        elif gt_boxes[best][2]:
            codes[d] = "I"
        else:
            codes[d] = "F" if best in taken else "T"
            taken.add(best)
    return codes


def next_free_judge(gt_boxes, detections, threshold, inclusive):
    """voc_judge's codes where a detection may take any box that is free, the one of the highest IoU."""
    codes = []
    taken = set()
    for d in sorted(range(len(detections)), key=lambda d: -detections[d][2]):
        image, box, _ = detections[d]
        choice = None
        choice_iou = -1.0
        on_ignored = False
        for t, (gt_image, gt_box, ignored) in enumerate(gt_boxes):
            overlap = iou(box, gt_box)
            if gt_image != image or not (overlap >= threshold if inclusive else overlap > threshold):
                continue
            if ignored:
                on_ignored = True
            elif t not in taken and overlap > choice_iou:
                choice = t
                choice_iou = overlap
        if choice is not None:
            taken.add(choice)
        codes.append((d, "T" if choice is not None else "I" if on_ignored else "F"))
    return [code for _, code in sorted(codes)]


def one_ap_variant(annotations, detections, *, judge=voc_judge, inclusive=False, difficult_counts=False):
    """(11-point, area) means over the classes with boxes, None without any.

    annotations, detections: the records of the package, read box by box.
    """
    means = []
    for label in range(len(annotations.class_names)):
        gt_boxes = []
        for image in range(len(annotations.image_ids)):
            for row in range(annotations.offsets[image], annotations.offsets[image + 1]):
                if annotations.labels[row] == label:
                    ignored = annotations.crowd[row] or (annotations.difficult[row] and not difficult_counts)
                    gt_boxes.append((image, annotations.boxes_original[row].tolist(), bool(ignored)))
        columns = (detections.image, detections.boxes, detections.scores, detections.labels)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        found = [(image, box, score) for image, box, score, own in rows if own == label]
        npos = sum(not ignored for _, _, ignored in gt_boxes)
        if npos:
            codes = judge(gt_boxes, found, 0.5, inclusive)
            means.append(voc_ap(codes, [score for _, _, score in found], npos))
    return tuple(sum(column) / len(means) for column in zip(*means, strict=True)) or (None, None)


def voc_ap(codes, scores, npos):
    """(11-point, area) from one class's codes, straight from the definitions."""
    points = []
    right = 0
    wrong = 0
    for d in sorted(range(len(codes)), key=lambda d: -scores[d]):
        right += codes[d] == "T"
        wrong += codes[d] == "F"
        if codes[d] != "I":
            points.append((right / npos, right / (right + wrong)))
    steps = [i * 0.1 for i in range(11)]
    ap07 = sum(max([p for r, p in points if r >= step], default=0.0) for step in steps) / 11
    ap10 = 0.0
    reached = 0.0
    for i, (recall, _) in enumerate(points):
        ap10 += (recall - reached) * max(p for _, p in points[i:])
        reached = recall
    return ap07, ap10
