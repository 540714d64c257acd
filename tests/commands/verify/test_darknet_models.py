"""verify runs the models of conf/model on the recordings of their cfgs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from detectors.commands.verify import command, presets
from detectors.commands.verify.recordings import Folder
from detectors.losses.cross_entropy import CrossEntropyLoss
from detectors.models import classifier
from tests.recorded import FIXTURES

CASE = "yolov2-tiny-voc"


def recording(shared: Path, target: Path, cfg: str) -> dict[str, str]:
    """The verdicts of one case of full.json, whose cfg has another name. what was compared -> verdict."""
    source = shared / "oracles/darknet"
    about = json.loads((source / "full.json").read_text())[CASE]
    (target / "cfg-full").mkdir()
    shutil.copy(source / about["cfg"], target / "cfg-full" / cfg)
    (target / "full.json").write_text(json.dumps({CASE: about | {"cfg": f"cfg-full/{cfg}"}}))
    (target / "full.npz").symlink_to(source / "full.npz")
    rows = command.verify(Folder(target))
    return {row.what: row.verdict for row in rows if row.what.startswith("model=")}


@pytest.mark.data
@pytest.mark.parametrize("cfg", ["yolov2-tiny-voc.cfg", "mine.cfg"])
def test_the_model_of_a_cfg_gives_its_detections(cfg, shared, tmp_path):
    """It is found by the cfg's name or, for another name, by its layers and anchors."""
    verdicts = recording(shared, tmp_path, cfg)
    assert set(verdicts.values()) == {"pass"}
    what = ("layers and anchors", "51 best detections: classes", "51 best detections: scores")
    assert verdicts.keys() >= {f"model=yolov2_tiny: {part}" for part in what}


@pytest.mark.data
def test_wrong_anchors_in_the_yaml_fail(shared, tmp_path, monkeypatch):
    original = presets.preset_config

    def changed(*names):
        config = original(*names)
        return replace(config, model={**config.model, "anchors": "voc"})

    monkeypatch.setattr(presets, "preset_config", changed)
    verdicts = recording(shared, tmp_path, "yolov2-tiny-voc.cfg")
    assert verdicts == {"model=yolov2_tiny: layers and anchors": "FAIL"}


def classifier_rows(target: Path, kind: str, case: str) -> list[command.Row]:
    """What the builder darknet19 gives for one case of Darknet's small classifiers."""
    source = FIXTURES / "darknet"
    (target / "cfg").symlink_to(source / "cfg")
    (target / f"{kind}_{case}.npz").symlink_to(source / f"{kind}_{case}.npz")
    settings = json.loads((source / f"{kind}.json").read_text())[case]
    (target / f"{kind}.json").write_text(json.dumps({case: settings}))
    rows = command.verify(Folder(target))
    return [row for row in rows if row.what.startswith("model=darknet19_classifier: ")]


@pytest.mark.parametrize(
    ("kind", "case", "compared"),
    [
        ("net", "mini-darknet19-64", ["layer24", "layer25"]),
        (
            "train",
            "nano-classifier.gpubn",
            [
                "forward 0: updates of 17 tensors",
                "costs",
                "final parameters of 17 tensors",
                "final running statistics of 10 tensors",
            ],
        ),
    ],
)
def test_small_classifiers_of_darknet_are_the_builder_with_their_stages(kind, case, compared, tmp_path):
    rows = classifier_rows(tmp_path, kind, case)
    assert [row.what.removeprefix("model=darknet19_classifier: ") for row in rows] == compared
    assert {row.verdict for row in rows} == {"pass"}


def test_a_classifier_with_another_loss_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "CrossEntropyLoss", partial(CrossEntropyLoss, label_smoothing=0.1))
    rows = classifier_rows(tmp_path, "train", "nano-classifier.gpubn")
    assert {row.verdict for row in rows if "statistics" not in row.what} == {"FAIL"}
