"""Finds anchors that fit a data set: detectors cluster data=voc07 model=yolov2 [--k 5] [--plot FILE]

Takes the settings of train.py. Boxes are as in training before augmentation: stretched or letterboxed to
input.size, without crowd regions, and without difficult objects if data.train_difficult is false. kmeans.py
describes the search.

For YOLOv2 it proposes k anchors. SSD's default boxes have one size per level and fixed aspect ratios, so
k-means does not apply: it proposes the sizes whose default boxes have the greatest mean IoU. Mean IoU ignores
how far apart the cells of a level are, and SSD trains on every default box above IoU 0.5, so try such sizes
before you trust them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from detectors.anchors import (
    YOLO_ANCHORS,
    DefaultBoxes,
    DefaultBoxLevel,
    YoloAnchors,
    ssd300_levels,
    ssd512_levels,
)
from detectors.annotations import Annotations
from detectors.commands.cluster.cluster_report import (
    RECALL_IOU,
    AnchorSet,
    ClusterResult,
    paper_curve,
    result_lines,
    summary,
)
from detectors.commands.cluster.kmeans import Shapes, best_iou, kmeans, shapes_of, size_search, size_start
from detectors.commands.cluster.options import options
from detectors.commands.cluster.plotting import plot_anchors
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.entry import verb
from detectors.config.schema import CLASSIFICATION, Config
from detectors.data.augment.fitting import RESIZES
from detectors.data.augment.transforms import MIN_SIDE
from detectors.data.files import write_json
from detectors.training import ground_truth

CURVE_K = 9  # the mean IoU is computed for k = 1 to CURVE_K
DARKNET_CELLS = 13  # cells along Darknet's input of 416 px; its anchors are in cells
DECIMALS = 4  # of proposed anchors
COCO_AREAS = (0, 32**2, 96**2, np.inf)  # square pixels
KnownAnchors = YoloAnchors | DefaultBoxes


@dataclass(frozen=True)
class BoxShapes:
    """The T boxes that training uses."""

    wh: np.ndarray  # (T, 2) float64, pixels of the model input
    labels: np.ndarray  # (T,)
    difficult: np.ndarray  # (T,) bool
    too_small: int  # number of other boxes, dropped because a side is below MIN_SIDE


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    config = check(composed(args.overrides))
    if config.task == CLASSIFICATION:
        raise ValueError(
            f"model={config.name}: a classifier has no anchors; choose a detector, such as model=yolov2"
        )
    annotations = ground_truth.read_annotations(config.data, "train")
    boxes = boxes_at_input(annotations, config)
    result = cluster(
        annotations, boxes, config, k=args.k, restarts=args.restarts, seed=args.seed, sample=args.sample
    )
    print("\n".join(result_lines(result, args.overrides)))
    if args.json:
        write_json(args.json, asdict(result))
        print(f"written: {args.json}")
    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot_anchors(
            args.plot,
            boxes.wh,
            result.sets[:2],
            size=(config.input.size[0], config.input.size[1]),
            curve=result.curve,
            paper=paper_curve(result.data),
            title=summary(result),
        )
        print(f"written: {args.plot}")


def boxes_at_input(annotations: Annotations, config: Config) -> BoxShapes:
    """Sizes of the boxes in the model input, clipped to the image, as in training without augmentation."""
    fit = RESIZES[config.input.resize]
    input_size = (config.input.size[0], config.input.size[1])
    # (n, 2), (N,): few distinct image sizes, many images
    sizes, size_index = np.unique(annotations.sizes, axis=0, return_inverse=True)
    scales = [fit((height, width), input_size).scale_xy((height, width)) for height, width in sizes.tolist()]
    image_of = annotations.image  # (T,)
    scale_xy = np.array(scales).reshape(-1, 2)[size_index.reshape(-1)][image_of]  # (T, 2)
    corner = np.tile(annotations.sizes[:, ::-1], 2)[image_of]  # (T, 4) width, height, width, height
    boxes = np.clip(annotations.boxes_original, 0, corner)
    wh = (boxes[:, 2:] - boxes[:, :2]) * scale_xy
    used = ~annotations.crowd
    if not config.data.train_difficult:
        used &= ~annotations.difficult
    large = (wh >= MIN_SIDE).all(1)
    keep = used & large
    return BoxShapes(
        wh=wh[keep],
        labels=annotations.labels[keep],
        difficult=annotations.difficult[keep],
        too_small=int((used & ~large).sum()),
    )


def cluster(
    annotations: Annotations,
    boxes: BoxShapes,
    config: Config,
    *,
    k: int,
    restarts: int,
    seed: int,
    sample: int,
) -> ClusterResult:
    """Searches on a sample of the boxes, and compares the result with other anchors on all of them.

    ValueError: there are no boxes, or fewer distinct shapes than k.
    """
    anchors = _configured_anchors(config, len(annotations.class_names))
    shapes = shapes_of(boxes.wh)
    sampled = shapes.sample(sample, seed)
    if k > len(sampled.wh):
        raise ValueError(
            f"--k {k}: {config.data.name} has only {len(sampled.wh)} different shapes to cluster; "
            "choose a smaller --k"
        )
    proposed, proposed_wh, unit = _propose(anchors, sampled, k, restarts, seed)
    input_size = (config.input.size[0], config.input.size[1])
    sets = list(_anchor_sets(boxes.wh, proposed_wh, anchors, input_size, config.name))
    return ClusterResult(
        data=config.data.name,
        train=config.data.train,
        size=list(config.input.size),
        resize=config.input.resize,
        images=len(annotations),
        boxes=len(boxes.wh),
        difficult=int(boxes.difficult.sum()),
        too_small=boxes.too_small,
        settings={"k": k, "sample": sample, "restarts": restarts, "seed": seed},
        curve=_curve(shapes, sampled, k, restarts, seed),
        curve_not_difficult=_curve_not_difficult(boxes, k, restarts, seed, sample),
        proposed=proposed,
        unit=unit,
        sets=sets,
        groups=list(_groups(boxes, annotations.class_names, sets[:2])),
    )


def _configured_anchors(config: Config, num_classes: int) -> KnownAnchors:
    """ValueError for those of another kind of detector."""
    with torch.device("meta"):  # builds the model without memory for its weights
        model = build(config.model, num_classes=num_classes, loss=build(config.loss))
    if not isinstance(model.anchors, KnownAnchors):
        what = f"model={config.name}: its anchors are {type(model.anchors).__name__}"
        raise ValueError(f"{what}; cluster proposes YOLOv2's shapes and SSD's sizes only")
    return model.anchors


def _propose(
    anchors: KnownAnchors, shapes: Shapes, k: int, restarts: int, seed: int
) -> tuple[dict[str, list], np.ndarray, str]:
    """{keyword of the model: value}, the shapes (K, 2) in pixels that the value stands for, and its unit."""
    if isinstance(anchors, YoloAnchors):
        clustering = kmeans(shapes, k, restarts=restarts, seed=seed)
        cells = np.round(clustering.anchors / anchors.stride, DECIMALS)
        unit = f"(width, height) in cells of {anchors.stride} px"
        return {"anchors": cells.tolist()}, cells * anchors.stride, unit
    sizes = _propose_sizes(anchors.levels, shapes)
    unit = "px of the model input: min_size of each level, then max_size of the last"
    return {"sizes": sizes}, _level_shapes(_resized_levels(anchors.levels, sizes)), unit


def _propose_sizes(levels: Sequence[DefaultBoxLevel], shapes: Shapes) -> list[int]:
    """The better of two searches: from the configured sizes and from quantiles of the boxes."""
    configured = [round(level.min_size) for level in levels] + [round(levels[-1].max_size)]
    results = [
        size_search(shapes, start, lambda sizes: _level_shapes(_resized_levels(levels, sizes)))
        for start in (configured, size_start(shapes, len(configured)))
    ]
    sizes, _ = max(results, key=lambda result: result[1])
    return sizes


def _resized_levels(levels: Sequence[DefaultBoxLevel], sizes: Sequence[int]) -> list[DefaultBoxLevel]:
    return [
        replace(level, min_size=low, max_size=high)
        for level, (low, high) in zip(levels, pairwise(sizes), strict=True)
    ]


def _level_shapes(levels: Sequence[DefaultBoxLevel]) -> np.ndarray:
    """(K, 2) pixels"""
    return np.array([shape for level in levels for shape in level.shapes_wh()])


def _anchor_sets(
    wh: np.ndarray,
    proposed: np.ndarray,
    anchors: KnownAnchors,
    size: tuple[int, int],
    name: str,
) -> Iterator[AnchorSet]:
    """The proposed, the configured and the published anchors, the published ones scaled to the input size."""
    side = np.array([size[1], size[0]])
    configured = anchors(size).boxes_cxcywh[:, 2:].double().numpy()  # (A, 2)
    yield anchor_set("proposed here", proposed, wh)
    yield anchor_set(f"{name}, as configured", configured, wh)
    for published, cells in YOLO_ANCHORS.items():
        yield anchor_set(f"Darknet's {published}", np.array(cells) / DARKNET_CELLS * side, wh)
    for levels, pixels in ((ssd300_levels, 300), (ssd512_levels, 512)):
        for published in ("voc", "coco"):
            scaled = _level_shapes(levels(published)) / pixels * side
            yield anchor_set(f"SSD{pixels}'s {published}", scaled, wh)


def anchor_set(name: str, anchors: np.ndarray, wh: np.ndarray) -> AnchorSet:
    """anchors: (K, 2), wh: (T, 2) shapes of the boxes, both in pixels of the model input."""
    distinct = np.unique(anchors, axis=0)
    iou = best_iou(wh, distinct)
    distinct = distinct[np.argsort(distinct.prod(1), kind="stable")]
    return AnchorSet(name, distinct.tolist(), float(iou.mean()), float((iou >= RECALL_IOU).mean()))


def _curve(shapes: Shapes, sampled: Shapes, k: int, restarts: int, seed: int) -> dict[int, float]:
    """k -> mean IoU of k-means over all boxes, for as many k as there are distinct shapes."""
    last = min(max(CURVE_K, k), len(sampled.wh))
    return {
        n: shapes.mean_iou(kmeans(sampled, n, restarts=restarts, seed=seed).anchors)
        for n in range(1, last + 1)
    }


def _curve_not_difficult(boxes: BoxShapes, k: int, restarts: int, seed: int, sample: int) -> dict[int, float]:
    """The curve without difficult objects; empty if no box or every box is difficult."""
    if boxes.difficult.all() or not boxes.difficult.any():
        return {}
    shapes = shapes_of(boxes.wh[~boxes.difficult])
    return _curve(shapes, shapes.sample(sample, seed), k, restarts, seed)


def _groups(boxes: BoxShapes, class_names: Sequence[str], sets: Sequence[AnchorSet]) -> Iterator[dict]:
    """Results by class, then by COCO's three sizes and by thirds of the area, all in the model input."""
    ious = [best_iou(boxes.wh, np.array(anchors.wh)) for anchors in sets]
    area = boxes.wh.prod(1)
    thirds = [0, *np.quantile(area, (1 / 3, 2 / 3)), np.inf]
    masks = {name: boxes.labels == label for label, name in enumerate(class_names)}
    for names, edges in (
        (("small (COCO)", "medium (COCO)", "large (COCO)"), COCO_AREAS),
        (("smallest third", "middle third", "largest third"), thirds),
    ):
        for name, (low, high) in zip(names, pairwise(edges), strict=True):
            masks[name] = (area >= low) & (area < high)
    masks["all"] = np.ones(len(area), bool)
    for name, mask in masks.items():
        means = [float(iou[mask].mean()) if mask.any() else None for iou in ious]
        recalls = [float((iou[mask] >= RECALL_IOU).mean()) if mask.any() else None for iou in ious]
        yield {"name": name, "boxes": int(mask.sum()), "mean_iou": means, "recall": recalls}


if __name__ == "__main__":
    main()
