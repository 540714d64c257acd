"""The matching and multibox kernels compiled for an A100 (sm_80) and an H100 (sm_90): nothing spilled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from detectors.kernels import matching_kernel, multibox_kernel
from tests.kernels.aot import Build, compiled

REGISTERS = 128  # of a thread; 64 where a program has 32 warps
FLOATS = (
    "boxes anchors anchors_cxcywh variances partial sums divisors box_term class_term grad_box grad_class"
)
SCALARS = "positive_iou smallest_iou ratio box_scale"
NUMBERS = "count num_anchors blocks columns batch"
STRIDES = "offset_image offset_row offset_column logit_image logit_row logit_column"
TYPES = dict.fromkeys(FLOATS.split(), "*fp32") | dict.fromkeys(SCALARS.split(), "fp32")
TYPES |= dict.fromkeys((*NUMBERS.split(), *STRIDES.split()), "i32")
TYPES |= {"matched": "*i64", "assigned": "*i64", "block_best": "*i64", "labels": "*i64"}
TYPES |= {"valid": "*i1", "keys": "*i32", "limits": "*i32"}


def matching(capability: int) -> Iterator[Build]:
    sizes = {"_overlaps": matching_kernel.OVERLAPS_SIZES, "_bipartite": matching_kernel.BIPARTITE_SIZES}
    for name, constants in sizes.items():
        kernel = f"{matching_kernel.__name__}:{name}"
        yield Build(kernel, TYPES, constants, 4, capability, matching_kernel.ROUNDED_EACH)


def rows(columns: int, dtype: str, capability: int, **ones: int) -> Iterator[Build]:
    """ones: strides that are 1, which Triton makes constants."""
    names = ("offsets", "class_logits", "grad_offsets", "grad_logits")
    types = TYPES | dict.fromkeys(names, f"*{dtype}")
    height, padded, warps = multibox_kernel._tile(columns)
    constants = {"ROWS": height, "COLUMNS": padded} | ones
    for name in ("_rows", "_gradients"):
        yield Build(f"{multibox_kernel.__name__}:{name}", types, constants, warps, capability)


def mining(anchors: int, capability: int) -> Build:
    held, warps = multibox_kernel._held_keys(anchors)
    constants = {"KEYS": held, "PARTS": multibox_kernel.PARTS_AT_A_TIME}
    return Build(f"{multibox_kernel.__name__}:_mine", TYPES, constants, warps, capability)


def terms(normalizer: str, capability: int) -> Build:
    constants: dict[str, Any] = {"NORMALIZER": normalizer, "IMAGES": multibox_kernel.IMAGES_AT_A_TIME}
    return Build(f"{multibox_kernel.__name__}:_terms", TYPES, constants, 4, capability)


def assert_within_budget(builds: list[Build]) -> None:
    for build, needs in zip(builds, compiled(builds), strict=True):
        budget = min(REGISTERS, 65536 // (32 * build.warps))
        assert needs.stack == 0 and needs.registers <= budget, (build, needs)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_matching_spills_nothing_and_rounds_each_operation(capability):
    """A fused multiply-add rounds once where PyTorch rounds twice: IoUs would differ in their last bit."""
    builds = list(matching(capability))
    assert_within_budget(builds)
    assert [needs.multiply_adds for needs in compiled(builds)] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_the_loss_spills_nothing(capability):
    """As SSD300 and SSD512 launch it on VOC and COCO, with many classes, and with strides of views."""
    packed = {"offset_column": 1, "logit_column": 1}
    builds = [
        build
        for columns, dtype in ((21, "fp32"), (81, "bf16"), (9419, "fp32"))
        for build in rows(columns, dtype, capability, **packed)
    ]
    builds += rows(81, "bf16", capability)
    builds += [mining(anchors, capability) for anchors in (1940, 8732, 24564)]
    builds += [terms(normalizer, capability) for normalizer in ("batch", "images", "floor", "given")]
    assert_within_budget(builds)
