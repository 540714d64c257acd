"""Pictures of docs/concepts/region-loss.md: one image, one untrained prediction, every term."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from detectors.boxes import largest_iou
from detectors.losses.region_loss import RegionLoss
from detectors.structures import EncodedTargets, HeadOutputs
from docs.pictures.canvas import (
    GREEN,
    GREY,
    ORANGE,
    SIDE,
    demo_detector,
    dimmed,
    draw,
    frame,
    grid_lines,
    panels,
)
from docs.pictures.matches import cells, encoded_scene

NAME = "yolov2_160"


def untrained_outputs(encoded: EncodedTargets) -> HeadOutputs:
    """About what a new network says: every anchor in the middle of its cell, objectness .5, equal classes."""
    anchors = encoded.grid.num_anchors
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(1, anchors, 4 + 6 + 1, generator=generator)
    offsets, class_logits, objectness = noise.split([4, 6, 1], -1)
    return HeadOutputs(
        (offsets + torch.tensor([0.5, 0.5, 0.0, 0.0])).requires_grad_(),
        class_logits.clone().requires_grad_(),
        objectness[..., 0].clone().requires_grad_(),
    )


def loss_terms() -> tuple[dict[str, Tensor], HeadOutputs]:
    encoded = encoded_scene(NAME)
    outputs = untrained_outputs(encoded)
    return RegionLoss().train()(outputs, encoded, encoded.grid), outputs


def region_roles() -> Figure:
    """Which cells hold an anchor that must find a box, and which one that is spared."""
    encoded = encoded_scene(NAME)
    boxes = demo_detector(NAME).encoder.coder.decode(
        untrained_outputs(encoded).offsets.detach(), encoded.grid
    )
    spared = (largest_iou(boxes, encoded.targets.boxes) > 0.6) & ~encoded.positive
    figure, (ax,) = panels(1, size=5)
    frame(ax, SIDE, dimmed())
    stride = float(encoded.grid.stride[0])
    grid_lines(ax, SIDE, stride)
    for rows, colour, name in ((spared, ORANGE, "ignored"), (encoded.positive, GREEN, "positive")):
        corners = encoded.grid.cell[rows[0]] * stride
        draw(ax, cells(corners, stride), colour, fill=True, facecolor=colour, alpha=0.45, linewidth=0)
        ax.plot([], [], "s", color=colour, label=f"{name}: {int(rows.sum())}")
    others = encoded.grid.num_anchors - int((spared | encoded.positive).sum())
    ax.plot([], [], "s", color=GREY, label=f"background: {others}")
    draw(ax, encoded.targets.boxes[0], "white", linestyle="--")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    return figure


def region_gradients() -> Figure:
    """Where each term pulls: the absolute gradient of a term in each cell."""
    terms, outputs = loss_terms()
    grid = encoded_scene(NAME).grid
    level = grid.levels[0]
    leaves = (outputs.offsets, outputs.class_logits, outputs.objectness)
    figure, axes = panels(len(terms), size=2.6)
    for ax, (name, term) in zip(axes, terms.items(), strict=True):
        parts = torch.autograd.grad(term, leaves, retain_graph=True, allow_unused=True)
        pull = sum(part.abs().reshape(grid.num_anchors, -1).sum(1) for part in parts if part is not None)
        strength = pull.reshape(level.rows, level.columns, -1).sum(-1)
        ax.imshow(strength.numpy(), cmap="inferno", extent=(0, SIDE, SIDE, 0), vmin=0)
        draw(ax, encoded_scene(NAME).targets.boxes[0], "white", linewidth=0.8, linestyle="--")
        ax.set(xticks=[], yticks=[], title=f"{name}: {term.item():.2f}")
    return figure
