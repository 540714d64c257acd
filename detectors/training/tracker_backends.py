"""Opens the backends that trainer.trackers names."""

from __future__ import annotations

from pathlib import Path

from detectors.config.schema import Config
from detectors.training.csv_log import CsvLog
from detectors.training.progress import Progress
from detectors.training.tensorboard_log import TensorBoardLog
from detectors.training.tracking import Backend, Tracker


def open_tracker(config: Config, folder: Path, stored: Progress | None = None) -> Tracker:
    """The tracker of a run in `folder`. stored: the progress of the checkpoint that it resumes.

    What an earlier process recorded after the checkpoint's step is removed or hidden, as is an evaluation
    that was recorded, but not saved as made.
    """
    names = config.trainer.trackers
    first_step = stored.step + 1 if stored else 0
    trainer = config.trainer
    redo = stored is not None and stored.lacks_evaluation(trainer.steps, trainer.eval_every)
    backends: list[Backend] = []
    before_redone: dict[str, float] = {}
    if "csv" in names:
        backends.append(rows := CsvLog(folder, first_step=first_step, redo_evaluation=redo))
        before_redone = rows.before_redone
    if "tensorboard" in names:
        # It hides all tags from a step on, so the training's own points of that step are written again.
        backends.append(curves := TensorBoardLog(folder, first_step=first_step - bool(before_redone)))
        if before_redone:
            curves.scalars(before_redone, first_step - 1)
    return Tracker(backends)
