"""What evaluate.py writes where, and what it refuses; the command line is tested in test_smoke.py."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pycocotools.cocoeval import COCOeval

from detectors.commands import train as script
from detectors.commands.compare import command as compare
from detectors.commands.evaluate import (
    evaluate,
    evaluate_saved,
    fault_counts,
    fault_lines,
)
from detectors.config.check import ConfigError, check
from detectors.config.composing import composed
from detectors.config.entry import program
from detectors.config.evaluation_data import same_files, with_cache, with_data
from detectors.config.schema import SUPPRESSIONS, Config, EvaluateConfig, PathsConfig, to_plain
from detectors.data.problems import Problem
from detectors.kernels.soft_suppression import SOFT_RULES
from detectors.training import engine
from tests.data.files import box_xml, write_voc


def asked(config: Config, split: str, **data) -> Config:
    return with_data(config, EvaluateConfig(run="r", split=split, data=asdict(config.data) | data))


@pytest.mark.parametrize(
    ("split", "data"),
    [
        ("test", {"test": ["VOC2007/test"]}),
        ("val", {"val": ["VOC2012/val"], "root": "/moved/VOCdevkit"}),  # a part of VOC2012/trainval
        ("val", {"val": ["VOC2010/val", "VOC2012/trainval"]}),
    ],
)
def test_ap_on_training_images_is_refused(split, data):
    config = check(composed(["data=voc0712plus"]))
    with pytest.raises(
        ValueError,
        match=r"data\.(val|test)=.*: the run was trained on VOC20(07/test|12/val|12/trainval); choose images",
    ):
        asked(config, split, **data)
    assert asked(config, "train", **data).data.train == config.data.train  # it says so itself


def test_other_images_may_be_evaluated():
    config = check(composed(["data=voc0712"]))
    assert asked(config, "test", test=["VOC2007/test"]).data.test == ["VOC2007/test"]
    assert asked(config, "val", root="/another/set", val=["VOC2012/val"]).data.root == "/another/set"
    assert with_data(config, EvaluateConfig(run="r", split="train")) is config


def test_another_data_set_brings_its_own_splits_and_the_cache_that_is_given():
    """data=voc as Hydra composes it; a data.root alone is the run's own set, moved."""
    config = check(composed(["data=bccd", "paths.shared=/shared", "paths.cache=/runs"]))
    settings = EvaluateConfig(
        run="r",
        data={"name": "voc", "format": "voc", "root": "/other", "train": ["train"], "val": ["val"]},
        paths=PathsConfig(data="/data", cache="/here", output="/out"),
    )
    other = with_data(config, settings)
    assert (other.data.train, other.data.val, other.data.test) == (["train"], ["val"], [])
    assert (other.data.class_names, other.data.on_error) == (None, "skip")
    assert (other.data.cache, other.paths.cache) == ("/here/annotations", "/here")

    moved = with_data(config, replace(settings, data={"root": "/moved"}))
    assert moved.data == replace(config.data, root="/moved")
    assert moved.paths == config.paths


def test_the_cache_of_the_command_line_takes_the_place_of_the_runs():
    config = with_cache(check(composed(["paths.cache=/runs"])), "/here")
    assert (config.data.root, config.paths.cache) == ("/here", "/here")
    assert config.data.cache == "/here/annotations"
    assert check(to_plain(config)) == config
    parsed = check(composed(["data=voc07", "data.cache=null"]))
    assert with_cache(parsed, "/here").data == parsed.data


def test_what_was_not_measured_on_is_told():
    """What the reader leaves out makes the set smaller; an image that cannot be decoded counts as missed."""
    missing = [
        Problem("missing-image", "a.jpg", "listed in val.txt"),
        Problem("missing-image", "b.jpg", "listed in val.txt"),
    ]
    flat = Problem("no-area", "c.xml", "object 1 cat [3, 3, 3, 9]")
    sound, broken = (
        SimpleNamespace(problems={}, summary=lambda: ""),
        SimpleNamespace(problems={"d.jpg": flat}, summary=lambda: "1 broken"),
    )
    assert fault_counts([], sound) == {} and fault_lines([], sound) == []
    assert fault_counts([*missing, flat], broken) == {
        "left_out": {"missing-image": 2, "no-area": 1},
        "broken_images": 1,
    }
    first, second = fault_lines([*missing, flat], broken)
    assert first.endswith("does not count at all: 2 images that are not there, 1 boxes without area\n")
    assert second.endswith("count as missed: 1 broken\n")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on a data set of six images, with its val split as `val` and `test`."""
    place = tmp_path_factory.mktemp("evaluate")
    write_set(place / "own")
    data = ["data=voc", f"data.root={place / 'own'}", "data.train=[train]", "data.val=[val]"]
    make_run_folder = place / "run"
    make_run_folder.mkdir()
    settings = [
        *data,
        "data.name=mine",
        "model=yolov2_160",
        "input.size=[96,96]",
        "trainer.steps=2",
        "trainer.batch_size=2",
        "trainer.device=cpu",
        "trainer.progress=false",
        "schedule.warmup_steps=0",
        f"paths.cache={place / 'cache'}",
        f"data.cache={place / 'cache'}",
    ]
    engine.train(script.build_run(check(composed(settings)), make_run_folder, None))
    return place


def write_set(root: Path, edge: int = 30) -> Path:
    for split, seed in (("train", 0), ("val", 1)):
        images = {f"{split}{n}": box_xml("cat", 5, 5, edge + n, 40 + seed) for n in range(3)}
        write_voc(root, images, split=split)
    return root


def evaluated(place: Path, **settings) -> dict[str, str]:
    """Runs the command; returns the truths_hash of each evaluation file in the run's folder."""
    evaluate(EvaluateConfig(run=str(place / "run"), device="cpu", progress=False, **settings))
    files = sorted((place / "run").glob("evaluation*.json"))
    return {path.name: json.loads(path.read_text())["truths_hash"] for path in files}


def test_other_data_get_a_file_of_their_own(trained):
    """The run's own data keep evaluation.json, wherever they lie; others never overwrite it."""
    own = evaluated(trained)
    assert list(own) == ["evaluation.json"]
    summary = json.loads((trained / "run/summary.json").read_text())
    assert summary["validation"]["truths_hash"] == own["evaluation.json"]

    before = (trained / "run/evaluation.json").read_bytes()
    other = write_set(trained / "other", edge=31)
    files = evaluated(trained, data={"root": str(other), "name": "other/set"})
    (name,) = files.keys() - own.keys()
    assert name == f"evaluation_other-set_{files[name][:8]}.json"
    assert files[name] != own["evaluation.json"]
    assert (trained / "run" / name.replace("evaluation", "detections")).is_file()
    assert (trained / "run/evaluation.json").read_bytes() == before

    (trained / "run/evaluation.json").unlink()
    moved = shutil.copytree(trained / "own", trained / "moved")
    assert evaluated(trained, data={"root": str(moved)})["evaluation.json"] == own["evaluation.json"]
    with_workers = evaluated(trained, data={"prefetch": 3}, split="train")
    assert "evaluation_train.json" in with_workers
    again = evaluated(trained, data={"root": str(moved)}, split="train")
    assert again == with_workers  # an earlier evaluation of the split tells that these are the run's own


def test_pycocotools_gives_the_same_numbers(trained, monkeypatch):
    """The evaluator that is named computes, and every number but the speed is the same."""
    contents, evaluations = [], []
    original = COCOeval.evaluate
    monkeypatch.setattr(COCOeval, "evaluate", lambda self: [evaluations.append(self), original(self)])
    for name in ("arrays", "pycocotools"):
        evaluated(trained, evaluators=name)
        content = json.loads((trained / "run/evaluation.json").read_text())
        assert content.pop("evaluators") == name
        assert len(evaluations) == (name == "pycocotools")
        content.pop("inference_images_per_second")
        contents.append(content)
    assert contents[0]["AP"] is not None
    assert contents[1] == contents[0]
    with pytest.raises(
        ConfigError, match="evaluators='cocotools': must be one of arrays, pycocotools, all; did"
    ):
        check({"run": "r", "evaluators": "cocotools", "paths": {}}, EvaluateConfig)


def test_all_evaluators_side_by_side(trained, capsys):
    """Beside the same report: a table whose first rows are the report's numbers, printed and written."""
    contents = []
    for name in ("arrays", "all"):
        evaluated(trained, evaluators=name, score_threshold=0.0)
        contents.append(json.loads((trained / "run/evaluation.json").read_text()))
        del contents[-1]["inference_images_per_second"], contents[-1]["evaluators"]
    assert "variants" not in contents[0]
    rows = {row["name"]: row for row in contents[1].pop("variants")}
    assert contents[1] == contents[0]
    named = {"voc10": "AP50_voc10", "voc07": "AP50_voc07", "coco_ap50": "AP50", "coco_ap": "AP"}
    assert {key: rows[name]["AP"] for name, key in named.items()} == {
        k: contents[0][k] for k in named.values()
    }
    assert rows["voc10"]["difference"] == 0
    assert "unclipped" in rows
    printed = capsys.readouterr().out
    assert "boxes not clipped to the image" in printed
    assert "what differs from the first row" in printed


def test_the_rule_of_suppression_can_be_chosen(trained):
    """A soft rule keeps boxes that the hard one drops, with lower scores; evaluation.json names it."""
    numbers = {}
    for rule in (None, "hard", "soft_gaussian"):
        evaluated(trained, score_threshold=0.0, nms=rule)
        content = json.loads((trained / "run/evaluation.json").read_text())
        assert content["protocol"]["nms"] == (rule or "hard")
        numbers[rule] = content["detections"]
    assert numbers[None] == numbers["hard"] < numbers["soft_gaussian"]
    assert ("hard", *SOFT_RULES) == SUPPRESSIONS


def saved(place: Path, **settings) -> dict:
    paths = PathsConfig(data="data", cache="cache", output="outputs")
    evaluate_saved(EvaluateConfig(detections=str(place), paths=paths, **settings))
    folder = settings.get("output") or place.with_name(f"{place.stem}_evaluated")
    (file,) = Path(folder).glob("evaluation*.json")
    return json.loads(file.read_text())


NUMBERS = ("AP", "AP50", "AP50_voc07", "AP50_voc10", "per_class", "truths_hash", "detections", "images")


def test_saved_detections_give_the_runs_numbers(trained, tmp_path, capsys):
    """Without a network: our own file, which has the ground truth, and COCO's results on the named data set;
    and compare takes what is written like a run.
    """
    evaluated(trained, score_threshold=0.0)
    run = trained / "run"
    before = json.loads((run / "evaluation.json").read_text())
    own = saved(run / "detections.npz", output=str(tmp_path / "own"))
    assert {key: own[key] for key in NUMBERS} == {key: before[key] for key in NUMBERS}
    assert (own["protocol"], own["data"], own["name"]) == (before["protocol"], "mine", "detections")
    shutil.copy(run / "detections.json", tmp_path / "theirs.json")
    data = to_plain(check(composed(["data=voc", f"data.root={trained / 'own'}"])))["data"]
    theirs = saved(tmp_path / "theirs.json", data=data, evaluators="all")
    assert {key: theirs[key] for key in NUMBERS} == {key: before[key] for key in NUMBERS}
    assert theirs["variants"][-1]["name"] == "clipped"
    assert "protocol" not in theirs and "device" not in theirs
    capsys.readouterr()
    places = [run, tmp_path / "own", tmp_path / "theirs_evaluated"]
    compare.main([*map(str, places), "--output", str(tmp_path / "comparison")])
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["name"] for row in content["runs"]] == ["yolov2_160", "detections", "theirs"]
    assert len(content["detectors"]) == 3
    assert {pair["estimates"]["AP50"]["value"] for pair in content["differences"]} == {0.0}
    assert "the post-processing is not known, so that it may differ: theirs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, r"run is missing: set run=\.\.\., or detections=\.\.\. for saved detections"),
        ({"run": "r", "output": "o"}, "output=o: a run's results lie beside its checkpoint"),
        ({"run": "r", "detections": "d"}, "run=r: saved detections are measured as they are; leave it out"),
        ({"detections": "d", "nms_iou": 0.5}, r"nms_iou=0\.5: saved detections are measured as they are"),
        ({"detections": "d", "nms": "diou"}, "nms=diou: saved detections are measured as they are"),
        ({"run": "r", "nms": "soft"}, "nms='soft': must be one of hard, soft_linear, soft_gaussian, diou"),
    ],
)
def test_settings_that_do_not_go_together(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        check(settings | {"paths": {"data": "d", "cache": "c", "output": "o"}}, EvaluateConfig)


def test_the_data_of_detections_are_checked(tmp_path):
    (tmp_path / "r.json").write_text("[]")
    wrong = {"name": "x", "format": "shapes", "root": "/my/photos"}
    paths = PathsConfig(data="d", cache="/cache", output="o")
    settings = EvaluateConfig(detections=str(tmp_path / "r.json"), data=wrong, paths=paths)
    with pytest.raises(ConfigError, match="data=shapes generates its images in paths.cache"):
        evaluate_saved(settings)
    with pytest.raises(ConfigError, match=r"data.rot='/a': there is no such setting; did you mean data.root"):
        evaluate_saved(replace(settings, data=wrong | {"rot": "/a"}))


def test_the_classes_cannot_be_chosen(trained, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    arguments = [f"run={trained / 'run'}", "+data.class_names=[dog]", f"hydra.run.dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "hydra/job_logging=none"])
    with pytest.raises(SystemExit, match="2"):
        program("evaluate", "detectors.commands.evaluate.main")()
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: data.class_names=[dog]: the classes are those that the detector was trained on; leave it out"
    )


def test_generated_images_are_the_same_in_any_cache():
    before = check(composed(["data=shapes", "paths.cache=/a"])).data
    now = check(composed(["data=shapes", "paths.cache=/b"])).data
    assert same_files(before, now)
    assert not same_files(before, check(composed(["data=shapes", "data.shapes.seed=1"])).data)
    voc = check(composed(["data=voc", "data.root=/a"])).data
    assert same_files(voc, replace(voc, workers=3, on_error="skip"))
    assert not same_files(voc, replace(voc, root="/b"))


def test_evaluations_on_different_truths_are_not_compared_silently(trained, capsys):
    evaluated(trained)
    other = write_set(trained / "third", edge=33)
    files = evaluated(trained, data={"root": str(other), "name": "third"})
    name = next(name for name in files if "third" in name)
    run = trained / "run"
    places = [str(run), str(run / name), "--output", str(trained / "comparison")]
    with pytest.raises(SystemExit):
        compare.main(places)
    assert "on different ground truth" in capsys.readouterr().err
    compare.main([*places, "--unfair-ok"])
    content = json.loads((trained / "comparison.json").read_text())
    marks = [f"mine val {files['evaluation.json'][:8]}", f"third val {files[name][:8]}"]
    assert [row["name"] for row in content["runs"]] == [
        f"yolov2_160 (run) on {marks[0]}",
        f"yolov2_160 ({name}) on {marks[1]}",
    ]
    assert content["notes"][0] == (
        "UNFAIR: the runs were evaluated on different ground truth, so their AP cannot be compared: "
        f"yolov2_160 (run) {marks[0]}, yolov2_160 ({name}) {marks[1]}"
    )
    assert content["notes"][0] in capsys.readouterr().out
