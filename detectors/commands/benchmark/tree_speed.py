"""Classes in a tree beside flat ones: detectors benchmark tree [--device cuda] [--tree data/9k.tree]

RegionLoss, the gradient of its class term by all class logits, and the scores of all boxes, for 9,418 classes
on 17 x 17 cells of 3 anchors: a flat softmax; the tree with boxes; the tree where 3 of 4 images have a label
only, with one score for each box, and with scores of all nodes. The tree is drawn at random, as large as
YOLO9000's, unless a file is given.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from detectors.anchors import YOLO_ANCHORS, YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.benchmark.loss_runs import RegionInputs
from detectors.commands.benchmark.made_up_trees import made_up_tree
from detectors.commands.benchmark.made_up_truths import made_up_targets
from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.commands.benchmark.subject_options import (
    add_hardware,
    prepared_device,
    publish,
    subject_parser,
)
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.postprocess import yolo_scores
from detectors.structures import AnchorGrid, ScoreRule, Targets
from detectors.targets import TargetEncoder
from detectors.training.interleaving import Contender, interleaved, stopwatch_of
from detectors.training.temporaries import peak_bytes
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_scores import TreeScores
from detectors.wordtree.tree_sources import load_tree

SIDE_TREE = 544  # px: yolo9000.cfg
LABELLED_EVERY = 4  # one image of so many has boxes


def main(arguments: list[str]) -> None:
    parser = subject_parser("tree", "Class term and scores of a tree, beside a flat softmax.", repeats=7)
    add_hardware(parser)
    parser.add_argument("--batch", type=int, default=8, help="images (8)")
    parser.add_argument("--side", type=int, default=SIDE_TREE, help=f"pixels of the input ({SIDE_TREE})")
    parser.add_argument("--tree", type=Path, help="a .tree file in place of a tree at random")
    args = parser.parse_args(arguments)
    device = prepared_device(args, batch=1, side=32)
    tree = load_tree(args.tree) if args.tree else made_up_tree()
    publish("tree", tree_rows(tree, args, device), args, device, stopwatch_of(device))


def tree_rows(tree: WordTree, args: argparse.Namespace, device: torch.device) -> list[RatioRow]:
    """args: batch, side, repeats."""
    grid = YoloAnchors(YOLO_ANCHORS["yolo9000"], stride=32)((args.side, args.side)).to(device)
    inputs = RegionInputs(args.batch, grid, len(tree))
    targets = made_up_targets("coco", args.batch, grid.size).to(device)
    targets = replace(targets, labels=targets.labels % len(tree))
    labelled = _labelled(targets, len(tree))
    loss = RegionLoss(tree=tree).to(device)
    walk = TreeScores(tree).to(device)
    runs = {
        "flat softmax": TreeRun(RegionLoss().to(device), yolo_scores, inputs, targets, grid),
        "tree, boxes": TreeRun(loss, walk, inputs, targets, grid),
        "tree, labels only": TreeRun(loss, walk, inputs, labelled, grid),
        "tree, all scores": TreeRun(
            loss, TreeScores(tree, rule="every_node").to(device), inputs, labelled, grid
        ),
    }
    contenders = [
        Contender(name, {"loss": run.forward, "gradient": run.backward, "scores": run.score})
        for name, run in runs.items()
    ]
    timings = interleaved(contenders, stopwatch_of(device), rounds=args.repeats)
    facts = {name: {"MiB at once": peak_bytes(run.work, device) / 2**20} for name, run in runs.items()}
    what = f"{len(tree)} classes in {tree.groups} groups, {args.batch} images of {grid.num_anchors} boxes"
    return rows_of(what, timings, facts)


def _labelled(targets: Targets, nodes: int) -> Targets:
    """The same batch, where most images lose their boxes and have a label only."""
    number = torch.arange(len(targets.labels), device=targets.labels.device)
    only = number % LABELLED_EVERY > 0
    labels = torch.where(only, (number * 7919) % nodes, -1)
    return replace(targets, valid=targets.valid & ~only[:, None], image_labels=labels)


class TreeRun:
    """The loss, the gradient of its class term, and the scores, for one batch of head outputs."""

    def __init__(
        self, loss: RegionLoss, rule: ScoreRule, inputs: RegionInputs, targets: Targets, grid: AnchorGrid
    ):
        self.loss = loss.eval()
        self.loss.images_seen.fill_(loss.prior_images)
        self.rule = rule
        self.inputs = inputs
        self.grid = grid
        self.encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())
        self.targets = targets

    def forward(self) -> None:
        self.outputs = self.inputs.outputs(torch.float32)
        encoded = self.encoder(self.targets, self.grid, self.outputs)
        self.value = self.loss(self.outputs, encoded, self.grid)["class"]

    def backward(self) -> None:
        torch.autograd.grad(self.value, self.outputs.class_logits)

    def score(self) -> None:
        with torch.no_grad():
            self.rule(self.outputs)

    def work(self) -> Tensor:
        self.forward()
        self.backward()
        self.score()
        return self.value
