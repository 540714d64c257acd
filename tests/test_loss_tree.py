"""RegionLoss on a tree of classes: Darknet's recordings, and images of which only the label is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.commands.verify import command
from detectors.commands.verify.recordings import Folder
from detectors.kernels import packing
from detectors.kernels.dispatch import describe_versions
from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.losses.region_loss import RegionLoss
from detectors.matching import ResponsibleCellMatcher
from detectors.structures import HeadOutputs, Targets
from detectors.targets import TargetEncoder
from detectors.training.temporaries import peak_bytes
from detectors.wordtree.tree_scores import TreeScores
from detectors.wordtree.tree_softmax import TreeSoftmax
from tests.wordtree import trees

FIXTURES = Path(__file__).parent / "fixtures/yolo9000"
GRID = YoloAnchors([(1.0, 1.0), (2.0, 2.0)], 32)((64, 64))  # 8 anchors


def test_darknets_recordings():
    """Trees, hierarchy, [softmax], region training and decoding, cfgs: every row, at its tolerance."""
    rows = list(command.verify(Folder(FIXTURES)))
    bad = [row for row in rows if row.bad]
    assert not bad, bad[:5]
    known = [row.fixture for row in rows if row.verdict == command.KNOWN]
    assert known == ["tree/edge_blank_end", "tree/edge_split_siblings"]
    assert len(rows) > 700


def outputs_of(seed: int = 0, images: int = 2) -> HeadOutputs:
    generator = torch.Generator().manual_seed(seed)
    shapes = (images, 8, 4), (images, 8, 8), (images, 8)
    parts = [torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return HeadOutputs(*(part.requires_grad_() for part in parts))


def targets_of(labels: list[int], images: list[int], at: float = 20.0) -> Targets:
    """One box in each image at the same place, except where an image has a label."""
    boxes = torch.tensor([[[at, at, at + 30, at + 30]]] * len(images), dtype=torch.float64)
    only = torch.tensor(images)
    return Targets(boxes, torch.tensor(labels)[:, None], (only < 0)[:, None], only)


def terms_of(loss: RegionLoss, outputs: HeadOutputs, targets: Targets) -> dict[str, Tensor]:
    parts = {name: getattr(GRID, name).double() for name in ("boxes_cxcywh", "stride", "cell")}
    grid = replace(GRID, **parts)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid, outputs)
    return loss(outputs, encoded, grid)


def p_of(outputs: HeadOutputs) -> Tensor:
    return TreeSoftmax(trees.SMALL).log_probabilities(outputs.class_logits.detach())


def test_the_class_term_is_minus_ln_of_the_nodes_probability():
    outputs = outputs_of()
    targets = targets_of([3, 6], [-1, -1])
    terms = terms_of(RegionLoss(tree=trees.SMALL, class_scale=2.0), outputs, targets)
    (anchor,) = {int(row) for row in (ResponsibleCellMatcher()(targets, GRID).assigned)}
    log_p = p_of(outputs)[:, anchor]
    assert_close(terms["class"], -(log_p[0, 3] + log_p[1, 6]))  # 2.0 / 2 images


def test_a_label_alone_teaches_the_anchor_that_fits_it_best():
    outputs = outputs_of()
    loss = RegionLoss(tree=trees.SMALL, class_only_objectness="darknet")
    terms = terms_of(loss, outputs, targets_of([0, 0], [3, 5]))
    objectness = outputs.objectness.detach().sigmoid()
    log_p = p_of(outputs)
    scores = torch.stack([objectness[0] * log_p[0, :, 3].exp(), objectness[1] * log_p[1, :, 5].exp()])
    best = scores.argmax(1)
    assert_close(terms["class"], -(log_p[0, best[0], 3] + log_p[1, best[1], 5]) / 2)
    others = objectness.square().sum() - objectness[[0, 1], best].square().sum()
    assert_close(terms["noobject"], others / 4)
    assert [terms[name].item() for name in ("box", "prior", "object")] == [0, 0, 0]
    sum(terms.values()).backward()
    assert outputs.offsets.grad is None or not outputs.offsets.grad.any()
    assert not outputs.objectness.grad[[0, 1], best].any()
    assert (outputs.class_logits.grad.abs().sum(2) > 0).nonzero().tolist() == [[0, best[0]], [1, best[1]]]


@pytest.mark.parametrize(("logit", "learns"), [(-2.0, True), (0.5, False)])
def test_papers_objectness_of_a_label_alone_is_at_least_3_tenths(logit, learns):
    outputs = replace(
        outputs_of(), objectness=torch.full((2, 8), logit, dtype=torch.float64, requires_grad=True)
    )
    terms = terms_of(RegionLoss(tree=trees.SMALL), outputs, targets_of([0, 0], [3, 5]))
    missing = 0.3 - torch.tensor(logit, dtype=torch.float64).sigmoid()
    assert_close(terms["object"], (5 / 2 * missing.clamp(min=0) ** 2))
    terms["object"].backward()
    assert (outputs.objectness.grad < 0).sum() == (2 if learns else 0)


def test_of_equal_anchors_the_first_of_darknets_order_is_taken():
    """By anchor, row and column: the last cell's first anchor comes before the first cell's second."""
    logits = torch.zeros(1, 8, 8, dtype=torch.float64)
    objectness = torch.zeros(1, 8, dtype=torch.float64)
    objectness[0, [1, 6]] = 1.0
    outputs = HeadOutputs(torch.rand(1, 8, 4, dtype=torch.float64), logits, objectness)
    loss = RegionLoss(tree=trees.SMALL)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets_of([0], [3]), GRID, outputs)
    assert loss.tree.labelled_images(outputs, encoded, GRID).anchor.tolist() == [6]


def test_of_boxes_in_one_anchor_each_group_learns_from_the_last():
    """A spaniel, then a cat: the group of breeds keeps the spaniel, animals get the cat, roots both alike."""
    outputs = outputs_of(images=1)
    boxes = torch.tensor([[[20.0, 20, 50, 50]] * 2], dtype=torch.float64)
    targets = Targets(boxes, torch.tensor([[6, 2]]), torch.ones(1, 2, dtype=torch.bool))
    terms = terms_of(RegionLoss(tree=trees.SMALL), outputs, targets)
    anchor = int(ResponsibleCellMatcher()(targets, GRID).assigned[0, 0])
    log_p = TreeSoftmax(trees.SMALL).log_softmax(outputs.class_logits.detach())[0, anchor]
    assert_close(terms["class"], -(log_p[0] + log_p[2] + log_p[6]))


def test_the_map_is_for_labels_of_boxes_only():
    outputs = outputs_of()
    mapped = RegionLoss(tree=trees.SMALL, label_map=[6, 3])
    plain = RegionLoss(tree=trees.SMALL)
    for label, node in ((0, 6), (1, 3)):
        targets = targets_of([label, 0], [-1, 1])
        expected = terms_of(plain, outputs, targets_of([node, 0], [-1, 1]))
        assert_close(terms_of(mapped, outputs, targets)["class"], expected["class"])
    with pytest.raises(ValueError, match="a box has the label 2, and label_map 2 entries"):
        terms_of(mapped, outputs, targets_of([2, 0], [-1, 1]))


def test_no_image_of_a_batch_has_a_box():
    """M may be 0."""
    outputs = outputs_of()
    targets = Targets(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    )
    loss = RegionLoss(tree=trees.SMALL)
    labelled = terms_of(loss, outputs, replace(targets, image_labels=torch.tensor([3, 5])))
    assert labelled["class"] > 0
    assert terms_of(loss, outputs, replace(targets, image_labels=torch.tensor([-1, -1])))["class"] == 0
    assert terms_of(loss, outputs, targets)["class"] == 0


def test_labels_alone_need_a_tree():
    with pytest.raises(ValueError, match="some images have a label and no boxes, and this loss has no tree"):
        terms_of(RegionLoss(), outputs_of(), targets_of([0, 0], [3, 5]))


@pytest.mark.parametrize(
    "settings",
    [
        {"normalizer": "anchors"},
        {"class_activation": "logistic"},
        {"shared_class": "lowest"},
        {"label_smoothing": 0.1},
        {"class_weights": [1.0] * 8},
        {"class_only_objectness": "half"},
        {"tree": None, "label_map": [0]},
    ],
)
def test_settings_that_a_tree_cannot_have(settings):
    with pytest.raises(ValueError, match=rf"{list(settings)[-1]}"):
        RegionLoss(**{"tree": trees.SMALL, **settings})


def test_the_log_says_that_the_kernel_does_no_tree(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    line = describe_versions([RegionLoss(tree=trees.SMALL)], torch.device("cpu"))
    assert line == "region: reference (the kernel does not do a tree of classes)"


def test_a_classifier_learns_the_path_of_its_label():
    logits = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = CrossEntropyLoss(tree=trees.SMALL)
    labels = torch.tensor([3, 6, 1])
    log_p = TreeSoftmax(trees.SMALL).log_probabilities(logits)
    assert_close(loss(logits, labels)["class"], -log_p[[0, 1, 2], labels].mean())
    assert_close(loss.probabilities(logits), log_p.exp())
    leaf = TreeSoftmax(trees.SMALL).walk(logits, 0.0)[0]
    assert loss.statistics(logits, leaf)["accuracy"] == 1
    parents = torch.tensor([trees.PARENTS[node] for node in leaf])
    assert loss.statistics(logits, parents)["accuracy"] == 1
    assert loss.statistics(logits, (leaf + 1) % 8)["accuracy"] < 1
    with pytest.raises(ValueError, match="label_smoothing=0.1: with a tree"):
        CrossEntropyLoss(tree=trees.SMALL, label_smoothing=0.1)


def all_numbers(outputs: HeadOutputs, targets: Targets) -> list[Tensor]:
    """Terms, statistics and gradients."""
    leaves = [part.detach().clone().requires_grad_() for part in vars(outputs).values()]
    outputs = HeadOutputs(*leaves)
    loss = RegionLoss(tree=trees.SMALL, prior_images=0)
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, GRID, outputs)
    terms = loss(outputs, encoded, GRID)
    sum(terms.values()).backward()
    return [
        *terms.values(),
        *loss.statistics(outputs, encoded, GRID).values(),
        *(leaf.grad for leaf in leaves),
    ]


def mixed_batch() -> tuple[HeadOutputs, Targets]:
    """An image with boxes, two with a label, one with nothing; in float32."""
    parts = [part.detach().float() for part in vars(outputs_of(images=4)).values()]
    targets = targets_of([3, 0, 0, 0], [-1, 5, 6, -1])
    valid = targets.valid & (torch.arange(4) < 3)[:, None]
    return HeadOutputs(*parts), replace(targets, boxes=targets.boxes.float(), valid=valid)


def test_a_gpu_computes_the_same_without_reading_counts(monkeypatch):
    batch = mixed_batch()
    packed = all_numbers(*batch)
    monkeypatch.setattr(packing, "PACKED", frozenset())
    for ours, theirs in zip(all_numbers(*batch), packed, strict=True):
        assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


def test_a_step_is_one_graph_and_reads_nothing_from_the_device():
    """torch.compile traces what a GPU does; a read of a tensor by the host would break the graph."""
    outputs, targets = mixed_batch()
    loss = RegionLoss(tree=trees.SMALL, prior_images=0)
    encoder = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())

    def step(outputs: HeadOutputs, targets: Targets) -> list[Tensor]:
        return list(loss(outputs, encoder(targets, GRID, outputs), GRID).values())

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert_close(compiled(outputs, targets), step(outputs, targets))


def test_no_table_of_all_classes_but_the_gradient():
    """The largest tensor that is made is the gradient of the logits: one for each number of (B, A, N)."""
    tree = trees.random_tree(0, 3000)
    logits = torch.zeros(2, 8, 3000, requires_grad=True)
    outputs = HeadOutputs(torch.rand(2, 8, 4), logits, torch.zeros(2, 8))
    loss = RegionLoss(tree=tree)
    targets = targets_of([3, 0], [-1, 2900])
    targets = replace(targets, boxes=targets.boxes.float())
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, GRID, outputs)

    def work() -> None:
        sum(loss(outputs, encoded, GRID).values()).backward()
        logits.grad = None

    whole = logits.numel() * logits.element_size()
    assert peak_bytes(work, torch.device("cpu")) < 1.6 * whole
    scores = TreeScores(tree)
    assert peak_bytes(lambda: scores(outputs), torch.device("cpu")) < 0.6 * whole
