"""A classifier's run through evaluate, predict and the commands that refuse it; a detector starts from it."""

from __future__ import annotations

import csv
import json
import re

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from detectors import load
from detectors.commands import train as script
from detectors.commands.browse import command as browse
from detectors.commands.cluster import command as cluster
from detectors.commands.compare import command as compare
from detectors.commands.evaluate import evaluate
from detectors.commands.predict import command as predict
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import EvaluateConfig
from detectors.training import assemble, engine
from detectors.training import checkpoint as ckpt
from tests.data.labelled import write_idx
from tests.training.test_classification import DIGITS, SMALL, make_classifier_run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_idx(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = make_classifier_run(folder, place, *DIGITS, "trainer.steps=30", "optimizer.rate=0.01")
    engine.train(run)
    run.tracker.close()
    return folder


def settings(trained, **changes) -> EvaluateConfig:
    paths = {"data": "d", "cache": "c", "output": "o"}
    return check({"run": str(trained), "progress": False, "paths": paths, **changes}, EvaluateConfig)


def test_evaluate_writes_the_trainings_numbers(trained):
    accuracy = evaluate(settings(trained))
    content = json.loads((trained / "evaluation.json").read_text())
    best = json.loads((trained / "summary.json").read_text())["best"]
    assert content["accuracy"] == accuracy == best["accuracy"]
    assert (content["task"], content["images"], len(content["confusion"])) == ("classification", 8, 10)
    rows = list(csv.DictReader((trained / "predictions.csv").open()))
    assert sum(row["class"] == row["best"] for row in rows) == accuracy * 8
    with pytest.raises(ValueError, match=r"nms_iou=0\.5: is for detectors"):
        evaluate(settings(trained, nms_iou=0.5))


def test_predict_prints_darknets_lines(trained, tmp_path, capsys):
    image = np.zeros((28, 28), np.uint8)
    image[:, 16:19] = 255  # the bar of a seven
    cv2.imwrite(str(tmp_path / "7.png"), image)
    predict.main([str(trained), str(tmp_path / "7.png")])
    first, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r".*7\.png: Predicted in \d+\.\d{6} seconds\.", first)
    assert len(lines) == 5
    assert all(re.fullmatch(r"[ 1]?[ \d]\d\.\d\d%: \w+", line) for line in lines)
    network, _ = assemble.load_network(ckpt.load_checkpoint(trained / "best.pt"), torch.device("cpu"))
    pixels = torch.from_numpy(image).expand(1, 3, -1, -1)
    best = int(network(pixels).argmax())
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert lines[0].endswith(f": {names[best]}")


def test_load_gives_the_best_classes_of_each_image(trained, place, tmp_path):
    """Of files, arrays and PIL images of other sizes, in batches: what the network says about each."""
    generator = np.random.default_rng(3)
    arrays = [generator.integers(0, 256, (28, 28, 3), dtype=np.uint8) for _ in range(3)]
    cv2.imwrite(str(tmp_path / "a.png"), arrays[0][..., ::-1])
    classifier = load(trained, device="cpu")
    given = [str(tmp_path / "a.png"), arrays[1], Image.fromarray(arrays[2])]
    predictions = classifier.predict(given, best=3, batch_size=2)
    assert [one.path for one in predictions] == [given[0], None, None]
    with torch.no_grad():
        logits = classifier.module(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
    probabilities, labels = logits.softmax(1).topk(3)
    for one, scores, best in zip(predictions, probabilities, labels, strict=True):
        assert one.size == (28, 28)
        assert one.labels.tolist() == best.tolist()
        assert one.names == [classifier.class_names[label] for label in best]
        assert_close(torch.from_numpy(one.scores), scores)
    with pytest.raises(FileNotFoundError, match="no such image or folder"):
        classifier.predict(tmp_path / "b.png")


def test_what_needs_a_detector_says_so(trained, capsys):
    with pytest.raises(ValueError, match="it holds a classifier, and this needs a detector"):
        assemble.load_detector(ckpt.load_checkpoint(trained / "best.pt"), torch.device("cpu"))
    evaluate(settings(trained))
    with pytest.raises(SystemExit):
        compare.main([str(trained), str(trained)])
    assert "of a classifier, and this compares detectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (cluster, [], "a classifier has no anchors; choose a detector"),
        (browse, ["--anchors"], "--anchors: model=first_network is a classifier and has none; leave it out"),
    ],
)
def test_classifiers_have_no_anchors(command, options, message, place, capsys):
    with pytest.raises(SystemExit):
        command.main([*DIGITS, f"data.root={place}", f"paths.cache={place / 'cache'}", *options])
    assert message in capsys.readouterr().err


def test_a_detector_starts_from_a_classifiers_backbone(place, tmp_path, caplog):
    caplog.set_level("INFO")
    narrow = ("model=darknet19_classifier", "model.width=0.05", "input.size=[32,32]")
    crops = ("data.box_crops=0", "data.shapes.train=4", "data.shapes.val=1", "data.shapes.size=64")
    first = make_classifier_run(tmp_path / "classifier", place, *narrow, *crops, "trainer.steps=2")
    engine.train(first)
    first.tracker.close()
    detector = ["model=yolov2", "model.width=0.05", "input.size=[64,64]", *crops[1:], *SMALL]
    config = check(
        composed([*detector, f"paths.cache={place / 'cache'}", f"init.from={tmp_path / 'classifier'}"])
    )
    run = script.build_run(config, tmp_path / "detector", None)
    state = run.task.module.state_dict()
    stored = ckpt.load_checkpoint(tmp_path / "classifier/best.pt").weights
    shared = [name for name in stored if name.startswith("backbone.")]
    assert len(shared) == 18 * 6
    assert all(state[name].equal(stored[name]) for name in shared)
