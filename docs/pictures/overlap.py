"""Pictures of docs/concepts/iou.md."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from detectors.boxes import paired_iou
from docs.pictures.canvas import BLUE, GREEN, GREY, ORANGE, draw, frame, panels

TRUTH = (20.0, 20.0, 60.0, 60.0)
GUESSES = {
    "the same": TRUTH,
    "8 px right": (28.0, 20.0, 68.0, 60.0),
    "8 px right and down": (28.0, 28.0, 68.0, 68.0),
    "half the sides": (30.0, 30.0, 50.0, 50.0),
    "twice the sides": (0.0, 0.0, 80.0, 80.0),
    "side by side": (60.0, 20.0, 100.0, 60.0),
}
SIDES = (16, 32, 64, 128, 256)


def iou_pairs() -> Figure:
    """A box, six guesses, and the IoU of each; the overlap is filled."""
    figure, axes = panels(3, 2, 2.4)
    for ax, (name, guess) in zip(axes, GUESSES.items(), strict=True):
        iou = float(paired_iou(torch.tensor(TRUTH), torch.tensor(guess)))
        frame(ax, 100, title=f"{name}: {iou:.2f}")
        low, high = np.maximum(TRUTH[:2], guess[:2]), np.minimum(TRUTH[2:], guess[2:])
        if (high > low).all():
            draw(ax, [[*low, *high]], GREEN, fill=True, facecolor=GREEN, alpha=0.3, linewidth=0)
        draw(ax, [TRUTH], BLUE)
        draw(ax, [guess], ORANGE, linestyle="--")
    return figure


def iou_shifts() -> Figure:
    """The same error in pixels costs a small box more: IoU against a shift, for squares of several sides."""
    figure, (ax,) = panels(1, size=4.5)
    shift = torch.linspace(0, 32, 129)
    for side in SIDES:
        truth = torch.tensor([0.0, 0.0, side, side]).expand(len(shift), 4)
        iou = paired_iou(truth, truth + torch.stack([shift, shift, shift, shift], 1))
        ax.plot(shift, iou, label=f"{side} px")
    ax.axhline(0.5, color=GREY, linestyle=":", label="VOC's limit")
    ax.set(xlabel="shift to the right and down, pixels", ylabel="IoU", xlim=(0, 32), ylim=(0, 1))
    ax.legend(title="side of the square")
    return figure
