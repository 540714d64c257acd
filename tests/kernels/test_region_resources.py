"""The region kernels compiled for an A100 (sm_80) and an H100 (sm_90): registers, and nothing spilled."""

from __future__ import annotations

from itertools import product

import pytest

from detectors.kernels import region_kernel
from tests.kernels.aot import Build, compiled

MODULE = "detectors.kernels.region_kernel"
REGISTERS = 80  # of a thread; 64 K of a multiprocessor are enough for six programs at once
SIZES = {"ROWS": region_kernel._ROWS, "COLUMNS": region_kernel._COLUMNS}
FLOATS = "partial offset_gradient objectness_gradient class_gradient truths anchors_cxcywh stride cell"
SCALES = "coord_scale object_scale noobject_scale class_scale prior_scale ignore_iou input_area share"
STRIDES = "offsets_image offsets_anchor offsets_entry objectness_image objectness_anchor"
STRIDES += " logits_image logits_anchor logits_class"


def forward(dtype: str, capability: int, weigh: bool = True, rescore: bool = True) -> Build:
    types = dict.fromkeys(("offsets", "objectness", "class_logits"), f"*{dtype}")
    types |= dict.fromkeys(FLOATS.split(), "*fp32") | dict.fromkeys(SCALES.split(), "fp32")
    types |= dict.fromkeys((*STRIDES.split(), *"AMC", "prior_images"), "i32")
    types |= {"matched": "*i64", "labels": "*i64", "images_seen": "*i64", "valid": "*i1"}
    constants = {"WEIGH_SMALL_BOXES": weigh, "RESCORE": rescore, **SIZES}
    return Build(f"{MODULE}:region_forward_kernel", types, constants, region_kernel._WARPS, capability)


def backward(capability: int) -> Build:
    names = [
        f"{name}_{kind}" for name in ("offset", "objectness", "class") for kind in ("gradient", "result")
    ]
    types = dict.fromkeys((*names, "upstream"), "*fp32") | {"matched": "*i64", "A": "i32", "C": "i32"}
    return Build(f"{MODULE}:region_backward_kernel", types, SIZES, region_kernel._WARPS, capability)


def assert_within_budget(builds: list[Build]) -> None:
    for build, needs in zip(builds, compiled(builds), strict=True):
        assert needs.stack == 0 and needs.registers <= REGISTERS, (build, needs)


def test_the_forward_kernel_spills_nothing():
    assert_within_budget([forward("fp32", 90)])


@pytest.mark.slow
def test_all_versions_spill_nothing():
    switches = product(("fp32", "bf16", "fp16"), (80, 90), (True, False), (True, False))
    assert_within_budget([*(forward(*choice) for choice in switches), backward(80), backward(90)])
