"""Weights & Biases and MLflow as backends of a Tracker. Their packages are extras, imported on demand.

A run keeps its identity there over resumes: FOLDER/wandb_run.txt and FOLDER/mlflow_run.txt hold it. Both
services keep points that a resume writes again; they are equal.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from detectors.data.files import write_text
from detectors.training.tracking import Backend, Setting

PROJECT = "detectors"  # where runs go in Weights & Biases, unless WANDB_PROJECT says otherwise


class WandbLog(Backend):
    """A run in Weights & Biases. Its own environment variables apply: WANDB_PROJECT, WANDB_MODE, ..."""

    name = "wandb"

    def __init__(self, folder: Path, *, title: str):
        self._wandb = _imported(self.name)
        identity = _Identity(folder, self.name)
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=title,
            id=identity.known,
            resume="allow",
            dir=str(folder),
        )
        identity.keep(self._run.id)
        # Its own step must never fall, and one after a kill does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log({"step": step, **values})

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        pictures = {f"{tag}/{n}": self._wandb.Image(image) for n, image in enumerate(images)}
        self._run.log({"step": step, **pictures})

    def text(self, tag: str, text: str, step: int) -> None:
        self._run.summary[tag] = text

    def hparams(self, settings: Mapping[str, Setting], metrics: Sequence[str]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class MlflowLog(Backend):
    """A run in MLflow. Its own environment variables apply: MLFLOW_TRACKING_URI and others."""

    name = "mlflow"

    def __init__(self, folder: Path, *, title: str):
        self._mlflow = _imported(self.name)
        identity = _Identity(folder, self.name)
        self._is_new = identity.known is None
        run = self._mlflow.start_run(run_id=identity.known, run_name=title if self._is_new else None)
        identity.keep(run.info.run_id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """In the background: MLflow waits for minutes for a server that does not answer."""
        named = {_mlflow_name(tag): value for tag, value in values.items()}
        self._mlflow.log_metrics(named, step=step, synchronous=False)

    def images(self, tag: str, images: Sequence[np.ndarray], step: int) -> None:
        for n, image in enumerate(images):
            key = f"{_mlflow_name(tag)}/{n}"
            self._mlflow.log_image(np.ascontiguousarray(image), key=key, step=step, synchronous=False)

    def text(self, tag: str, text: str, step: int) -> None:
        self._mlflow.log_text(text, f"{tag}_{step}.txt")

    def hparams(self, settings: Mapping[str, Setting], metrics: Sequence[str]) -> None:
        if self._is_new:  # MLflow refuses to change them later
            self._mlflow.log_params(dict(settings))

    def close(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


class _Identity:
    """The name by which a service knows a run folder's run."""

    def __init__(self, folder: Path, service: str):
        self._path = folder / f"{service}_run.txt"
        self.known = self._path.read_text(encoding="utf-8").strip() if self._path.exists() else None

    def keep(self, name: str) -> None:
        if name != self.known:
            write_text(self._path, f"{name}\n")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(
            f"trainer.trackers names {name}, but its package cannot be imported ({error}); install it: "
            f"pip install 'detectors[{name}]', or: pip install {name}"
        ) from error


def _mlflow_name(tag: str) -> str:
    """MLflow allows letters, digits, spaces and _-.:/ in the name of a metric."""
    return re.sub(r"[^\w .:/-]", "_", tag, flags=re.ASCII)
