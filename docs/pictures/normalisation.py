"""Pictures of docs/concepts/batch-norm.md."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from detectors.layers import ConvBNLeaky
from docs.pictures.canvas import BLUE, GREY, ORANGE, RED, panels

DEPTH = 20
CHANNELS = 16
GAINS = (0.7, 1.0, 1.4)  # of the initial weights: a little too small, Darknet's, a little too large
STEPS = 500


@torch.no_grad()
def spreads(gain: float, norm: bool) -> list[float]:
    """Standard deviation of the activations after each of DEPTH layers, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [ConvBNLeaky(CHANNELS, CHANNELS, 3) for _ in range(DEPTH)]
        x = torch.randn(4, CHANNELS, 32, 32)
    result = []
    for layer in layers:
        layer.conv.weight *= gain
        if not norm:
            layer.norm = nn.Identity()
        x = layer(x)
        result.append(float(x.std()))
    return result


def norm_depth() -> Figure:
    """Without the norm, a small error of scale grows with every layer."""
    figure, (ax,) = panels(1, size=4.5)
    depth = range(1, DEPTH + 1)
    for gain, colour in zip(GAINS, (BLUE, GREY, RED), strict=True):
        ax.plot(depth, spreads(gain, norm=False), color=colour, label=f"without, weights x {gain}")
        ax.plot(depth, spreads(gain, norm=True), "--", color=colour, label=f"with, weights x {gain}")
    ax.set(yscale="log", xlabel="layer", ylabel="standard deviation of the activations")
    ax.legend(fontsize="small")
    return figure


@torch.no_grad()
def running_means() -> tuple[Tensor, Tensor]:
    """(STEPS,) mean of each batch, and running mean after it, of inputs around 3."""
    norm = ConvBNLeaky(1, 1, 1).norm.train()
    generator = torch.Generator().manual_seed(0)
    batches, running = [], []
    for _ in range(STEPS):
        x = 3 + 2 * torch.randn(8, 1, 4, 4, generator=generator)
        norm(x)
        batches.append(x.mean())
        running.append(norm.running_mean[0].clone())
    return torch.stack(batches), torch.stack(running)


def norm_running() -> Figure:
    """Training normalises with the batch, evaluation with the running average, which lags behind."""
    batches, running = running_means()
    figure, (ax,) = panels(1, size=4.5)
    ax.plot(batches, color=GREY, linewidth=0.5, label="mean of the batch: training")
    ax.plot(running, color=ORANGE, label="running mean: evaluation")
    ax.axhline(3, color=BLUE, linestyle=":", label="mean of the data")
    ax.set(xlabel="step", ylabel="mean of a channel", ylim=(0, 4))
    ax.legend()
    return figure
