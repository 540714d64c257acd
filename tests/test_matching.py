"""Both matchers against plain loops; recordings of the originals are in test_losses.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from detectors import matching
from detectors.anchors import DefaultBoxes, YoloAnchors, ssd300_levels, ssd512_levels
from detectors.coders import SSDBoxCoder, YoloBoxCoder
from detectors.commands.benchmark.made_up_truths import made_up_targets
from detectors.matching import (
    SMALLEST_IOU,
    MultiBoxMatcher,
    ResponsibleCellMatcher,
    comes_first,
    greedy_bipartite,
    iou_of,
    lowest_labels,
    number_of,
    owns,
    pair_keys,
)
from detectors.structures import BACKGROUND, AnchorGrid, Level, Targets
from detectors.targets import TargetEncoder
from detectors.training.temporaries import peak_bytes
from tests import oracles


@pytest.mark.parametrize("seed", range(5))
def test_responsible_cell_equals_loops(seed):
    grid = YoloAnchors([(1.0, 1.5), (3.0, 2.0), (5.0, 6.0)], 16)((96, 128))
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=20, classes=3, size=grid.size
    )
    matched = ResponsibleCellMatcher()(targets, grid).matched
    for b, owner in enumerate(oracles.responsible_cell(targets, grid)):
        expected = torch.full((grid.num_anchors,), BACKGROUND)
        for anchor, box in owner.items():
            expected[anchor] = box
        assert_close(matched[b], expected)


def test_the_later_box_wins_and_both_stay_assigned():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    matches = ResponsibleCellMatcher()(oracles.pad_targets([[[0.0, 0, 20, 20], [4, 4, 24, 24]]]), grid)
    assert matches.assigned.tolist() == [[0, 0]]
    assert matches.matched.tolist() == [[1, -1, -1, -1]]


def test_a_centre_on_the_far_edge_stays_inside():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    matches = ResponsibleCellMatcher()(oracles.pad_targets([[[60.0, 60, 68, 68]]]), grid)
    assert matches.assigned.tolist() == [[3]]


@pytest.mark.parametrize(
    ("bipartite", "naive_match"), [("greedy", oracles.multibox_match), ("last", oracles.last_box_match)]
)
@pytest.mark.parametrize("seed", range(5))
def test_multibox_equals_loops(seed, bipartite, naive_match):
    grid = oracles.small_ssd_grid((96, 128))
    targets = oracles.random_targets(
        torch.Generator().manual_seed(seed), batch=3, most=12, classes=3, size=grid.size
    )
    matched = MultiBoxMatcher(bipartite=bipartite)(targets, grid).matched
    for b in range(3):
        expected = torch.full((grid.num_anchors,), BACKGROUND)
        for anchor, box in naive_match(targets, grid, b).items():
            expected[anchor] = box
        assert_close(matched[b], expected)


def test_the_last_of_equal_boxes_keeps_the_anchor():
    """Other anchors with IoU >= .5 would go to the first of the boxes; here there are none."""
    grid = oracles.small_ssd_grid((96, 96))
    same = [30.0, 30, 40, 40]
    matches = MultiBoxMatcher(bipartite="last")(oracles.pad_targets([[same, same, same], [same]]), grid)
    assert len(set(matches.assigned[0].tolist())) == 1
    assert matches.matched[0][matches.matched[0] >= 0].tolist() == [2]
    assert matches.assigned[1].tolist() == [matches.assigned[0, 0].item(), -1, -1]


def test_boxes_that_share_a_best_anchor_all_get_one():
    """In most ports the last box overwrites the others."""
    grid = oracles.small_ssd_grid((96, 96))
    same = [30.0, 30, 50, 50]
    matches = MultiBoxMatcher()(oracles.pad_targets([[same, same, same]]), grid)
    assert len(set(matches.assigned[0].tolist())) == 3
    assert set(matches.matched[0].tolist()) >= {0, 1, 2}


def best_anchors(iou: torch.Tensor) -> torch.Tensor:
    """(B, M, A) IoU -> what greedy_bipartite takes."""
    keys = pair_keys(iou, torch.arange(iou.shape[2])).topk(min(iou.shape[1:])).values
    return torch.where(iou_of(keys) > SMALLEST_IOU, keys, -1)


def greedy(iou: torch.Tensor) -> list[list[int]]:
    return greedy_bipartite(best_anchors(iou), iou.shape[2]).tolist()


def test_greedy_takes_the_largest_pair_first():
    iou = torch.tensor([[[0.9, 0.8, 0.0], [0.95, 0.1, 0.0], [0.7, 0.75, 0.2]]])
    assert greedy(iou) == [[1, 0, 2]]
    nothing_left = torch.tensor([[[0.9, 0.0], [0.8, 0.0]]])
    assert greedy(nothing_left) == [[0, -1]]


def test_greedy_gives_ties_to_the_lowest_anchor():
    assert greedy(torch.full((1, 2, 50), 0.25)) == [[0, 1]]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_greedy_settles_a_chain_of_boxes(on_gpu, request):
    """Each box loses its best anchor to the box before it: as many rounds as boxes."""
    if on_gpu:
        request.getfixturevalue("as_on_gpu")
    count = 12
    iou = torch.zeros(1, count, count)
    for box in range(count):
        iou[0, box, box] = 0.9 - 0.02 * box
        if box:
            iou[0, box, box - 1] = iou[0, box, box] + 0.01
    assert greedy(iou) == [list(range(count))]


def test_a_key_is_ordered_by_iou_then_by_the_lowest_number():
    iou = torch.tensor([0.0, 1e-38, 0.5, 0.5, 1.0])
    number = torch.tensor([0, 3, 7, 5, 1 << 31])
    keys = pair_keys(iou, number)
    assert keys.argsort().tolist() == [0, 1, 2, 3, 4]
    assert_close(iou_of(keys), iou, rtol=0, atol=0)
    assert number_of(keys).tolist() == number.tolist()
    assert number_of(torch.tensor([-1])).tolist() == [-1]


def test_a_box_that_hardly_overlaps_an_anchor():
    """Caffe ignores an IoU of at most 1e-6; the ports take any above 0, torchvision also 0."""
    levels = (Level(1, 2, 16.0, 1),)
    boxes_cxcywh = torch.tensor([[100.0, 100, 8, 8], [5000.0, 5000, 10000, 10000]])
    grid = AnchorGrid(boxes_cxcywh, torch.full((2,), 16.0), torch.zeros(2, 2), (64, 64), levels)
    targets = oracles.pad_targets([[[0.0, 0, 8, 8], [20000, 20000, 20010, 20010]]])
    assert MultiBoxMatcher()(targets, grid).assigned.tolist() == [[-1, -1]]
    assert MultiBoxMatcher(bipartite="last")(targets, grid).assigned.tolist() == [[1, -1]]


def test_boxes_on_the_first_anchor_share_their_lowest_label():
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    boxes = [[[0.0, 0, 20, 20], [4, 4, 24, 24], [40, 40, 60, 60]]]
    targets = oracles.pad_targets(boxes)
    targets = replace(targets, labels=torch.tensor([[2, 1, 0]]))
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    assert lowest_labels(encoded).tolist() == [[1, 1, 0]]


def test_which_boxes_on_an_anchor_come_first_and_which_own_it():
    """Three boxes on the first anchor, a box without area, padding, and a box of its own."""
    grid = YoloAnchors([(1.0, 1.0)], 32)((64, 64))
    row = [0.0, 0, 20, 20]
    targets = oracles.pad_targets([[row, row, [0, 0, 0, 9], [40, 40, 60, 60], row], [row]])
    encoded = TargetEncoder(ResponsibleCellMatcher(), YoloBoxCoder())(targets, grid)
    assert comes_first(encoded).tolist() == [[True, False, False, True, False], [True, *[False] * 4]]
    assert owns(encoded).tolist() == [[False, False, False, True, True], [True, *[False] * 4]]


def test_more_boxes_than_anchors():
    grid = oracles.small_ssd_grid((32, 32))
    boxes = [[float(i % 7), float(i % 5), 20.0 + i % 11, 22.0 + i % 3] for i in range(40)]
    matches = MultiBoxMatcher()(oracles.pad_targets([boxes]), grid)
    anchors = matches.assigned[0][matches.assigned[0] >= 0]
    assert len(anchors) == grid.num_anchors == len(set(anchors.tolist()))


def test_a_batch_without_boxes():
    empty = oracles.pad_targets([[], []])
    for grid, matcher in (
        (YoloAnchors([(1.0, 1.0)])((64, 64)), ResponsibleCellMatcher()),
        (oracles.small_ssd_grid((64, 64)), MultiBoxMatcher()),
    ):
        matches = matcher(empty, grid)
        assert (matches.matched == BACKGROUND).all()
        assert matches.assigned.shape == (2, 0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="positive_iou=0"):
        MultiBoxMatcher(0)
    with pytest.raises(ValueError, match="bipartite='first': choose 'greedy'"):
        MultiBoxMatcher(bipartite="first")


def test_an_iou_of_exactly_the_threshold_is_positive():
    """As in Caffe and the paper. The box covers all of the first anchor and half of the second."""
    boxes_cxcywh = torch.tensor([[8.0, 4, 16, 8], [8.0, 8, 16, 16], [40.0, 40, 16, 16]])
    levels = (Level(1, 3, 16.0, 1),)
    grid = AnchorGrid(boxes_cxcywh, torch.full((3,), 16.0), torch.zeros(3, 2), (64, 64), levels)
    targets = oracles.pad_targets([[[0.0, 0, 16, 8]]])
    assert MultiBoxMatcher()(targets, grid).matched.tolist() == [[0, 0, BACKGROUND]]
    stricter = MultiBoxMatcher(positive_iou=0.51)(targets, grid)
    assert stricter.matched.tolist() == [[0, BACKGROUND, BACKGROUND]]


@pytest.mark.parametrize(
    ("bipartite", "naive_match"), [("greedy", oracles.multibox_match), ("last", oracles.last_box_match)]
)
def test_three_hundred_boxes_with_ties_equal_loops(bipartite, naive_match):
    """More boxes than anchors, at multiples of half a cell: most IoUs occur many times."""
    grid = oracles.small_ssd_grid((96, 128))
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 12, (1, 300, 2), generator=generator) * 8.0
    boxes = torch.cat([low, low + 8.0 * torch.randint(1, 5, (1, 300, 2), generator=generator)], -1)
    targets = Targets(boxes, torch.zeros(1, 300, dtype=torch.int64), torch.ones(1, 300, dtype=torch.bool))
    matches = MultiBoxMatcher(bipartite=bipartite)(targets, grid)
    expected = torch.full((grid.num_anchors,), BACKGROUND)
    for anchor, box in naive_match(targets, grid, 0).items():
        expected[anchor] = box
    assert_close(matches.matched[0], expected)


class Watching(TorchDispatchMode):
    """Notes the numbers that operations write, and the bytes of the largest result."""

    def __init__(self):
        super().__init__()
        self.written = 0
        self.largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, torch.Tensor) and not function.is_view:
                self.written += tensor.numel()
                self.largest = max(self.largest, tensor.nbytes)
        return result


def watched(targets: Targets, grid: AnchorGrid) -> Watching:
    with Watching() as watching:
        MultiBoxMatcher()(targets, grid)
    return watching


def test_work_grows_linearly_with_boxes():
    grid = DefaultBoxes(ssd300_levels(), (300, 300))((300, 300))
    few, many = (
        watched(made_up_targets("coco", 2, grid.size, per_image=count), grid).written for count in (30, 300)
    )
    assert few > 30 * 2 * grid.num_anchors
    assert many <= 12 * few


@pytest.mark.parametrize("on_gpu", [False, True])
def test_no_table_of_pairs_is_larger_than_its_bound(on_gpu, request, monkeypatch):
    if on_gpu:
        request.getfixturevalue("as_on_gpu")
    monkeypatch.setattr(matching, "PADDED_TABLE", 1 << 20)
    grid = DefaultBoxes(ssd300_levels()[1:], (300, 300))((300, 300))
    targets = made_up_targets("coco", 4, grid.size, per_image=60)
    assert 4 * 60 * grid.num_anchors * matching.KEY_BYTES > 4 << 20
    assert watched(targets, grid).largest <= 1 << 20


@pytest.mark.slow
def test_a_large_batch_of_ssd512_fits_in_memory():
    grid = DefaultBoxes(ssd512_levels(), (512, 512))((512, 512))
    targets = made_up_targets("voc", 32, grid.size, per_image=100)
    encoder = TargetEncoder(MultiBoxMatcher(), SSDBoxCoder())
    assert peak_bytes(lambda: encoder(targets, grid).offsets, torch.device("cpu")) <= 300 << 20


def test_the_operation_of_a_compiled_graph():
    """Its shapes, for torch.compile, are right."""
    grid = oracles.small_ssd_grid((64, 64))
    for boxes in ([[10.0, 10, 40, 40], [0, 0, 20, 30]], []):
        targets = oracles.pad_targets([boxes, boxes])
        for greedy in (True, False):
            arguments = (targets.boxes, targets.valid, grid.boxes, 0.5, greedy)
            torch.library.opcheck(torch.ops.detectors.tiled_match.default, arguments)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("matcher", [ResponsibleCellMatcher(), MultiBoxMatcher()], ids=["yolov2", "ssd"])
def test_compiled_matching_is_the_same(matcher, backend):
    """Inductor of torch 2.11 gives wrong indices for some maxima of IoUs on a CPU (pytorch issue 178964)."""
    yolo = isinstance(matcher, ResponsibleCellMatcher)
    shapes = [(1.0, 1.5), (3.0, 2.0), (5.0, 6.0), (2.0, 2.0), (4.0, 4.0)]
    grid = YoloAnchors(shapes, 16)((96, 128)) if yolo else oracles.small_ssd_grid((96, 128))
    torch.compiler.reset()
    compiled = torch.compile(lambda targets: matcher(targets, grid), fullgraph=True, backend=backend)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        targets = oracles.random_targets(generator, batch=4, most=20, classes=3, size=grid.size)
        assert_close(tuple(compiled(targets)), tuple(matcher(targets, grid)), rtol=0, atol=0)
    torch.compiler.reset()
