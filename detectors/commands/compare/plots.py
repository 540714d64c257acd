"""The plots of a comparison as SVG text, for a light or a dark page: the ink is the page's own colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detectors.commands.compare.analysis import ComparedDetector
from detectors.metrics.error_kinds import ERROR_KINDS
from detectors.metrics.intervals import Estimate

COLOURS = ("#3b7dd8", "#d1495b", "#2a9d6f", "#c98a1b", "#8a5fc7", "#5f7a8a")  # readable on white and on black
INK_MARK = "#010203"  # stands for the page's colour until the SVG is written
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "detectors",
    "text.color": INK_MARK,
    "axes.edgecolor": INK_MARK,
    "axes.labelcolor": INK_MARK,
    "xtick.color": INK_MARK,
    "ytick.color": INK_MARK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
}


def figure_of(draw, *, width: float = 6.4, height: float = 3.6, columns: int = 1) -> str:
    """The SVG of what `draw` puts on its axes: one, or an array of `columns`."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained")
        draw(axes)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK_MARK, "currentColor")
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def interval_plot(rows: Sequence[tuple[str, Estimate]], label: str, *, zero: bool = False) -> str:
    """Values with their intervals: thick over images, thin over images and seeds."""

    def draw(axes: Axes) -> None:
        for place, (_, number) in enumerate(rows):
            height = len(rows) - 1 - place
            if number.over_seeds is not None:
                axes.plot(number.over_seeds, (height, height), color=colour(place), linewidth=1)
            axes.plot(number.over_images, (height, height), color=colour(place), linewidth=4, alpha=0.5)
            axes.plot(number.value, height, "o", color=colour(place))
        axes.set_yticks(range(len(rows)), [name for name, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(label)
        if zero:
            axes.axvline(0, color=INK_MARK, linewidth=0.8, linestyle=":")

    return figure_of(draw, height=0.9 + 0.4 * len(rows))


def error_plot(detectors: Sequence[ComparedDetector]) -> str:
    """The cost of each kind of error, side by side."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(detectors)
        for number, detector in enumerate(detectors):
            places = np.arange(len(ERROR_KINDS)) + (number - (len(detectors) - 1) / 2) * width
            costs = [detector.error_costs[kind] for kind in ERROR_KINDS]
            axes.bar(places, costs, width, color=colour(number), label=detector.name)
        axes.set_xticks(range(len(ERROR_KINDS)), ERROR_KINDS)
        axes.set_ylabel("AP50 lost")
        axes.legend()

    return figure_of(draw)


def reliability_plot(detectors: Sequence[ComparedDetector]) -> str:
    def draw(axes: Axes) -> None:
        axes.plot((0, 1), (0, 1), color=INK_MARK, linewidth=0.8, linestyle=":")
        for number, detector in enumerate(detectors):
            result = detector.calibration
            known = result.count > 0
            axes.plot(
                result.score[known],
                result.precision[known],
                "o-",
                markersize=3,
                color=colour(number),
                label=f"{detector.name}, D-ECE {result.d_ece:.3f}",
            )
        axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend()

    return figure_of(draw, width=4.6, height=4.2)


def curve_plot(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], x: str, y: str, **limits: tuple
) -> str:
    """ComparedDetector -> one curve for each seed, in the order of the colours."""

    def draw(axes: Axes) -> None:
        for number, (name, seeds) in enumerate(curves.items()):
            for seed, (xs, ys) in enumerate(seeds):
                axes.plot(xs, ys, color=colour(number), alpha=0.8, label=None if seed else name)
        axes.set(xlabel=x, ylabel=y, **limits)
        if curves:
            axes.legend()

    return figure_of(draw)


def scatter_plot(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> str:
    """ComparedDetector -> (x, y) of each run."""

    def draw(axes: Axes) -> None:
        for number, (name, places) in enumerate(points.items()):
            if places:
                axes.plot(*zip(*places, strict=True), "o", color=colour(number), label=name)
        axes.set(xlabel=x, ylabel=y, xlim=(0, None))
        axes.margins(0.1)
        axes.legend()

    return figure_of(draw)
