"""The detection task against Task and against its stages called by hand."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.annotations import Texts
from detectors.drawing.drawn_boxes import READABLE, magnification
from detectors.structures import Detections
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
    pictures = run.task.pictures()
    count = run.config.trainer.probe_images
    expected = {"probe/detections": count, "probe/anchors": count, "val/confusion": 1}
    assert {tag: len(images) for tag, images in pictures.items()} == expected
    assert all(
        image.ndim == 3 and image.dtype == np.uint8 for images in pictures.values() for image in images
    )
    assert run.task.precision_recall() is report.pr_curves
    assert set(report.pr_curves) == named
    run.task.evaluate()
    assert set(run.task.pictures()) == {"probe/detections", "val/confusion"}  # anchors stay the same


def test_broken_images_are_counted_and_not_drawn(run):
    run.task.evaluate()
    run.task.val_loader.problems[run.task.val_annotations.paths[0]] = None
    assert run.task.curves()["val/broken_images"] == 1
    pictures = run.task.pictures()
    for tag in ("probe/detections", "probe/anchors"):
        assert len(pictures[tag]) == run.config.trainer.probe_images - 1


def test_a_resumed_loss_goes_on_counting(run):
    run.task.resume(12_345)
    run.task.step(first_batch(run))
    counters = dict(run.task.module.loss.named_buffers())
    assert ("images_seen" in counters) == (run.config.name == "yolov2_160")
    if "images_seen" in counters:
        assert counters["images_seen"] == 12_345 + run.config.trainer.batch_size


def test_a_run_without_validation_images_has_no_pictures(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "data.val=[]")
    run.task.evaluate()
    assert run.task.pictures() == {} and run.task.precision_recall() == {}


def test_probes_show_boxes_detections_and_anchors_in_their_places(run):
    """The first validation image: each picture differs from the plain image where something is drawn."""
    run.task.evaluate()
    annotations = run.task.val_annotations
    boxes = annotations.boxes_original[annotations.rows(0)]
    plain = run.task.probes.with_detections(Detections.concatenate([]), 0.3)[0]
    found = Detections(
        torch.zeros(1, dtype=torch.int64),
        torch.tensor([[10.0, 20, 60, 70]]),
        torch.ones(1),
        torch.tensor([2]),
    )
    drawn = run.task.probes.with_detections(found, 0.3)[0]
    factor = magnification(tuple(annotations.sizes[0]))
    changed = np.argwhere((drawn != plain).any(-1)) / factor  # rows, columns
    assert changed.max(0).tolist() == pytest.approx([70, 60], abs=1)
    assert changed[:, 1].min() == pytest.approx(10, abs=1)
    assert (plain[int(boxes[0, 1] * factor) + 1, int(boxes[0, 0] * factor) + 1] == 255).all()  # a dash begins
    anchors = run.task.probes.with_anchors(run.task.module)[0]
    assert anchors.shape[1] == READABLE


def test_anchors_that_depend_on_predictions_are_drawn_each_time(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache)
    run.task.module.encoder.matcher.needs_predictions = True
    for _ in range(2):
        run.task.evaluate()
        assert "probe/anchors" in run.task.pictures()


def test_a_probe_that_vanishes_ends_no_run(run, tmp_path, caplog):
    """Evaluated from a cache, or before it was deleted."""
    run.task.evaluate()
    paths = list(run.task.val_annotations.paths)
    paths[0] = str(tmp_path / "gone.jpg")
    for owner in (run.task.val_annotations, run.task.val_loader.dataset.reader.annotations):
        object.__setattr__(owner, "paths", Texts(paths))
    caplog.clear()
    pictures = run.task.pictures()
    assert len(pictures["probe/detections"]) == len(pictures["probe/anchors"]) == 1
    assert caplog.messages == [
        f"{paths[0]}: the image cannot be read (No such file or directory); it is not drawn"
    ]
