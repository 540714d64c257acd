"""Pictures of docs/concepts/receptive-field.md."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from detectors.commands.receptive_field.field_pictures import field_pictures
from detectors.commands.receptive_field.field_sizes import effective_square, gradient_maps, theoretical_fields
from docs.pictures.canvas import BLUE, ORANGE, demo_detector, draw, panels, scene

DEPTHS = (1, 2, 5, 15)
WINDOW = 41  # pixels of the pictures of small stacks


def stack_gradient(depth: int) -> Tensor:
    """(WINDOW, WINDOW) squared gradient of the centre output of `depth` random 3x3 convolutions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(depth)
        layers = [nn.Conv2d(1 if n == 0 else 8, 8, 3, padding=1) for n in range(depth)]
    total = torch.zeros(WINDOW, WINDOW)
    generator = torch.Generator().manual_seed(0)
    for _ in range(32):
        image = torch.randn(1, 1, WINDOW, WINDOW, generator=generator).requires_grad_()
        x = image
        for layer in layers:
            x = layer(x).relu()
        (gradient,) = torch.autograd.grad(x[0, :, WINDOW // 2, WINDOW // 2].sum(), image)
        total += gradient[0, 0] ** 2
    return total


def field_growth() -> Figure:
    """What an output of 1, 2, 5 and 15 convolutions of 3x3 can see, and where most of it comes from."""
    figure, axes = panels(len(DEPTHS), size=3)
    for ax, depth in zip(axes, DEPTHS, strict=True):
        gradient = stack_gradient(depth)
        column, row, side = effective_square(gradient)
        ax.imshow((gradient / gradient.max()).sqrt().numpy(), cmap="gray", extent=(0, WINDOW, WINDOW, 0))
        field = 2 * depth + 1
        low = (WINDOW - field) / 2
        draw(ax, [[low, low, low + field, low + field]], BLUE)
        draw(ax, [[column - side / 2, row - side / 2, column + side / 2, row + side / 2]], ORANGE)
        ax.set(xticks=[], yticks=[], title=f"{depth} of 3x3: {field} px, 95 % in {side}")
    return figure


def detector_fields(name: str) -> bytes:
    """The levels of one of the demo's detectors, as `detectors receptive-field` draws them."""
    detector = demo_detector(name)
    image = scene()[0]
    batch = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    fields = theoretical_fields(detector)
    picture = field_pictures(detector, image, fields, gradient_maps(detector, batch))
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
