"""Softmax in groups, products, walks and paths, against plain loops."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.wordtree import tree_softmax
from detectors.wordtree.nodes import WordTree
from detectors.wordtree.tree_paths import TreePaths
from detectors.wordtree.tree_softmax import TreeSoftmax
from tests.wordtree import trees


def some_logits(tree: WordTree, rows: int = 5) -> torch.Tensor:
    return torch.randn(rows, len(tree), generator=torch.Generator().manual_seed(0)).double() * 3


@pytest.mark.parametrize("seed", range(4))
def test_probabilities_are_those_of_plain_loops(seed):
    tree = trees.random_tree(seed, 40)
    parents = tree.parent.tolist()
    softmax = TreeSoftmax(tree)
    logits = some_logits(tree)
    p = [trees.conditional(parents, row) for row in logits.tolist()]
    absolute = torch.tensor([trees.absolute(parents, row) for row in logits.tolist()], dtype=torch.float64)
    before = logits.clone()
    assert_close(softmax.log_softmax(logits).exp(), torch.tensor(p, dtype=torch.float64))
    assert_close(softmax.log_probabilities(logits).exp(), absolute)
    assert_close(softmax.log_probabilities(logits[:1]).exp(), absolute[:1])  # one row: no copy may be shared
    factor = torch.rand(5).double().log()
    chosen = [7, 0, 7, 39]
    scaled = absolute[:, chosen] * factor.exp()[:, None]
    assert_close(softmax.probabilities(logits, chosen, factor), scaled)
    assert_close(logits, before, rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9])
def test_the_walk_ends_where_plain_loops_do(seed, threshold):
    tree = trees.random_tree(seed, 40)
    parents = tree.parent.tolist()
    logits = some_logits(tree, 40)
    node, probability = TreeSoftmax(tree).walk(logits, threshold)
    twice, _ = TreeSoftmax(tree).walk(logits, threshold, twice=True)
    rows = torch.tensor([3, 1])
    assert_close(TreeSoftmax(tree).walk(logits, threshold, rows)[0], node[rows])
    for n, row in enumerate(logits.tolist()):
        absolute = trees.absolute(parents, row)
        assert node[n] == trees.walk(parents, trees.conditional(parents, row), threshold)
        assert twice[n] == trees.walk(parents, absolute, threshold)
        assert probability[n].item() == pytest.approx(absolute[node[n]])


def test_of_equal_nodes_the_first_is_taken():
    assert TreeSoftmax(trees.SMALL).walk(torch.zeros(1, 8), 0.1)[0].tolist() == [2]


@pytest.mark.parametrize("seed", range(4))
def test_a_path_has_the_products_factors(seed):
    tree = trees.random_tree(seed, 40)
    softmax = TreeSoftmax(tree)
    logits = some_logits(tree, 40)
    paths = TreePaths.of(softmax, torch.arange(40))
    log_p = paths.log_p(logits.gather(1, paths.column))  # (T, D)
    assert_close(log_p.sum(1), softmax.log_probabilities(logits).diagonal())
    ancestors = softmax.ancestors
    expected = softmax.log_softmax(logits).gather(1, ancestors.clamp(min=0))
    assert_close(log_p, torch.where(ancestors >= 0, expected, 0))
    spread = logits[:, paths.column].movedim(1, 0)  # (T, rows, P): every row at every path
    assert_close(paths.log_p(spread).sum(-1).T, softmax.log_probabilities(logits))


def test_only_groups_on_the_path_learn():
    """Children of an inner node get nothing: a dog teaches nothing about breeds."""
    logits = torch.zeros(1, 8, dtype=torch.float64, requires_grad=True)
    paths = TreePaths.of(TreeSoftmax(trees.SMALL), torch.tensor([3]))
    paths.log_p(logits.gather(1, paths.column)).sum().backward()
    third = 1 / 3
    expected = [0.5, -0.5, -third, 2 * third, -third, 0, 0, 0]
    assert_close(logits.grad[0], torch.tensor(expected, dtype=torch.float64))


def test_large_and_distant_logits_stay_finite():
    """A group far below the row's largest logit keeps its own maximum."""
    logits = torch.tensor([[1000.0, 0, -1000, -1000, -1001, 5, 2000, 2000]])
    softmax = TreeSoftmax(trees.SMALL)
    p = softmax.log_softmax(logits).exp()[0]
    assert_close(p[:4], torch.tensor([1.0, 0, 0.4223, 0.4223]), atol=1e-4, rtol=0)
    assert_close(p[5:], torch.tensor([1.0, 0.5, 0.5]))
    paths = TreePaths.of(softmax, torch.tensor([7]))
    assert_close(
        paths.log_p(logits.gather(1, paths.column)).sum(1),
        torch.tensor([0.4223 / 2]).log(),
        atol=1e-3,
        rtol=0,
    )


def test_tiles_change_nothing(monkeypatch):
    tree = trees.random_tree(1, 40)
    logits = some_logits(tree, 50).float()
    whole = TreeSoftmax(tree).log_probabilities(logits)
    monkeypatch.setattr(tree_softmax, "CACHED_TILE", 1)  # 16 rows
    assert_close(TreeSoftmax(tree).log_probabilities(logits), whole, rtol=0, atol=0)
