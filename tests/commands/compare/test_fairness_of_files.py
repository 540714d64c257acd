"""Rigged pairs, with files of train.py and evaluate.py themselves: each is refused for what was measured."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detectors.commands import train as script
from detectors.commands.compare import command
from detectors.commands.evaluate import evaluate
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import EvaluateConfig
from detectors.training import engine
from tests.data.files import box_xml, write_voc

PROTOCOL = {"score_threshold": 0.01, "nms_iou": 0.45, "candidates_per_class": 400, "max_detections": 200}
BOTH = box_xml("cat", 5, 5, 30, 40) + box_xml("dog", 30, 10, 60, 50)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A data set, and the runs a, b (another seed), long (more steps) and padded (letterbox) on it."""
    place = tmp_path_factory.mktemp("rigged")
    for split in ("train", "val", "test"):
        write_voc(place / "own", {f"{split}{n}": BOTH for n in range(3)}, split=split)
    trained(place, "a")
    trained(place, "b", "seed=1")
    trained(place, "long", "trainer.steps=3")
    trained(place, "padded", "input.resize=letterbox")
    for name in ("a", "b", "long", "padded"):
        measured(place, name)
    return place


def trained(place: Path, name: str, *changes: str) -> None:
    (place / name).mkdir()
    settings = [
        "data=voc",
        f"data.root={place / 'own'}",
        "data.train=[train]",
        "data.val=[val]",
        "data.test=[test]",
        f"name={name}",
        "model=yolov2_160",
        "model.width=0.05",
        "input.size=[64,64]",
        "input.resize=stretch",
        "trainer.steps=2",
        "trainer.batch_size=2",
        "trainer.device=cpu",
        "trainer.progress=false",
        "trainer.probe_images=0",
        "schedule.warmup_steps=0",
        f"paths.cache={place / 'cache'}",
        "data.cache=null",
        *changes,
    ]
    engine.train(script.build_run(check(composed(settings)), place / name, None))
    summary = json.loads((place / name / "summary.json").read_text())
    summary["train_seconds"] = 1.0 + len(name)  # so that the machine does not make them equal by chance
    (place / name / "summary.json").write_text(json.dumps(summary))


def measured(place: Path, name: str, **settings) -> None:
    settings = {**PROTOCOL, **settings}
    evaluate(EvaluateConfig(run=str(place / name), device="cpu", progress=False, threads=1, **settings))


@pytest.fixture
def copied(place, tmp_path) -> Path:
    """The files for a test that changes some of them."""
    shutil.copytree(place, tmp_path / "rigged")
    return tmp_path / "rigged"


def refused(place: Path, capsys, other: str, reason: str) -> None:
    """For this reason alone."""
    with pytest.raises(SystemExit) as end:
        command.main([str(place / "a"), other])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: this comparison would not be fair:\n")
    assert sum(line.startswith("  ") for line in message.splitlines()) == 1
    assert reason in message


def said_everywhere(place: Path, capsys, other: str, reason: str) -> None:
    """With --unfair-ok it stands on top of all three files and on the terminal."""
    run = str(place / "a")
    output = place / "comparison"
    command.main([run, other, "--unfair-ok", "--resamples", "40", "--output", str(output)])
    mark = "This comparison is not fair."
    printed = capsys.readouterr().out
    markdown = output.with_suffix(".md").read_text()
    for text in (printed, markdown):
        assert text.startswith(f"**{mark}**\n\n- ") and reason in text.split("\n\n")[1]
    content = json.loads(output.with_suffix(".json").read_text())
    assert next(iter(content)) == "unfair" and len(content["unfair"]) == 1 and reason in content["unfair"][0]
    page = output.with_suffix(".html").read_text().partition("</h1>")[2]
    assert page.index(mark) < page.index("<section")
    assert reason in page[: page.index("<section")]


def test_a_fair_pair_is_compared(place, capsys):
    output = place / "fair"
    command.main([str(place / "a"), str(place / "b"), "--resamples", "40", "--output", str(output)])
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["unfair"] == []
    assert "not fair" not in capsys.readouterr().out + output.with_suffix(".html").read_text()
    assert content["notes"][0].startswith("equal budgets, within 2%: images seen, ")


def test_another_split(copied, capsys):
    measured(copied, "b", split="test")
    refused(copied, capsys, str(copied / "b/evaluation_test.json"), "different ground truth")
    said_everywhere(copied, capsys, str(copied / "b/evaluation_test.json"), "different ground truth")


def test_another_score_floor(copied, capsys):
    measured(copied, "b", score_threshold=0.2)
    refused(copied, capsys, str(copied / "b"), "the runs differ in score_threshold")
    said_everywhere(copied, capsys, str(copied / "b"), "the runs differ in score_threshold")


def test_another_rule_of_suppression(copied, capsys):
    """A rule that an older version did not record is taken as hard."""
    file = copied / "a/evaluation.json"
    content = json.loads(file.read_text())
    del content["protocol"]["nms"]
    file.write_text(json.dumps(content))
    measured(copied, "b", nms="diou")
    refused(copied, capsys, str(copied / "b"), "differ in nms (the rule of suppression): a hard, b diou")


@pytest.mark.parametrize(
    ("before", "after"),
    [("<xmin>5</xmin>", "<xmin>6</xmin>"), ("<name>dog</name>", "<name>cat</name>")],
    ids=["one box moved", "one class renamed"],
)
def test_edited_truths(before, after, copied, capsys):
    """In place, in the data set's own folder: neither its name nor its path changes."""
    xml = copied / "own/Annotations/val1.xml"
    text = xml.read_text()
    assert before in text
    xml.write_text(text.replace(before, after))
    (copied / "b/evaluation.json").unlink()
    settings = replace(
        EvaluateConfig(run=str(copied / "b"), device="cpu", progress=False, **PROTOCOL),
        data={"root": str(copied / "own")},
    )
    evaluate(settings)
    (file,) = (copied / "b").glob("evaluation*.json")
    refused(copied, capsys, str(file), "different ground truth")


def test_another_budget(place, capsys):
    refused(place, capsys, str(place / "long"), "trained on different budgets, whether in images seen")


def test_other_input_handling(place, capsys):
    refused(
        place, capsys, str(place / "padded"), "the runs differ in input.resize: a stretch, padded letterbox"
    )


def test_the_budget_that_is_stated_must_be_equal(place, capsys):
    places = [str(place / "a"), str(place / "b"), "--resamples", "40", "--output", str(place / "stated")]
    command.main([*places, "--budget", "flops"])
    notes = json.loads((place / "stated.json").read_text())["notes"]
    assert notes[0] == "the budget that was to be equal: FLOPs"
    with pytest.raises(SystemExit):
        command.main([str(place / "a"), str(place / "long"), "--budget", "seconds"])
    assert "trained on different budgets in training seconds: a 2, long 5" in capsys.readouterr().err
