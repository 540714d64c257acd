"""How a run records curves, pictures and texts, and the interface of the places that it writes to.

tracker_backends.py opens the places that trainer.trackers names. The x axis is the optimiser step;
train/images_seen counts images. docs/curves.md explains every tag.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from detectors.metrics.pr_curves import PrCurve
from detectors.training.tags import check_tag

logger = logging.getLogger(__name__)

Setting = int | float | str


class Backend:
    """One place that a Tracker writes to. What a backend cannot hold, it leaves out: nothing happens here."""

    name: str  # as in trainer.trackers

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points at `step`, by tag."""

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """(H, W, 3) uint8 images of any sizes, as tag/0, tag/1, ..."""

    def text(self, tag: str, text: str, step: int) -> None:
        """A text of several lines."""

    def pr_curves(self, curves: Mapping[str, PrCurve], step: int) -> None:
        """Precision against recall, by tag."""

    def histograms(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """Distributions of float32 numbers, by tag."""

    def hparams(self, settings: Mapping[str, Setting], metrics: Sequence[str]) -> None:
        """The run's row in a table of runs: its settings, the important ones first, and tags of scalars."""

    def flush(self) -> None:
        """Writes what is buffered."""

    def close(self, finished: bool) -> None:
        """Writes what is buffered, and frees the file or connection. finished: the run reached its end."""


class Tracker:
    """Writes a run's curves, images and texts to all of its backends.

    A backend that fails never ends a run: its first error is logged, and it is tried again at the next point.
    """

    def __init__(self, backends: Iterable[Backend] = ()):
        self.backends = list(backends)
        self._failed: set[str] = set()  # names of the backends whose failure was logged

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """Points at `step`, by tag. ValueError for a tag that is not in tags.TAGS; then none is written."""
        for tag in values:
            check_tag(tag)
        self._call("scalars", {tag: float(value) for tag, value in values.items()}, step)

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        """(H, W, 3) uint8 images of any sizes, as tag/0, tag/1, ...; each gets a slider over the steps."""
        for n in range(len(images)):
            check_tag(f"{tag}/{n}")
        self._call("images", tag, images, step)

    def text(self, tag: str, text: str, step: int = 0) -> None:
        """Shown in a fixed-width block."""
        self._call("text", check_tag(tag), text, step)

    def pr_curves(self, curves: Mapping[str, PrCurve], step: int) -> None:
        """Precision against recall, by tag."""
        for tag in curves:
            check_tag(tag)
        self._call("pr_curves", curves, step)

    def histograms(self, values: Mapping[str, np.ndarray], step: int) -> None:
        """Distributions of float32 numbers, by tag."""
        for tag in values:
            check_tag(tag)
        self._call("histograms", values, step)

    def hparams(self, settings: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """The run's row in TensorBoard's HPARAMS table, or in a backend's own; call it once, at the start.

        settings: see training/hparams.py. metrics: tags whose last logged values the row shows.
        """
        self._call("hparams", dict(settings), [check_tag(tag) for tag in metrics])

    def flush(self) -> None:
        """Writes what is buffered."""
        self._call("flush")

    def close(self, *, finished: bool = False) -> None:
        """Writes what is buffered and closes the backends. finished: the run reached its end."""
        self._call("close", finished)

    def _call(self, method: str, *arguments: Any) -> None:
        for backend in self.backends:
            try:
                getattr(backend, method)(*arguments)
            except Exception as error:  # whatever a backend's package may raise
                if backend.name not in self._failed:
                    self._failed.add(backend.name)
                    logger.warning(
                        f"{backend.name} could not write ({type(error).__name__}: {error}); the run goes on "
                        "and tries again at each point, but logs no further failures"
                    )
