"""init.randomize=last: the last layers drawn anew, as the Keras course does behind Darknet's weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from detectors.models.detector import Detector


@torch.no_grad()
def randomize_last(detector: Detector, size: Sequence[int], seed: int) -> Iterator[str]:
    """Draws weights and biases of the last convolutions from N(0, 1), divided by the number of grid cells.

    The course: `np.random.normal(size=shape) / (GRID_H * GRID_W)` for kernel and bias of its last layer. In
    an SSD each feature map has its own last layers and its own number of cells. size: (height, width) of the
    input. PyTorch's global generators are not used. Yields a line for each layer. ValueError for a detector
    that does not say which layers these are.
    """
    layers = detector.output_layers()
    if not layers:
        raise ValueError(
            f"init.randomize=last: {type(detector.head).__name__} does not say which layers are its last; "
            "give it output_layers, see docs/adding-a-detector.md, or leave init.randomize out"
        )
    cells = [level.rows * level.columns for level in detector.grid(size).levels]
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        count = sum(cells) if layer.level is None else cells[layer.level]
        for parameter in detector.get_submodule(layer.name).parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / count)
        yield f"init.randomize=last: {layer.name} is drawn from N(0, 1) / {count} cells"
