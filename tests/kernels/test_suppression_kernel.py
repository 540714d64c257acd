"""The suppression kernel keeps the boxes that the reference keeps, all of them and no other."""

from __future__ import annotations

import pytest
import torch

from detectors.commands.benchmark.operation_count import WAITING
from detectors.kernels.dispatch import describe_versions
from detectors.kernels.suppression import suppress_reference
from tests.kernels.aot import Build, compiled
from tests.kernels.test_suppression import IOU, KINDS, random_boxes
from tests.test_postprocess import caffe, untrained
from tests.test_targets import Counting

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN
CASES = [(1, 1, 9), (50, 2, 50), (60, 3, 11), (40, 90, 40)]  # boxes, groups, limit


@pytest.fixture(params=[16, 512], ids=["tiles", "one tile"])
def suppress_sorted(request, monkeypatch):
    """The kernel, with so many boxes of a group at a time."""
    from detectors.kernels import suppression_kernel

    monkeypatch.setattr(suppression_kernel, "_ROWS", request.param)
    return suppression_kernel.suppress_sorted


def sorted_case(kind: str, count: int, groups: int, device: torch.device) -> tuple:
    generator = torch.Generator().manual_seed(count)
    boxes = random_boxes(kind, count, generator)
    group = torch.randint(0, groups, (count,), generator=generator).sort().values
    return boxes.to(device), group.to(device), groups


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_equals_the_reference(kind, suppress_sorted, device):
    for count, groups, limit in CASES:
        case = sorted_case(kind, count, groups, device)
        assert torch.equal(suppress_sorted(*case, IOU, limit), suppress_reference(*case, IOU, limit))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("iou", [0.0, 0.7])
def test_a_large_group(kind, iou, suppress_sorted, device):
    """Ten times what the kernel takes at a time, between two groups without a box."""
    boxes, group, _ = sorted_case(kind, 150, 1, device)
    case = boxes, group + 1, 3
    assert torch.equal(suppress_sorted(*case, iou, 150), suppress_reference(*case, iou, 150))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_corners_that_are_not_finite(value, suppress_sorted, device):
    """PostProcess drops such boxes before; here they end as in the reference."""
    boxes, group, groups = sorted_case("clustered", 60, 3, device)
    for corner in range(4):
        boxes[corner * 7 : corner * 7 + 5, corner] = value
    case = boxes, group, groups
    assert torch.equal(suppress_sorted(*case, IOU, 60), suppress_reference(*case, IOU, 60))


@pytest.mark.parametrize("groups", [0, 5])
def test_no_boxes(groups, suppress_sorted, device):
    none = torch.zeros(0, 4, dtype=torch.float64, device=device), torch.zeros(0).long().to(device), groups
    assert suppress_sorted(*none, IOU, 3).shape == (0,)


def test_the_operation_passes_opcheck(suppress_sorted, device):
    torch.library.opcheck(suppress_sorted, (*sorted_case("spread", 20, 3, device), IOU, 5))


def test_postprocess_runs_the_kernel(kernels, device):
    """The same detections bit for bit; the host waits for numbers of boxes only, whatever the batch."""
    post = caffe()
    outputs, grid = untrained(2, 3)
    post.max_detections = 40
    expected = post(outputs, grid)
    kernels("triton")
    assert describe_versions([post], device).startswith("suppression: triton")
    with Counting() as counting:
        detections = post(outputs.to(device), grid.to(device)).to("cpu")
    for name in ("image", "boxes", "scores", "labels"):
        assert torch.equal(getattr(detections, name), getattr(expected, name))
    operations = counting.operations
    assert operations["suppress_sorted"] == 1
    assert sum(operations[name] for name in (*WAITING, "boolean_index")) == 3


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_registers(capability):
    """Compiled for an A100 and an H100: nothing is spilled."""
    from detectors.kernels import suppression_kernel

    types = {"boxes": "*fp64", "start": "*i64", "keep": "*u8", "limit": "i32"}
    constants = {"IOU": IOU, "ROWS": suppression_kernel._ROWS}
    name = "detectors.kernels.suppression_kernel:suppress_groups"
    (needs,) = compiled([Build(name, types, constants, suppression_kernel._WARPS, capability)])
    assert needs.stack == 0 and needs.registers <= 80, needs
