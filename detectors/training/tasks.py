"""The tasks that a run can have, by the name in its configuration."""

from __future__ import annotations

from detectors.config.schema import CLASSIFICATION, Config
from detectors.training.classification import ClassificationTask
from detectors.training.detection import DetectionTask

TASKS = {"detection": DetectionTask, CLASSIFICATION: ClassificationTask}


def task_class(config: Config) -> type[DetectionTask] | type[ClassificationTask]:
    """The class of a run's task; both are made of the same parts."""
    return TASKS[config.task]
