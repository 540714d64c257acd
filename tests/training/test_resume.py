"""What a resume writes: every point once, the last and the best evaluation, nothing if it was finished."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from detectors.commands import train as script
from detectors.metrics.report import Report
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.detection import DetectionTask
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures


def resume(folder: Path, *overrides: str, which: str = ckpt.LAST) -> float | None:
    """As `train.py trainer.resume=FOLDER` does."""
    stored = ckpt.load_checkpoint(folder / which)
    return script.train_run(script.resumed_config(stored, list(overrides)), folder, stored)


def steps_of_all_tags(folder: Path) -> dict[str, list[int]]:
    """Tag -> the steps of its points, images, curves or texts, as TensorBoard shows them."""
    points = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    tags = [tag for tag in points.Tags()["tensors"] if not tag.startswith("_hparams_")]
    return {tag: [event.step for event in points.Tensors(tag)] for tag in tags}


def assert_every_point_once(folder: Path, *, log: list[int], evaluations: list[int]) -> None:
    steps = steps_of_all_tags(folder)
    repeated = {tag: seen for tag, seen in steps.items() if max(Counter(seen).values(), default=0) > 1}
    assert repeated == {}
    assert steps["train/loss/total"] == steps["train/rate"] == log
    for tag in ("val/AP", "time/evaluation", "probe/detections/0"):
        assert steps[tag] == evaluations, tag


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_says_so_and_writes_nothing(cache, tmp_path, caplog):  # noqa: F811
    run = make_run(tmp_path, cache)
    script.train_run(run.config, tmp_path, None)
    before = snapshot(tmp_path)
    caplog.clear()
    assert resume(tmp_path) is None
    assert caplog.messages == [
        f"{tmp_path}/last.pt: finished, it is at step 6 and trainer.steps=6; to train on: trainer.steps=12; "
        f"its numbers: {tmp_path}/summary.json"
    ]
    with pytest.raises(ValueError) as caught:
        resume(tmp_path, "trainer.steps=4")
    assert str(caught.value) == (
        f"trainer.steps=4: the run of {tmp_path}/last.pt is at step 6 already; set more, or leave it out"
    )
    assert snapshot(tmp_path) == before


def test_every_point_stands_once_after_resumes(cache, tmp_path):  # noqa: F811
    """Stopped between two evaluations, stopped right after one, finished, and made longer."""
    run = make_run(tmp_path, cache, "trainer.log_every=1")
    interrupt_after(run, 2)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 2"):
        engine.train(run)
    run.tracker.close()
    resume(tmp_path, "trainer.steps=3")
    assert_every_point_once(tmp_path, log=[1, 2, 3], evaluations=[3])
    resume(tmp_path, "trainer.steps=5")
    resume(tmp_path)
    assert_every_point_once(tmp_path, log=[1, 2, 3, 4, 5], evaluations=[3, 5])
    resume(tmp_path, "trainer.steps=7")
    assert_every_point_once(tmp_path, log=list(range(1, 8)), evaluations=[3, 5, 6, 7])


def test_points_after_the_checkpoint_are_written_anew(cache, tmp_path):  # noqa: F811
    """A run that was killed after points that its checkpoint does not know, twice from one checkpoint."""
    run = make_run(tmp_path, cache, "trainer.log_every=1", "trainer.steps=5")
    engine.train(run)
    run.tracker.close()
    for file in ("last.pt", "best.pt"):
        (tmp_path / file).unlink(missing_ok=True)
    first = make_run(tmp_path / "other", cache, "trainer.log_every=1", "trainer.steps=3")
    engine.train(first)
    for _ in range(2):
        stored = ckpt.load_checkpoint(tmp_path / "other/last.pt")
        config = script.resumed_config(stored, ["trainer.steps=5"])
        script.train_run(config, tmp_path, stored)
    assert_every_point_once(tmp_path, log=[1, 2, 3, 4, 5], evaluations=[3, 5])


def test_points_and_summary_are_on_disk_before_last_pt(cache, tmp_path, monkeypatch):  # noqa: F811
    """So that a run killed right after last.pt was written has lost nothing of what a resume leaves out."""
    seen = []
    original = ckpt.save_checkpoint

    def save(checkpoint: ckpt.Checkpoint) -> None:
        if checkpoint.path.name == ckpt.LAST and checkpoint.progress["evaluated"] == checkpoint.step:
            summary = json.loads((tmp_path / "summary.json").read_text())
            seen.append(
                (steps_of_all_tags(tmp_path).get("probe/detections/1"), summary["validation"]["step"])
            )
            assert summary["best"]["step"] == ckpt.load_checkpoint(tmp_path / ckpt.BEST).step
        original(checkpoint)

    monkeypatch.setattr(ckpt, "save_checkpoint", save)
    engine.train(make_run(tmp_path, cache))
    assert seen == [([3], 3), ([3, 6], 6)]


def test_last_and_best_stand_side_by_side(cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    """In the summary, in the checkpoint, in what is printed; also after a resume."""
    course = iter([0.3, 0.0689, 0.0047])
    original = DetectionTask.evaluate

    def evaluate(task: DetectionTask) -> Report:
        report = original(task)
        report.scalars["AP"] = next(course)
        return report

    monkeypatch.setattr(DetectionTask, "evaluate", evaluate)
    run = make_run(tmp_path, cache, "trainer.steps=6", "trainer.eval_every=3")
    engine.train(run)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["validation"]["step"], summary["validation"]["AP"]) == (6, 0.0689)
    assert (summary["best"]["step"], summary["best"]["AP"]) == (3, 0.3)
    assert ckpt.load_checkpoint(tmp_path / "best.pt").step == 3
    caplog.clear()
    assert resume(tmp_path, "trainer.steps=7") == 0.0047
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["validation"]["step"], summary["validation"]["AP"]) == (7, 0.0047)
    assert (summary["best"]["step"], summary["best"]["AP"]) == (3, 0.3)
    lines = caplog.messages[-1].splitlines()
    assert lines[0] == "evaluation after step 7, the last:"
    words = [line.split() for line in lines]
    assert [row[:3] for row in words if row[0].endswith(".pt")] == [
        ["last.pt", "7", "0.0047"],
        ["best.pt", "3", "0.3000"],
    ]
    assert ["checkpoint", "step", "AP", "AP50_voc07", "AP50_voc10"] in words
    assert lines[-1] == f"run folder: {tmp_path}"


def test_an_older_checkpoint_knows_the_best_number_alone(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "trainer.steps=1", "schedule.warmup_steps=0")
    run.progress.best = 0.9
    engine.train(run)
    stored = ckpt.load_checkpoint(tmp_path / ckpt.LAST)
    for name in ("best_step", "best_scalars"):
        del stored.progress[name]
    ckpt.save_checkpoint(stored)
    resume(tmp_path, "trainer.steps=2")
    assert json.loads((tmp_path / "summary.json").read_text())["best"] == {"step": None, "AP": 0.9}


def test_weights_alone_are_no_finished_run(cache, tmp_path):  # noqa: F811
    """However many steps they have behind them, as convert writes them."""
    run = make_run(tmp_path, cache, "trainer.steps=2")
    engine.train(run)
    stored = replace(ckpt.load_checkpoint(tmp_path / ckpt.LAST), optimizer={}, random={})
    with pytest.raises(ValueError, match=r"last.pt: it holds weights alone, as convert writes them"):
        script.train_run(run.config, tmp_path, stored)
