"""The plot of anchors. The only module that imports matplotlib; it draws without a screen (Agg)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

INK = "#22303c"
QUIET = "#8795a1"
ACCENT = "#d1495b"
PAPER_COLOUR = "#edae49"  # of the numbers in the paper
FEW = 9  # anchors; more are drawn without their sizes and with thin lines
# light, so that marks stand out
BLUES = LinearSegmentedColormap.from_list("blues", ["#eaf1f7", "#a9c8e0", "#4f86b5"])
HALO = withStroke(linewidth=2.5, foreground="white")
CHART_STYLE = {
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "detectors",
}


class NamedAnchors(Protocol):
    """A set of anchors to plot."""

    name: str
    wh: Sequence[Sequence[float]]  # (K, 2) pixels
    mean_iou: float


def plot_anchors(
    path: Path,
    wh: np.ndarray,
    sets: Sequence[NamedAnchors],
    *,
    size: tuple[int, int],
    curve: Mapping[int, float],
    paper: Mapping[int, float],
    title: str,
) -> None:
    """Density of box shapes with two sets of anchors, outlines of the anchors, and mean IoU against k.

    wh: (T, 2) box shapes in pixels of the model input. sets: the proposed and the configured anchors.
    size: (height, width) of the model input. curve, paper: k -> mean IoU.
    """
    with plt.rc_context(CHART_STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained")
        figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
        _density(left, wh, sets)
        _rectangles(middle, sets, size)
        _mean_iou(right, curve, paper, sets)
        figure.savefig(path, dpi=110)
        plt.close(figure)


def _density(axes: Axes, wh: np.ndarray, sets: Sequence[NamedAnchors]) -> None:
    proposed, configured = (np.array(anchors.wh) for anchors in sets)
    low = max(1.0, float(np.quantile(wh, 0.001)) / 1.3)
    high = float(wh.max()) * 1.15
    cells = axes.hexbin(
        *wh.T, gridsize=45, xscale="log", yscale="log", bins="log", cmap=BLUES, mincnt=1, linewidths=0.1
    )
    axes.figure.colorbar(cells, ax=axes, label="boxes", shrink=0.7, pad=0.01, format="{x:g}")
    axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, linestyle=":")
    marks: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    axes.plot(
        *configured.T,
        marker="s",
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=1.2,
        label=sets[1].name,
        **marks,
    )
    axes.plot(*proposed.T, marker="o", color=ACCENT, markeredgecolor="white", label=sets[0].name, **marks)
    for w, h in proposed if len(proposed) <= FEW else ():
        axes.annotate(
            f"{w:.0f}x{h:.0f}",
            (w, h),
            xytext=(-7, -3),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            path_effects=[HALO],
        )
    axes.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel="width, px of the model input",
        ylabel="height, px of the model input",
    )
    axes.set_title("Shapes of the boxes", loc="left")
    ticks = [edge for edge in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= edge <= high]
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_aspect("equal")
    axes.legend(loc="upper left", frameon=False)


def _rectangles(axes: Axes, sets: Sequence[NamedAnchors], size: tuple[int, int]) -> None:
    """All anchors with the same centre, and the border of the model input in grey."""
    height, width = size
    axes.add_patch(Rectangle((-width / 2, -height / 2), width, height, facecolor="#f4f6f8", edgecolor=QUIET))
    thickness = 1.4 if all(len(anchors.wh) <= FEW for anchors in sets) else 0.8
    for anchors, colour, line in ((sets[1], INK, ":"), (sets[0], ACCENT, "-")):
        for w, h in anchors.wh:
            outline = Rectangle((-w / 2, -h / 2), w, h)
            outline.set(fill=False, edgecolor=colour, linestyle=line, linewidth=thickness)
            axes.add_patch(outline)
    largest = max(width, height, *(max(shape) for anchors in sets for shape in anchors.wh))
    limit = 1.03 * largest / 2
    axes.set(
        xlim=(-limit, limit),
        ylim=(-limit, limit),
        xticks=[],
        yticks=[],
        xlabel=f"input {width}x{height} px (grey)",
    )
    axes.set_title("Anchors on one centre", loc="left")
    axes.spines[:].set_visible(False)
    axes.set_aspect("equal")


def _mean_iou(
    axes: Axes, curve: Mapping[int, float], paper: Mapping[int, float], sets: Sequence[NamedAnchors]
) -> None:
    axes.plot(list(curve), list(curve.values()), marker="o", color=ACCENT, label="k-means on these boxes")
    if paper:
        axes.plot(
            list(paper),
            list(paper.values()),
            marker="*",
            markersize=13,
            linestyle="none",
            color=PAPER_COLOUR,
            label="YOLO9000, VOC 2007",
        )
    for anchors, colour in zip(sets, (ACCENT, INK), strict=True):
        axes.axhline(anchors.mean_iou, color=colour, linewidth=1, linestyle=":")
        axes.annotate(
            f"{anchors.name}: {anchors.mean_iou:.3f}",
            (0.99, anchors.mean_iou),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=colour,
        )
    axes.set(xlabel="k", ylabel="mean IoU with the best anchor", xticks=list(curve))
    axes.set_title("Mean IoU", loc="left")
    axes.grid(axis="y", color="#e3e8ec")
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False)
