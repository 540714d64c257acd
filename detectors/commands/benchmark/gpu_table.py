"""The rows of docs/performance.md that need a GPU, and how `benchmark gpu` fills them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

from detectors.commands.benchmark.ratio_table import RatioRow, markdown_lines
from detectors.tables import markdown_table

BEST_FORMAT = "ours, channels_last"


class Measured(NamedTuple):
    rows: list[RatioRow]
    kernels: Mapping[str, Mapping[str, float]]  # "region", "multibox" -> "kernels" and "us", bfloat16
    waits: Mapping[str, str]  # model -> the first phase that waits for the device; "": none
    batch: int  # images of a step

    def row(self, what: str, program: str) -> RatioRow:
        return next(row for row in self.rows if row.what == what and row.program == program)

    def step(self, model: str, program: str = BEST_FORMAT) -> RatioRow:
        """A step in bfloat16."""
        return self.row(f"{model} step, {self.batch} images, bfloat16", program)

    def images_per_second(self, model: str) -> float:
        """Of our quickest version."""
        what = f"{model} step, {self.batch} images, bfloat16"
        ours = [row for row in self.rows if row.what == what and row.program.startswith("ours")]
        return max(self.batch / median(row.seconds) for row in ours)


class GpuRow(NamedTuple):
    what: str
    goal: str
    value: Callable[[Measured], str]


GPU_ROWS = (
    GpuRow(
        "multibox loss, 32 images, 81 outputs, bfloat16: time of all kernels",
        "<= 45 us",
        lambda measured: f"{measured.kernels['multibox']['us']:.1f} us",
    ),
    GpuRow(
        "multibox loss, 32 images, 81 outputs: launches",
        "<= 6",
        lambda measured: str(measured.kernels["multibox"]["kernels"]),
    ),
    GpuRow(
        "region loss, 32 images, 80 classes, bfloat16: time of all kernels",
        "<= 20 us",
        lambda measured: f"{measured.kernels['region']['us']:.1f} us",
    ),
    GpuRow(
        "region loss, 32 images, 80 classes: launches",
        "<= 3",
        lambda measured: str(measured.kernels["region"]["kernels"]),
    ),
    GpuRow(
        "loss, share of SSD300's step, bfloat16",
        "<= 1 %",
        lambda measured: f"{measured.step('ssd300').shares['loss']:.1%}",
    ),
    GpuRow(
        "loss, share of YOLOv2-416's step, bfloat16",
        "<= 1 %",
        lambda measured: f"{measured.step('yolov2').shares['loss']:.1%}",
    ),
    GpuRow(
        "SSD300 training, bfloat16: images/s",
        ">= 1,400",
        lambda measured: f"{measured.images_per_second('ssd300'):,.0f}",
    ),
    GpuRow(
        "SSD300 training, bfloat16: images/s over torchvision's",
        ">= 1.5",
        lambda measured: f"{_over_torchvision(measured):.2f}",
    ),
    GpuRow(
        "YOLOv2-416 training, bfloat16: images/s",
        ">= 2,400",
        lambda measured: f"{measured.images_per_second('yolov2'):,.0f}",
    ),
    GpuRow(
        "phases of a step that wait for the device",
        "none",
        lambda measured: ", ".join(filter(None, measured.waits.values())) or "none",
    ),
)


def _over_torchvision(measured: Measured) -> float:
    theirs = measured.batch / median(measured.step("ssd300", "torchvision").seconds)
    return measured.images_per_second("ssd300") / theirs


def gpu_markdown(measured: Measured) -> str:
    """The table of the page, and all comparisons behind it."""
    rows = [(row.what, row.goal, row.value(measured)) for row in GPU_ROWS]
    table = markdown_table(("what", "goal", "measured"), rows)
    return f"{table}\n\n{markdown_lines(measured.rows)}"
