"""The plots of a comparison as SVG text, for a light or a dark page: the ink is the page's own colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detectors.metrics.error_kinds import ERROR_KINDS
from detectors.tables import printable

COLOURS = ("#3b7dd8", "#d1495b", "#2a9d6f", "#c98a1b", "#8a5fc7", "#5f7a8a")  # readable on white and on black
LABELLED = 30  # rows of a confusion matrix up to which its labels have the usual size
MOST_ROWS = 40  # up to which a confusion matrix grows
PIXELS_OF_INCH = 100  # of a plot in the page, at most
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
    width = PIXELS_OF_INCH * figure.get_figwidth()
    head = rf'<svg viewBox="\1" style="max-width: {width:.0f}px" role="img">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, text, count=1)


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def interval_plot(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str, *, zero: bool = False) -> str:
    """Values with their intervals: thick over images, thin over images and seeds. rows: of `estimates`."""

    def draw(axes: Axes) -> None:
        for place, (_, number) in enumerate(rows):
            height = len(rows) - 1 - place
            if number["over_images_and_seeds"] is not None:
                axes.plot(number["over_images_and_seeds"], (height, height), color=colour(place), linewidth=1)
            axes.plot(number["over_images"], (height, height), color=colour(place), linewidth=4, alpha=0.5)
            axes.plot(number["value"], height, "o", color=colour(place))
        axes.set_yticks(range(len(rows)), [plain(name) for name, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(label)
        if zero:
            axes.axvline(0, color=INK_MARK, linewidth=0.8, linestyle=":")

    return figure_of(draw, height=0.9 + 0.4 * len(rows))


def error_plot(detectors: Sequence[Mapping[str, Any]]) -> str:
    """The cost of each kind of error, side by side. detectors: as in comparison.json."""

    def draw(axes: Axes) -> None:
        width = 0.8 / len(detectors)
        for number, detector in enumerate(detectors):
            places = np.arange(len(ERROR_KINDS)) + (number - (len(detectors) - 1) / 2) * width
            costs = [detector["error_costs"][kind] for kind in ERROR_KINDS]
            axes.bar(places, costs, width, color=colour(number), label=plain(detector["name"]))
        axes.set_xticks(range(len(ERROR_KINDS)), ERROR_KINDS)
        axes.set_ylabel("AP50 lost")
        axes.legend()

    return figure_of(draw)


def reliability_plot(detectors: Sequence[Mapping[str, Any]]) -> str:
    """detectors: as in comparison.json."""

    def draw(axes: Axes) -> None:
        axes.plot((0, 1), (0, 1), color=INK_MARK, linewidth=0.8, linestyle=":")
        for number, detector in enumerate(detectors):
            known = [row for row in detector["reliability"] if row["count"]]
            axes.plot(
                [row["score"] for row in known],
                [row["precision"] for row in known],
                "o-",
                markersize=3,
                color=colour(number),
                label=plain(detector["name"]),
            )
        axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend()

    return figure_of(draw, width=4.6, height=4.2)


def confusion_plot(counts: np.ndarray, class_names: Sequence[str]) -> str:
    """(C + 1, C + 1) counts: rows are true classes. The darker, the larger the share of the row."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    count = len(counts)

    def draw(axes: Axes) -> None:
        shade = np.zeros((*shares.shape, 4))
        shade[..., :3] = matplotlib.colors.to_rgb(COLOURS[1])
        shade[np.arange(count), np.arange(count), :3] = matplotlib.colors.to_rgb(COLOURS[0])
        shade[..., 3] = shares
        axes.imshow(shade, interpolation="nearest", aspect="auto")
        size = 10 if count <= LABELLED else 5
        axes.set_yticks(range(count), [plain(name) for name in (*class_names, "no box")], fontsize=size)
        axes.set_xticks(
            range(count), [plain(name) for name in (*class_names, "missed")], rotation=90, fontsize=size
        )
        axes.set(xlabel="detected", ylabel="true")

    side = 3.0 + 0.12 * min(count, MOST_ROWS)
    return figure_of(draw, width=side, height=side)


def curve_plot(
    curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], x: str, y: str, **limits: tuple
) -> str:
    """Detector -> one curve for each seed, in the order of the colours."""

    def draw(axes: Axes) -> None:
        for number, (name, seeds) in enumerate(curves.items()):
            for seed, (xs, ys) in enumerate(seeds):
                axes.plot(xs, ys, color=colour(number), alpha=0.8, label=None if seed else plain(name))
        axes.set(xlabel=x, ylabel=y, **limits)
        if curves:
            axes.legend()

    return figure_of(draw)


def pareto_plot(
    points: Mapping[str, tuple[float, float, Sequence[float]]], front: Sequence[str], x: str, y: str
) -> str:
    """points: detector -> x, y and the interval of y. front: the names on the Pareto front, by x."""

    def draw(axes: Axes) -> None:
        steps = [points[name][:2] for name in front]
        axes.plot(
            *zip(*steps, strict=True), drawstyle="steps-post", color=INK_MARK, linestyle="--", linewidth=0.8
        )
        for number, (name, (cost, value, interval)) in enumerate(points.items()):
            axes.plot((cost, cost), interval, color=colour(number), linewidth=1.5, alpha=0.6)
            fill = colour(number) if name in front else "none"
            axes.plot(cost, value, "o", color=colour(number), markerfacecolor=fill, label=plain(name))
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1.15 * max(cost for cost, _, _ in points.values()) or 1))
        axes.margins(y=0.15)
        axes.legend()

    return figure_of(draw)


def plain(text: str) -> str:
    """A name as matplotlib shows it as it is: a dollar sign would begin a formula."""
    return printable(text).replace("$", r"\$")
