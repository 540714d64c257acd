"""Opens the backends that trainer.trackers names."""

from __future__ import annotations

import logging
from pathlib import Path

from detectors.config.schema import Config
from detectors.training.budgets import lacks_evaluation
from detectors.training.csv_log import CsvLog
from detectors.training.online_trackers import MlflowLog, WandbLog
from detectors.training.progress import Progress
from detectors.training.tensorboard_log import TensorBoardLog
from detectors.training.tracking import Backend, Tracker

logger = logging.getLogger(__name__)

ONLINE = {backend.name: backend for backend in (WandbLog, MlflowLog)}


def open_tracker(config: Config, folder: Path, stored: Progress | None = None) -> Tracker:
    """The tracker of a run in `folder`. stored: the progress of the checkpoint that it resumes.

    What an earlier process recorded after the checkpoint's step is removed or hidden, as is an evaluation
    that was recorded, but not saved as made.
    """
    names = config.trainer.trackers
    first_step = stored.step + 1 if stored else 0
    redo = stored is not None and lacks_evaluation(config.trainer, stored)
    backends = [_started(ONLINE[name], folder, config, stored) for name in names if name in ONLINE]
    before_redone: dict[str, float] = {}
    if "csv" in names:
        backends.append(rows := CsvLog(folder, first_step=first_step, redo_evaluation=redo))
        before_redone = rows.before_redone
    if "tensorboard" in names:
        # It hides all tags from a step on, so the training's own points of that step are written again.
        backends.append(curves := TensorBoardLog(folder, first_step=first_step - bool(before_redone)))
        if before_redone:
            curves.scalars(before_redone, first_step - 1)
    return Tracker(filter(None, backends))


def _started(kind: type[Backend], folder: Path, config: Config, stored: Progress | None) -> Backend | None:
    """A service's backend. ValueError if a new run cannot reach it; a resume goes on without it."""
    try:
        return kind(folder, title=f"{config.name} {folder.name}")
    except Exception as error:  # whatever its package may raise
        problem = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if stored is not None:
            logger.warning(f"{kind.name} could not start ({problem}); the run goes on without it")
            return None
        if isinstance(error, ValueError):
            raise
        raise ValueError(
            f"trainer.trackers names {kind.name}, which could not start ({problem}); see its documentation, "
            f"or leave {kind.name} out"
        ) from error
