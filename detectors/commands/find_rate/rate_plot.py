"""The curve of a learning-rate range test; drawn without a screen (Agg)."""

from __future__ import annotations

from typing import BinaryIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from detectors.commands.find_rate.rate_range import RateRange


def plot_range(file: BinaryIO, result: RateRange, *, title: str, rate: float) -> None:
    """A PNG of the loss against the rate, with the suggestion and the configured rate."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(result.rates, result.losses, color="#a9c8e0", linewidth=1, label="loss of each step")
    axes.plot(result.rates, result.smoothed, color="#22303c", label="smoothed")
    marks = {"suggestion": (result.suggestion, "#d1495b", "-"), "optimizer.rate": (rate, "#8795a1", ":")}
    for name, (value, colour, line) in marks.items():
        if value is not None:
            axes.axvline(value, color=colour, linestyle=line, label=f"{name} {value:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss", title=title)
    if result.losses:
        axes.set_ylim(0, 1.05 * result.smoothed.max())
    axes.spines[["right", "top"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=110)
    plt.close(figure)
