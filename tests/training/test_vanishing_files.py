"""Image files that vanish while a run goes on, with each kind of image cache."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from detectors.data.images import ImageError
from detectors.structures import Batch
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.run import Run
from tests.training.test_engine import make_run, one_thread  # noqa: F401 - a fixture
from tests.training.test_resume import resume, steps_of_all_tags
from tests.training.test_saving import assert_same_run, finished

CACHES = ("none", "ram", "disk")


def vanish_in_step(run: Run, step: int, path: Path) -> bytes:
    """Deletes a file in the forward pass of a step. Returns its content."""
    original = run.task.step
    number = count(1)
    content = path.read_bytes()

    def make_step(batch: Batch, exchange: bool = True) -> dict:
        if next(number) == step:
            path.unlink()
        return original(batch, exchange)

    run.task.step = make_step
    return content


def first_seen_in_step(run: Run, step: int) -> Path:
    """A training image that no earlier step uses."""
    earlier: set[int] = set()
    for number, keys in enumerate(run.train_loader.batch_sampler, 1):
        new = {key.index for key in keys} - earlier
        if number == step:
            return Path(run.train_loader.dataset.annotations.paths[min(new)])
        earlier |= new
    raise AssertionError("the run is shorter")


@pytest.mark.parametrize("image_cache", ["none", "disk"])
def test_a_training_image_that_vanishes_costs_no_step(image_cache, tmp_path, caplog):
    """It is named, and once it is back, the run goes on as if nothing had been."""
    settings = (f"data.image_cache={image_cache}", "trainer.batch_size=3")
    whole = finished(tmp_path / "whole", tmp_path / "cache", *settings)
    run = make_run(tmp_path / "parts", tmp_path / "cache", *settings)
    path = first_seen_in_step(run, 3)
    if image_cache == "disk":  # the run before has filled it
        for file in (tmp_path / "cache" / "images").iterdir():
            file.unlink()
        run = make_run(tmp_path / "parts", tmp_path / "cache", *settings)
    content = vanish_in_step(run, 2, path)
    with pytest.raises(ImageError) as error:
        engine.train(run)
    run.tracker.close()
    assert str(error.value) == (
        f"{path}: the image cannot be read (No such file or directory); "
        "data.on_error=skip continues without it"
    )
    assert f"stopped after step 2; go on with: python train.py trainer.resume={run.folder}" in caplog.messages
    assert ckpt.load_checkpoint(run.folder / ckpt.LAST).step == 2
    path.write_bytes(content)
    resume(run.folder)
    assert_same_run(run.folder, whole)


@pytest.mark.parametrize("image_cache", CACHES)
def test_a_run_that_skips_goes_on_without_the_images_that_vanish(image_cache, tmp_path):
    """One to train on, and one that is drawn at every evaluation."""
    settings = (f"data.image_cache={image_cache}", "data.on_error=skip", "trainer.batch_size=3")
    run = make_run(tmp_path / "run", tmp_path / "cache", *settings)
    gone = first_seen_in_step(run, 3)
    drawn = Path(run.task.val_annotations.paths[0])
    vanish_in_step(run, 2, gone)
    evaluate = run.task.evaluate

    def evaluate_and_lose():
        evaluation = evaluate()
        drawn.unlink(missing_ok=True)
        return evaluation

    run.task.evaluate = evaluate_and_lose
    assert engine.train(run).images == 4
    run.tracker.close()
    assert run.progress.step == 6
    assert list(run.train_loader.problems) == [str(gone)]
    pictures = steps_of_all_tags(run.folder)
    if image_cache == "none":
        assert list(run.task.val_loader.problems) == [str(drawn)]
        assert (pictures["probe/detections/0"], "probe/detections/1" in pictures) == ([3, 6], False)
    else:  # both images are in the cache
        assert (pictures["probe/detections/0"], pictures["probe/detections/1"]) == ([3, 6], [3, 6])
