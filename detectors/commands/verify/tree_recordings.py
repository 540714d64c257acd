"""Darknet's trees: tree.json (read_tree), hierarchy.json (softmax, products, walks) and classify.json.

Arrays of trees are read leniently here, as Darknet reads them: recordings also hold files that read_tree of
wordtree/ refuses, and their rows say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    agree,
    compare_numbers,
    known_difference,
)
from detectors.commands.verify.recordings import Arrays, Folder, Settings
from detectors.darknet.network import SoftmaxLayer
from detectors.darknet.sections import Softmax
from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_files import read_tree, tree_text
from detectors.wordtree.tree_paths import TreePaths
from detectors.wordtree.tree_softmax import TreeSoftmax

PROBABILITIES = Tolerance(absolute=1e-5)
CLASS_LOSS = Tolerance(relative=2e-5)
C_LINE = re.compile(r"\s*(\S{0,255})(?:\s+([+-]?\d+))?", re.ASCII)  # sscanf "%s %d"
TREE_ARRAYS = {  # Darknet's names -> WordTree's
    "parent": "parent",
    "child": "child_group",
    "group": "group",
    "leaf": "leaf",
    "group_size": "group_size",
    "group_offset": "group_offset",
}


def trees(folder: Folder, name: Path) -> Iterator[Fixture]:
    """tree.json, and its npz."""
    return folder.fixtures(name, partial(_tree, folder, name))


def hierarchies(folder: Folder, name: Path) -> Iterator[Fixture]:
    """hierarchy.json, and its npz."""
    return folder.fixtures(name, partial(_hierarchy, folder, name))


def classifications(folder: Folder, name: Path) -> Iterator[Fixture]:
    """classify.json, and its npz."""
    return folder.fixtures(name, partial(_classify, folder, name))


def fgetl_lines(text: str) -> list[str]:
    """The lines that fgetl gives: what follows the last newline counts only if it is not empty."""
    return text.removesuffix("\n").split("\n") if text else []


def lenient_tree(text: str) -> WordTree:
    """A .tree file as Darknet's read_tree takes it, without any check."""
    rows = [C_LINE.match(line).groups() for line in fgetl_lines(text)]
    return WordTree.of([row[0] for row in rows], [int(row[1] or -1) for row in rows], checked=False)


def tree_of(folder: Folder, name: Path, case: Settings) -> WordTree:
    """The tree that a case names, relative to its JSON file: by read_tree if it takes the file."""
    path = folder.path(name.parent / case["tree"])
    try:
        return read_tree(path)
    except ValueError:
        return lenient_tree(path.read_text())


def leaf_list(folder: Folder, name: Path, case: Settings, tree: WordTree) -> np.ndarray:
    """(N,) bool: the node's name is in the case's list of leaves (change_leaves)."""
    listed = set(fgetl_lines(folder.path(name.parent / case["leaves"]).read_text()))
    return np.array([node in listed for node in tree.names])


def _tree(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    path = folder.path(name.parent / case["file"])
    text = path.read_text()
    tree = lenient_tree(text)
    named = case["names"]
    if isinstance(named, str):  # "n0000 .. n0202"
        first, _, last = named.split()
        named = [f"n{number:04}" for number in range(int(first[1:]), int(last[1:]) + 1)]
    yield agree("names", list(tree.names), list(named))
    yield agree("nodes and groups", [len(tree), tree.groups], [case["n"], case["groups"]])
    for recorded, ours in TREE_ARRAYS.items():
        yield compare_numbers(recorded, getattr(tree, ours), arrays[recorded], EXACT)
    listed = leaf_list(folder, name, case, tree)
    yield compare_numbers("leaf_listed", listed, arrays["leaf_listed"], EXACT)
    yield agree("leaves found", f"Found {listed.sum()} leaves.", case["printed_by_change_leaves"])
    yield _checked(path, tree)


def _checked(path: Path, tree: WordTree) -> Comparison:
    """read_tree and what tree_text writes give the same tree; or our reader refuses the file, knowingly."""
    try:
        checked = read_tree(path)
    except ValueError as error:
        refused = agree("read_tree", True, True)
        return known_difference(refused, f"our reader refuses it: {error}".replace(f"{path}", path.name))
    return agree("read_tree, and written again", [checked, read_tree("", tree_text(checked))], [tree, tree])


def _hierarchy(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    tree = tree_of(folder, name, case)
    softmax = TreeSoftmax(tree)
    logits = _last(torch.from_numpy(arrays["logits"])) / case["temperature"]  # (B, S, C)
    p = softmax.log_softmax(logits).exp()
    yield compare_numbers("softmax", _second(p), arrays["softmax"], PROBABILITIES)
    probability = softmax.log_probabilities(logits).exp()
    yield compare_numbers("probability", _second(probability), arrays["probability"], PROBABILITIES)
    absolute = probability if (tree.parent < np.arange(len(tree))).all() else _one_pass(p, tree.parent)
    listed = leaf_list(folder, name, case, tree)
    kept = {"absolute": np.ones(len(tree)), "absolute_leaves": tree.leaf, "absolute_listed": listed}
    for key, nodes in kept.items():
        ours = absolute * torch.from_numpy(nodes.astype(np.float32))
        yield compare_numbers(key, _second(ours), arrays[key], PROBABILITIES)
    for key, twice in (("top", False), ("top_absolute", True)):
        if key in arrays:
            walks = [walked(softmax, logits, threshold, twice=twice) for threshold in case["thresholds"]]
            yield compare_numbers(key, torch.stack(walks), arrays[key], EXACT)


def walked(softmax: TreeSoftmax, logits: Tensor, threshold: float, *, twice: bool) -> Tensor:
    """(..., N) -> (...) where the walk down ends."""
    node, _ = softmax.walk(logits.flatten(0, -2), threshold, twice=twice)
    return node.view(logits.shape[:-1])


def _one_pass(p: Tensor, parents: Sequence[int]) -> Tensor:
    """hierarchy_predictions where a parent comes after its child: each times its parent's value so far."""
    result = p.clone()
    for node, parent in enumerate(parents):
        if parent >= 0:
            result[..., node] *= result[..., parent]
    return result


def _last(values: Tensor) -> Tensor:
    """(B, C, S) -> (B, S, C)"""
    return values.movedim(1, -1)


def _second(values: Tensor) -> Tensor:
    """(B, S, C) -> (B, C, S)"""
    return values.movedim(-1, 1)


def _classify(folder: Folder, name: Path, case: Settings, arrays: Arrays) -> Iterator[Comparison]:
    tree = tree_of(folder, name, case)
    raw = torch.from_numpy(arrays["input"])  # (B, N)
    labels = torch.tensor(case["classes"])
    yield compare_numbers("classes", labels, arrays["classes"], EXACT)
    layer = SoftmaxLayer(Softmax(1, case["temperature"], tree))
    yield compare_numbers("output", layer(raw[..., None, None]), arrays["output"], PROBABILITIES)
    yield compare_numbers("truth", _filled_truth(tree, labels), arrays["truth"], EXACT)
    # The layer's delta is taken after the division by the temperature.
    logits = (raw.double() / case["temperature"]).requires_grad_()
    loss = CrossEntropyLoss(tree=tree)
    summed = len(raw) * loss(logits, labels)["class"]
    summed.backward()
    yield compare_numbers("delta", -logits.grad, arrays["delta"], PROBABILITIES)
    yield compare_numbers("cost", summed, arrays["cost"].reshape(()), CLASS_LOSS)
    paths = TreePaths.of(loss.tree, labels)
    errors = -paths.log_p(logits.detach().gather(1, paths.column))  # (B, D)
    ancestors = loss.tree.ancestors[labels]
    on_path = torch.where(ancestors >= 0, ancestors, len(tree))
    losses = errors.new_zeros(len(raw), len(tree) + 1).scatter(1, on_path, errors)[:, :-1]
    yield compare_numbers("loss", losses, arrays["loss"], CLASS_LOSS)


def _filled_truth(tree: WordTree, labels: Tensor) -> Tensor:
    """(B, N): 1 on the path of each label, -1234 in groups without a node of it, else 0."""
    truth = torch.full((len(labels), len(tree)), -1234.0)
    group = torch.from_numpy(tree.group)
    for row, label in zip(truth, labels.tolist(), strict=True):
        path = tree.path(label)
        row[torch.isin(group, group[path])] = 0
        row[path] = 1
    return truth
