"""Which anchors fit a data set: detectors cluster data=voc07 model=yolov2 [--k 5] [--plot anchors.png] [--json anchors.json].

Takes the settings of train.py. Boxes are seen as training sees them before it augments: stretched or letterboxed to input.size, without
crowds, without difficult objects if data.train_difficult is false. How the search works stands in detectors/clustering.py.

YOLOv2 is given k anchors. SSD's default boxes are a ladder of sizes, one rung per level, with fixed aspect ratios: k-means does not apply.
What is proposed for it are the sizes whose shapes have the greatest mean IoU. That says nothing about how finely a level's cells lie, and
SSD trains on every default box above IoU .5, so a ladder with a higher mean IoU is a candidate, not a verdict.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from detectors.anchors import YOLO_ANCHORS, YoloAnchors, ssd300_levels, ssd512_levels
from detectors.annotations import Annotations
from detectors.commands.cluster.kmeans import Shapes, best_iou, kmeans, shapes_of, size_search, size_start
from detectors.commands.cluster.plotting import plot_anchors
from detectors.config.build import build
from detectors.config.check import check
from detectors.config.entry import verb
from detectors.config.schema import Config, composed
from detectors.data.augment.transforms import MIN_SIDE, RESIZES
from detectors.structures import AnchorMaker
from detectors.training import assemble

UPTO = 9  # the mean IoU is shown for k = 1 .. UPTO
RECALLED = 0.5  # IoU from which a box counts as covered
CELLS = 13  # of Darknet's 416 px; its anchors are shares of the image in 1/13
DECIMALS = 4
COCO_AREAS = (0, 32**2, 96**2, np.inf)  # pixels
PAPER = {5: 0.610, 9: 0.672}  # YOLO9000, table 1: Avg IOU on VOC 2007
PAPER_SETS = ("voc07", "voc0712", "voc0712plus")


@dataclass(frozen=True)
class BoxShapes:
    """The boxes that are trained on, T of them."""

    wh: np.ndarray  # (T, 2) float64 pixels of the model input
    labels: np.ndarray  # (T,)
    difficult: np.ndarray  # (T,) bool
    too_small: int  # boxes that are not among them, being narrower than MIN_SIDE


@dataclass(frozen=True)
class AnchorSet:
    """Shapes under one name, and how well they cover the boxes."""

    name: str
    wh: list[list[float]]  # pixels of the model input, without repetitions
    mean_iou: float
    recall: float  # share of boxes with an IoU of at least RECALLED


@dataclass(frozen=True)
class ClusterResult:
    """All that is printed, drawn and written as json."""

    data: str
    train: list[str]
    size: list[int]  # (height, width) of the model input
    resize: str
    images: int
    boxes: int
    difficult: int  # of the boxes
    too_small: int
    settings: dict[str, int]  # k, restarts, seed, sample
    curve: dict[int, float]  # k -> mean IoU
    curve_not_difficult: dict[int, float]  # the same without difficult objects; empty where there are none
    proposed: dict[str, list]  # the keyword of the model and its value
    unit: str
    sets: list[AnchorSet]  # the proposed one, the configured one, published ones
    groups: list[
        dict
    ]  # of boxes, by class and by size: name, boxes, and mean_iou and recall of the first two sets


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = _arguments(arguments)
    config = check(composed(asked.overrides))
    found, boxes = cluster(assemble.read_annotations(config.data, "train"), config, asked)
    print("\n".join(result_lines(found, asked.overrides)))
    if asked.json:
        _place(asked.json).write_text(json.dumps(asdict(found), indent=1) + "\n")
    if asked.plot:
        paper = PAPER if found.data in PAPER_SETS else {}
        size = (config.input.size[0], config.input.size[1])
        plot_anchors(
            _place(asked.plot),
            boxes.wh,
            found.sets[:2],
            size=size,
            curve=found.curve,
            paper=paper,
            title=_title(found),
        )
    for path in filter(None, (asked.json, asked.plot)):
        print(f"written: {path}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors cluster", description="Finds the anchors that fit a data set, with k-means."
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: data=voc07 model=yolov2 input.size=...",
    )
    parser.add_argument("--k", type=int, default=5, help="anchors (5); SSD's number is its levels'")
    parser.add_argument("--restarts", type=int, default=5, help="starts, of which the best counts (5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sample", type=int, default=20_000, help="search on so many boxes at most; all are counted (20000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that is printed, for programs")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture: .png, .svg or .pdf")
    asked = parser.parse_intermixed_args(arguments)
    for name, least in (("k", 1), ("restarts", 1), ("seed", 0), ("sample", 1)):
        if getattr(asked, name) < least:
            raise ValueError(f"--{name} {getattr(asked, name)}: must be {least} or more")
    if asked.plot and asked.plot.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot {asked.plot}: must end in .png, .svg or .pdf")
    return asked


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def cluster(
    annotations: Annotations, config: Config, asked: argparse.Namespace
) -> tuple[ClusterResult, BoxShapes]:
    """ValueError if there are no boxes, or fewer different shapes than asked.k."""
    boxes = boxes_in_frame(annotations, config)
    with torch.device("meta"):
        anchors = build(
            config.model, num_classes=len(annotations.class_names), loss=build(config.loss)
        ).anchors
    every = shapes_of(boxes.wh)
    sample = every.sample(asked.sample, asked.seed)
    search = {"restarts": asked.restarts, "seed": asked.seed}
    if asked.k > len(sample.wh):
        raise ValueError(
            f"--k {asked.k}: {config.data.name} has only {len(sample.wh)} different shapes to cluster; ask for fewer"
        )
    proposed, shapes, unit = _propose(anchors, sample, asked.k, search)
    sets = list(
        _compared(boxes.wh, shapes, anchors, (config.input.size[0], config.input.size[1]), config.name)
    )
    curve = _curve(every, sample, asked.k, search)
    easy = _easy_curve(boxes, asked, search)
    found = ClusterResult(
        data=config.data.name,
        train=config.data.train,
        size=list(config.input.size),
        resize=config.input.resize,
        images=len(annotations),
        boxes=len(boxes.wh),
        difficult=int(boxes.difficult.sum()),
        too_small=boxes.too_small,
        settings={"k": asked.k, "sample": asked.sample, **search},
        curve=curve,
        curve_not_difficult=easy,
        proposed=proposed,
        unit=unit,
        sets=sets,
        groups=list(_groups(boxes, annotations.class_names, sets[:2])),
    )
    return found, boxes


def boxes_in_frame(annotations: Annotations, config: Config) -> BoxShapes:
    """Widths and heights in the model input, of boxes cut to their images, as the transform of an unaugmented image has them."""
    fit, size = RESIZES[config.input.resize], (config.input.size[0], config.input.size[1])
    kinds, kind = np.unique(
        annotations.sizes, axis=0, return_inverse=True
    )  # (n, 2), (N,): few sizes, many images
    scales = np.array(
        [fit(original, size).scale_xy(original) for original in map(tuple, kinds.tolist())]
    ).reshape(-1, 2)
    limits = np.tile(annotations.sizes[:, ::-1], 2)[annotations.image]  # (T, 4)
    corners = np.clip(annotations.boxes_original, 0, limits)
    wh = (corners[:, 2:] - corners[:, :2]) * scales[kind.reshape(-1)][annotations.image]
    used = ~annotations.crowd if config.data.train_difficult else ~(annotations.crowd | annotations.difficult)
    large = (wh >= MIN_SIDE).all(1)
    keep = used & large
    return BoxShapes(
        wh[keep], annotations.labels[keep], annotations.difficult[keep], int((used & ~large).sum())
    )


def _propose(
    anchors: AnchorMaker, sample: Shapes, k: int, search: dict[str, int]
) -> tuple[dict[str, list], np.ndarray, str]:
    """The model's keyword with its value, the shapes (K, 2) in pixels that it stands for, and its unit."""
    if isinstance(anchors, YoloAnchors):
        cells = np.round(kmeans(sample, k, **search).anchors / anchors.stride, DECIMALS)
        return (
            {"anchors": cells.tolist()},
            cells * anchors.stride,
            f"(width, height) in cells of {anchors.stride} px",
        )

    def boxes_of(sizes: Sequence[int]) -> np.ndarray:
        levels = [
            replace(x, min_size=low, max_size=high)
            for x, (low, high) in zip(anchors.levels, pairwise(sizes), strict=True)
        ]
        return _shapes_of_levels(levels)

    present = [round(level.min_size) for level in anchors.levels] + [round(anchors.levels[-1].max_size)]
    starts = [present, size_start(sample, len(present))]
    sizes = max((size_search(sample, start, boxes_of) for start in starts), key=lambda found: found[1])[0]
    return (
        {"sizes": sizes},
        boxes_of(sizes),
        "px of the model input: min_size of each level, then max_size of the last",
    )


def _shapes_of_levels(levels: Sequence) -> np.ndarray:
    return np.array([shape for level in levels for shape in level.shapes_wh()])


def _compared(
    wh: np.ndarray, proposed: np.ndarray, anchors: AnchorMaker, size: tuple[int, int], name: str
) -> Iterator[AnchorSet]:
    """The proposal, what the configuration has, and what was published; published shapes grow with the input."""
    side = np.array([size[1], size[0]])
    grid = anchors(size).boxes_cxcywh[:, 2:].double().numpy()
    yield anchor_set("proposed here", proposed, wh)
    yield anchor_set(f"{name}, as configured", np.unique(grid, axis=0), wh)
    for published, cells in YOLO_ANCHORS.items():
        yield anchor_set(f"Darknet's {published}", np.array(cells) / CELLS * side, wh)
    for levels, pixels in ((ssd300_levels, 300), (ssd512_levels, 512)):
        for published in ("voc", "coco"):
            yield anchor_set(
                f"SSD{pixels}'s {published}", _shapes_of_levels(levels(published)) / pixels * side, wh
            )


def anchor_set(name: str, anchors: np.ndarray, wh: np.ndarray) -> AnchorSet:
    iou = best_iou(wh, anchors)
    kept = np.unique(anchors, axis=0)
    kept = kept[np.argsort(kept.prod(1), kind="stable")]
    return AnchorSet(name, kept.tolist(), float(iou.mean()), float((iou >= RECALLED).mean()))


def _curve(every: Shapes, sample: Shapes, k: int, search: dict[str, int]) -> dict[int, float]:
    """k -> mean IoU of k-means over all boxes; as far as there are enough different shapes."""
    return {
        n: every.mean_iou(kmeans(sample, n, **search).anchors)
        for n in range(1, min(max(UPTO, k), len(sample.wh)) + 1)
    }


def _easy_curve(boxes: BoxShapes, asked: argparse.Namespace, search: dict[str, int]) -> dict[int, float]:
    """The curve of a clustering without difficult objects, where some are trained on. Small data sets may have nothing else."""
    if boxes.difficult.all() or not boxes.difficult.any():
        return {}
    easy = shapes_of(boxes.wh[~boxes.difficult])
    return _curve(easy, easy.sample(asked.sample, asked.seed), asked.k, search)


def _groups(boxes: BoxShapes, class_names: Sequence[str], sets: Sequence[AnchorSet]) -> Iterator[dict]:
    """Classes, then COCO's three sizes and three equal shares by area, all measured in the model input."""
    iou = [best_iou(boxes.wh, np.array(x.wh)) for x in sets]
    area = boxes.wh.prod(1)
    thirds = [0, *np.quantile(area, (1 / 3, 2 / 3)), np.inf]
    masks = {name: boxes.labels == label for label, name in enumerate(class_names)}
    for kind, edges in (("{} (COCO)", COCO_AREAS), ("{} third", thirds)):
        names = ("small", "medium", "large") if "COCO" in kind else ("smallest", "middle", "largest")
        masks |= {
            kind.format(name): (area >= low) & (area < high)
            for name, (low, high) in zip(names, pairwise(edges), strict=True)
        }
    for name, mask in {**masks, "all": np.ones(len(area), bool)}.items():
        means = [float(x[mask].mean()) if mask.any() else None for x in iou]
        recalls = [float((x[mask] >= RECALLED).mean()) if mask.any() else None for x in iou]
        yield {"name": name, "boxes": int(mask.sum()), "mean_iou": means, "recall": recalls}


def result_lines(found: ClusterResult, overrides: Sequence[str]) -> Iterator[str]:
    """The report as text."""
    yield f"{_title(found)}; {_left_out(found)}"
    yield ""
    yield from _curve_lines(found)
    yield ""
    yield from _table(
        ("anchors", "shapes", "mean IoU", f"recall at {RECALLED}"),
        [(x.name, len(x.wh), _number(x.mean_iou), _number(x.recall)) for x in found.sets],
    )
    yield ""
    yield from _table(
        ("boxes of", "boxes", "recall: proposed", "configured", "mean IoU: proposed", "configured"),
        [
            (row["name"], row["boxes"], *map(_number, row["recall"]), *map(_number, row["mean_iou"]))
            for row in found.groups
        ],
    )
    (keyword, value), *_ = found.proposed.items()
    yield f"\nmodel:\n  {keyword}: {value} # {found.unit}\n"
    text = str(value).replace(" ", "")
    yield "python train.py " + shlex.join([*overrides, f"model.{keyword}={text}"])


def _title(found: ClusterResult) -> str:
    height, width = found.size
    return f"{found.data} {'+'.join(found.train)}: {found.boxes:,} boxes on {found.images:,} images, {found.resize} to {width}x{height}"


def _left_out(found: ClusterResult) -> str:
    small = f"; {found.too_small:,} narrower than {MIN_SIDE:g} px left out" if found.too_small else ""
    return f"{f'{found.difficult:,}' if found.difficult else 'none'} of them difficult{small}"


def _curve_lines(found: ClusterResult) -> Iterator[str]:
    extra = ("without difficult",) if found.curve_not_difficult else ()
    paper = ("YOLO9000, VOC 2007",) if found.data in PAPER_SETS else ()
    rows = []
    for k, value in found.curve.items():
        easy = (_number(found.curve_not_difficult.get(k)),) if extra else ()
        rows.append((f"k = {k}", _number(value), *easy, *((_number(PAPER.get(k)),) if paper else ())))
    return _table(("k-means", "mean IoU", *extra, *paper), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> Iterator[str]:
    """Columns padded to their widest cell: the first to the left, numbers to the right."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *rest in cells:
        yield "  ".join(
            [
                first.ljust(widths[0]),
                *[cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)],
            ]
        )


if __name__ == "__main__":
    main()
