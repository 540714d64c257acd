"""YOLO9000's own tree and maps (nine_k.json): facts about Darknet's files, samples of numbers on its tree.

The recording holds no file. What the files must contain is compared where they are given (--darknet FOLDER,
which holds data/9k.tree and the others): all facts, and softmax, products and walks. Without them the facts
that agree with each other and the network of yolo9000.cfg are compared; a remark says what is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from detectors.anchors import YOLO_ANCHORS
from detectors.commands.verify.comparison import EXACT, Comparison, Fixture, Tolerance, agree, compare_numbers
from detectors.commands.verify.recordings import Folder, Settings
from detectors.commands.verify.streams import splitmix
from detectors.commands.verify.tree_recordings import PROBABILITIES
from detectors.darknet.weights import Header, convolutions
from detectors.models.yolo9000 import yolo9000
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import read_map, read_tree
from detectors.wordtree.tree_softmax import TreeSoftmax

TREE, NAMES, COCO, IMAGENET = "data/9k.tree", "data/9k.names", "data/coco9k.map", "data/inet9k.map"
SMALL = Tolerance(relative=1e-3)  # of products, whose absolute tolerance says nothing about 1e-15


def nine_k(folder: Folder, name: Path) -> Iterator[Fixture]:
    """nine_k.json, and Darknet's files if they are given."""
    case = folder.json(name)
    yield Fixture(f"{name.stem}/facts", partial(_facts, case))
    yield Fixture(f"{name.stem}/yolo9000.cfg", partial(_network, case))
    root = folder.darknet
    if root is None:
        listed = ", ".join(case["files"])
        folder.remarks.append(
            f"{name}: {listed} are not in this folder: their facts, and the softmax, products and walks of "
            f"{', '.join(case['cases'])}, are not compared; give --darknet with the folder that holds them"
        )
        return
    tree = read_tree(root / TREE)
    yield Fixture(f"{name.stem}/files", partial(_files, case, root))
    yield Fixture(f"{name.stem}/tree", partial(_tree_facts, case, tree))
    yield Fixture(f"{name.stem}/names and maps", partial(_named_facts, case, root, tree))
    for sample, settings in case["cases"].items():
        yield Fixture(f"{name.stem}/{sample}", partial(_sample, tree, settings))


def _facts(case: Settings) -> Iterator[Comparison]:
    """What must agree within the recording."""
    nodes = [case["nodes"], sum(case["nodes_by_depth"].values())]
    yield agree("nodes", nodes, [case["files"][TREE]["lines"]] * 2)
    # Each group but the roots' is that of the children of one inner node.
    yield agree("groups", case["groups"], case["nodes"] - case["leaves"] + 1)
    yield agree(
        "roots", [len(case["roots"]), case["group_sizes"]["first_ten"][0]], [case["nodes_by_depth"]["1"]] * 2
    )
    for sample, settings in case["cases"].items():
        p, absolute = np.array(settings["softmax"]), np.array(settings["absolute"])
        yield agree(
            f"{sample}: Pr(node) is at most Pr(node | parent)", bool((absolute <= p * (1 + 1e-6)).all()), True
        )


def _network(case: Settings) -> Iterator[Comparison]:
    """The builder yolo9000: layers, numbers, bytes. It has no memory for its parameters here."""
    facts = case["yolo9000_cfg"]
    with torch.device("meta"):
        model = yolo9000(num_classes=case["nodes"])
    layers = convolutions(model)
    numbers = sum(layer.count for layer in layers)
    yield agree("parameters", numbers, facts["parameters"])
    yield agree("bytes", 4 * numbers + Header(minor=1).size, facts["weights_bytes_header16"])
    recorded = [layer[1] for layer in facts["layers_type_channels_side"] if layer[0] == "convolutional"]
    yield agree("channels", [layer.conv.out_channels for layer in layers], recorded)
    side = facts["layers_type_channels_side"][0][2]
    (level,) = model.grid((side, side)).levels
    yield agree(
        "grid",
        [level.rows, level.columns, level.per_location],
        [facts["grid"]] * 2 + [len(YOLO_ANCHORS["yolo9000"])],
    )


def _files(case: Settings, root: Path) -> Iterator[Comparison]:
    for name, about in case["files"].items():
        data = (root / name).read_bytes()
        yield agree(f"{name}: sha256", hashlib.sha256(data).hexdigest(), about["sha256"])
        yield agree(f"{name}: lines", data.count(b"\n"), about["lines"])


def _tree_facts(case: Settings, tree: WordTree) -> Iterator[Comparison]:
    counts = [len(tree), tree.groups, int(tree.leaf.sum())]
    yield agree("nodes, groups, leaves", counts, [case["nodes"], case["groups"], case["leaves"]])
    sizes = tree.group_size
    recorded = case["group_sizes"]
    ours = [int(sizes.max()), int(sizes.min()), int((sizes == 1).sum()), *sizes[:10].tolist()]
    keys = ("largest", "smallest", "single_child")
    yield agree("group sizes", ours, [*(recorded[key] for key in keys), *recorded["first_ten"]])
    depth, number = np.unique(tree.depth, return_counts=True)
    by_depth = dict(zip(map(str, depth.tolist()), number.tolist(), strict=True))
    yield agree("nodes by depth", by_depth, dict(case["nodes_by_depth"]))
    yield agree("order", [True, True], [case["parents_before_children"], case["children_in_one_run"]])


def _named_facts(case: Settings, root: Path, tree: WordTree) -> Iterator[Comparison]:
    names = (root / NAMES).read_text().splitlines()
    yield agree("distinct names", len(set(names)), case["distinct_names"])
    roots = [names[node] for node in np.flatnonzero(tree.parent < 0)]
    yield agree("roots", roots, case["roots"])
    coco, imagenet = (read_map(root / name, tree) for name in (COCO, IMAGENET))
    leaves = [int(tree.leaf[list(nodes)].sum()) for nodes in (coco, imagenet)]
    yield agree("leaves of the maps", leaves, [case["coco_map_leaves"], case["inet_map_leaves"]])
    yield agree("nodes of both", len(set(coco) & set(imagenet)), case["coco_and_inet_in_common"])
    person = case["person"]
    node = coco[person["coco_id"]]
    yield agree("person", [node, names[node]], [person["node"], person["name"]])
    yield agree("its path", [names[each] for each in tree.path(node)], person["path"])
    pairs = {(names[a], names[b]) for b in coco for a in tree.path(b)[1:] if a in coco}
    yield agree(
        "classes of COCO on one path", pairs, {tuple(pair) for pair in case["coco_pairs_on_one_path"]}
    )


def _sample(tree: WordTree, case: Settings) -> Iterator[Comparison]:
    """Softmax, products and walks of made-up logits; again with those on a path raised."""
    softmax = TreeSoftmax(tree)
    logits = torch.from_numpy(splitmix(case["logits_seed"], 0, len(tree), *case["logits_range"]))
    picked = case["picked_nodes"]
    p = softmax.log_softmax(logits[None])[0].exp()
    yield compare_numbers("softmax", p[picked], case["softmax"], PROBABILITIES)
    probability = softmax.log_probabilities(logits[None])[0].exp()
    yield compare_numbers("products", probability[picked], case["absolute"], PROBABILITIES)
    yield compare_numbers("products, relative", probability[picked], case["absolute"], SMALL)
    leaves = torch.where(torch.from_numpy(tree.leaf), probability, 0)
    yield compare_numbers("sum of leaves", leaves.sum(), case["sum_of_leaves"], PROBABILITIES)
    yield compare_numbers("best leaf", leaves.argmax(), case["leaf_argmax"], EXACT)
    raised = logits.clone()
    raised[tree.path(case["raised_node"])] += case["raise_by"]
    reached = softmax.log_probabilities(raised[None], [case["raised_node"]]).exp()
    yield compare_numbers("raised product", reached[0, 0], case["raised_probability"], PROBABILITIES)
    for prefix, values in (("", logits), ("raised_", raised)):
        for key, twice in ((f"{prefix}top", False), (f"{prefix}top_absolute", True)):
            nodes = [int(softmax.walk(values[None], t, twice=twice)[0]) for t in case["thresholds"]]
            yield compare_numbers(key, nodes, case[key], EXACT)
