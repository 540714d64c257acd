"""The detection task against Task and against its stages called by hand."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from torch.testing import assert_close

from detectors.training.detection import DetectionTask
from detectors.training.run import Run, Task
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

MODELS = ("yolov2_160", "ssd160")


@pytest.fixture(params=MODELS)
def run(request, cache, tmp_path):  # noqa: F811
    return make_run(tmp_path / request.param, cache, model=request.param)


def first_batch(run: Run):
    return next(iter(run.train_loader))


def test_it_has_all_members_of_a_task(run):
    members = {name for name in (*Task.__annotations__, *vars(Task)) if not name.startswith("_")}
    assert {"step", "evaluate", "pictures", "summary", "metric"} <= members
    for name in members:
        assert hasattr(run.task, name), name
    for name in members - set(Task.__annotations__):
        expected = inspect.signature(getattr(Task, name)).parameters
        assert list(inspect.signature(getattr(DetectionTask, name)).parameters) == list(expected), name


def test_a_step_is_its_stages(run):
    """detector -> encoder -> loss, and the statistics of both about the same batch."""
    batch = first_batch(run)
    detector = run.task.module.eval()
    terms = run.task.step(batch)
    outputs = detector(batch.images)
    grid = detector.grid(batch.images.shape[-2:])
    encoded = detector.encoder(batch.targets, grid, outputs)
    assert_close(terms, detector.loss(outputs, encoded, grid), rtol=0, atol=0)
    expected = {
        **detector.encoder.statistics(outputs, encoded, grid),
        **detector.loss.statistics(outputs, encoded, grid),
    }
    assert_close(run.task.statistics(), expected, rtol=0, atol=0, equal_nan=True)


def test_an_evaluation_gives_curves_and_pictures(run):
    report = run.task.evaluate()
    curves = run.task.curves()
    assert curves["val/AP"] == report.scalars["AP"]
    named = {name for name, row in report.per_class.items() if row["AP50"] is not None}
    assert {f"val_class/{name}/{key}" for name in named for key in ("AP", "AP50")} == {
        tag for tag in curves if tag.startswith("val_class/")
    }
    defined = {name for name, value in report.scalars.items() if value is not None}
    assert {"AP", "AP75", "AR1", "AR100"} <= defined
    assert {f"val/{name}": report.scalars[name] for name in defined}.items() <= curves.items()
    assert None not in curves.values() and "val/broken_images" not in curves
    (images,) = run.task.pictures().values()
    assert len(images) == run.config.trainer.probe_images
    assert all(image.ndim == 3 and image.dtype == np.uint8 for image in images)


def test_broken_images_are_counted_and_not_drawn(run):
    run.task.evaluate()
    run.task.val_loader.problems[run.task.val_annotations.paths[0]] = None
    assert run.task.curves()["val/broken_images"] == 1
    (images,) = run.task.pictures().values()
    assert len(images) == run.config.trainer.probe_images - 1


def test_a_resumed_loss_goes_on_counting(run):
    run.task.resume(12_345)
    run.task.step(first_batch(run))
    counters = dict(run.task.module.loss.named_buffers())
    assert ("images_seen" in counters) == (run.config.name == "yolov2_160")
    if "images_seen" in counters:
        assert counters["images_seen"] == 12_345 + run.config.trainer.batch_size
