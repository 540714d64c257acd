"""Inputs made after public bug reports, through every command that takes them: exit status and values.

The folder's README gives the right values.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from detectors.darknet.cfg import read_cfg
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.weights import save_weights
from tests.forked import run_commands

pytestmark = pytest.mark.data
FAST = [
    "debug=fast",
    "trainer.device=cpu",
    "trainer.progress=false",
    "trainer.batch_size=2",
    "data.workers=0",
]
# Data set -> its settings, and the boxes of each class in train.
SETS = {
    "coco-category-name-twice": (["data=coco"], {"helmet": 4, "vest": 4}),
    "voc-gb2312": (["data=voc"], {"安全帽": 3}),
    "voc-class-1e3": (
        ["data=voc", "data.class_names=[yes,no,1e3,007]"],
        {"yes": 2, "no": 2, "1e3": 2, "007": 2},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_a_data_set_through_all_commands(name, shared, tmp_path):
    settings, boxes = SETS[name]
    data = [*settings, f"data.root={shared}/bad-input/reported/{name}"]
    image = next((shared / "bad-input/reported" / name).rglob("im0.jpg"))
    commands = [
        ["lint", *data, "--json", "lint.json", "--workers", "0"],
        ["train", *data, *FAST, "model=ssd160", "hydra.run.dir=ssd"],
        ["train", *data, *FAST, "model=yolov2_160", "hydra.run.dir=yolo"],
        ["evaluate", "run=yolo", "device=cpu", "progress=false"],
        ["browse", *data, "--images", "2", "--output", "browse"],
        ["predict", "yolo", str(image), "--output", "pictures"],
        ["convert", "yolo", "mine.weights"],
        ["compare", "yolo", "--output", "comparison"],
    ]
    results = run_commands(commands, tmp_path, DETECTORS_CACHE=str(tmp_path / "cache"))
    for command, (status, output) in zip(commands, results, strict=True):
        assert status == 0, f"detectors {' '.join(command)}\n{output}"
        assert "left out" not in output, f"detectors {' '.join(command)}\n{output}"
    classes = json.loads((tmp_path / "lint.json").read_text())["statistics"]["classes"]
    assert {name: counts["train"] for name, counts in classes.items()} == boxes
    for run in ("ssd", "yolo"):
        stored = torch.load(tmp_path / run / "last.pt", weights_only=True)
        assert sorted(stored["class_names"]) == sorted(boxes)


@pytest.fixture(scope="module")
def predictors(tmp_path_factory, shared) -> dict[str, list[str]]:
    """Kind -> the arguments that name an untrained detector of that kind, with small inputs."""
    folder = tmp_path_factory.mktemp("predictors")
    cfg = shared / "bad-input/reported/names-bom/a.cfg"
    save_weights(DarknetNetwork(read_cfg(cfg)), folder / "a.weights")
    trainings = [
        ["train", *FAST, f"model={model}", *small, f"hydra.run.dir={folder}/{model}", "data.shapes.train=4"]
        for model, small in (("yolov2_160", ["input.size=[64,64]"]), ("ssd160", []))
    ]
    for status, output in run_commands(trainings, folder, DETECTORS_CACHE=str(folder / "cache")):
        assert status == 0, output
    return {
        "yolo": [f"{folder}/yolov2_160"],
        "ssd": [f"{folder}/ssd160"],
        "darknet": ["--cfg", str(cfg), "--weights", f"{folder}/a.weights"],
    }


def predict(arguments: list[str], folder: Path) -> tuple[int, str]:
    return run_commands([["predict", *arguments, "--score", "0.01", "--output", "pictures"]], folder)[0]


@pytest.mark.parametrize("kind", ["yolo", "darknet"])
def test_an_extreme_image_is_named_and_left_out(kind, predictors, shared, tmp_path):
    images = shared / "bad-input/reported/extreme-folder"
    status, output = predict([*predictors[kind], str(images)], tmp_path)
    assert status == 2 and "Traceback" not in output
    assert f"error: {images}/b.png: " in output
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {"a.png", "c.png"}


def test_an_extreme_image_can_be_stretched(predictors, shared, tmp_path):
    status, output = predict(
        [*predictors["ssd"], str(shared / "bad-input/reported/extreme-folder")], tmp_path
    )
    assert status == 0, output
    assert len(list((tmp_path / "pictures").iterdir())) == 3


@pytest.mark.parametrize("kind", ["yolo", "ssd", "darknet"])
def test_images_of_one_stem_have_a_picture_each(kind, predictors, shared, tmp_path):
    images = shared / "bad-input/reported/same-stem"
    status, output = predict([*predictors[kind], str(images)], tmp_path)
    assert status == 0, output
    assert len(list((tmp_path / "pictures").iterdir())) == 2


def test_a_byte_order_mark_is_no_part_of_a_name(predictors, shared, tmp_path):
    names = shared / "bad-input/reported/names-bom/utf-8-sig.names"
    status, output = predict(
        [*predictors["darknet"], "--names", str(names), str(shared / "bad-input/reported/same-stem/x.png")],
        tmp_path,
    )
    assert status == 0, output
    assert "\ufeff" not in output and "x.png: vélo 0." in output


def test_a_remark_behind_a_number_ends_it(predictors, shared, tmp_path):
    weights = predictors["darknet"][3]
    cfg = shared / "bad-input/reported/cfg-remarks/semicolon.cfg"
    image = shared / "bad-input/reported/same-stem/x.png"
    status, output = predict(["--cfg", str(cfg), "--weights", weights, str(image)], tmp_path)
    assert status == 0, output
