"""The writer of a run's curves, images and texts for TensorBoard.

The x axis is the optimiser step; train/images_seen counts images. docs/curves.md explains every tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from detectors.training.tags import check_tag


class Tracker:
    """Writes one run's curves, images and texts into `folder`.

    purge_step: for a resume in the same folder, the first step that will be written again: the checkpoint's
    step + 1. TensorBoard then hides what the earlier process wrote from that step on, so that no curve runs
    back over itself.
    """

    def __init__(self, folder: Path | str, *, purge_step: int | None = None):
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=10)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points at `step`, by tag. ValueError for a tag that is not in tags.TAGS; then none is written."""
        for tag in values:
            check_tag(tag)
        for tag, value in values.items():
            self._writer.add_scalar(tag, float(value), step)

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """(H, W, 3) uint8 images of any sizes, as tag/0, tag/1, ...; each gets a slider over the steps."""
        for n, image in enumerate(images):
            self._writer.add_image(check_tag(f"{tag}/{n}"), image, step, dataformats="HWC")

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Shown in a fixed-width block."""
        self._writer.add_text(check_tag(tag), "\n".join(f"    {line}" for line in text.splitlines()), step)

    def hparams(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """One row of TensorBoard's HPARAMS table; call it once, at the end.

        settings: the configuration; nested mappings become dotted names. metrics: tags whose last logged
        values the row shows. PyTorch's add_hparams would open a second run folder and log the values again.
        """
        for summary in hparams(dict(_flat(settings)), {check_tag(tag): 0.0 for tag in metrics}):
            self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is buffered and closes the file."""
        self._writer.close()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, int | float | str]]:
    """Dotted names, and values as numbers or text. True becomes text, because PyTorch would write 1."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            yield f"{prefix}{name}", value if number else str(value)
