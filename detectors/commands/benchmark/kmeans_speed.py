"""Anchors by k-means, side by side: detectors benchmark kmeans [--k 5] [--restarts 10] [data=voc07]

The search of `detectors cluster` beside lightnet's, which is scikit-learn's on standardised sizes, at equal
restarts; and the mean IoU that each of them reaches. Boxes are made up, as many as in VOC2007, or those of
a data set.
"""

from __future__ import annotations

import argparse
from types import ModuleType

import numpy as np
import torch

from detectors.commands.benchmark.made_up_truths import made_up_targets
from detectors.commands.benchmark.optional_peers import optional_peer
from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.commands.benchmark.subject_options import prepared_device, publish, subject_parser
from detectors.commands.cluster.command import boxes_at_input
from detectors.commands.cluster.kmeans import kmeans, shapes_of
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.training import ground_truth
from detectors.training.interleaving import Contender, interleaved, stopwatch_of

IMAGES = 5011  # of VOC2007 trainval
MADE_UP_SIDE = 416  # px


def main(arguments: list[str]) -> None:
    parser = subject_parser("kmeans", "Anchors by k-means, beside lightnet's.", repeats=5)
    parser.add_argument("overrides", nargs="*", help="settings of train.py that choose the boxes")
    parser.add_argument("--k", type=int, default=5, help="number of anchors (5)")
    parser.add_argument("--restarts", type=int, default=10, help="of each search (10)")
    args = parser.parse_intermixed_args(arguments)
    device = prepared_device(args, k=1, restarts=1)
    publish("kmeans", kmeans_rows(args, box_sizes(args.overrides)), args, device, stopwatch_of(device))


def box_sizes(overrides: list[str]) -> np.ndarray:
    """(T, 2) widths and heights in pixels of the input: of a training split, or made up without overrides."""
    if overrides:
        config = check(composed(overrides))
        return boxes_at_input(ground_truth.read_annotations(config.data, "train"), config).wh
    targets = made_up_targets("voc", IMAGES, (MADE_UP_SIDE, MADE_UP_SIDE))
    boxes = targets.boxes[targets.valid]
    return (boxes[:, 2:] - boxes[:, :2]).round().double().numpy()


def kmeans_rows(args: argparse.Namespace, wh: np.ndarray) -> list[RatioRow]:
    """args: k, restarts, repeats. wh: (T, 2)."""
    what = f"k-means, {len(wh):,} boxes, k = {args.k}, {args.restarts} restarts"
    shapes = shapes_of(wh)
    anchors: dict[str, np.ndarray] = {}

    def ours() -> None:
        anchors["ours"] = kmeans(shapes_of(wh), args.k, restarts=args.restarts).anchors

    def theirs() -> None:
        anchors["lightnet"] = lightnet_anchors(lightnet, pandas, wh, args.k, args.restarts)

    contenders = [Contender("ours", {"": ours})]
    lightnet, reason = optional_peer("lightnet")
    pandas, _ = optional_peer("pandas")  # lightnet needs it
    _, unlearned = optional_peer("sklearn")  # its k-means
    reason = reason or unlearned
    if not reason:
        contenders.append(Contender("lightnet", {"": theirs}))
    timings = interleaved(contenders, stopwatch_of(torch.device("cpu")), rounds=args.repeats)
    facts = {name: {"mean IoU": shapes.mean_iou(found)} for name, found in anchors.items()}
    rows = rows_of(what, timings, facts)
    return [*rows, RatioRow(what, "lightnet", missing=reason)] if reason else rows


def lightnet_anchors(
    lightnet: ModuleType, pandas: ModuleType, wh: np.ndarray, k: int, restarts: int
) -> np.ndarray:
    """(k, 2)"""
    boxes = pandas.DataFrame({"width": wh[:, 0], "height": wh[:, 1], "ignore": False})
    found = lightnet.util.compute_anchors(boxes, k, n_init=restarts, random_state=0)
    return found.as_output(1).numpy().astype(np.float64)
