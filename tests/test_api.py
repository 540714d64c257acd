"""The package's one door: its names, their examples, the page about them, and a quick import."""

from __future__ import annotations

import doctest
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detectors
from detectors.commands.browse import command as browse
from detectors.commands.predict import command as predict
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import to_plain
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
SHAPES = ("cross", "disc", "ring", "square", "star", "triangle")


@pytest.fixture
def examples_folder(tmp_path, monkeypatch):
    """The working directory that the examples expect: an untrained RUN, and FOLDER with two images."""
    config = check(composed(["model=yolov2_160", "model.width=0.125"]))
    state = assemble.build_detector(config, len(SHAPES)).state_dict()
    save_checkpoint(Checkpoint(tmp_path / "RUN/best.pt", 0, to_plain(config), SHAPES, state, {}, {}, {}))
    (tmp_path / "FOLDER").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.png", (80, 60))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / "FOLDER" / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", detectors.__all__)
def test_each_public_name_has_an_example_that_runs(name, examples_folder):
    docstring = getattr(detectors, name).__doc__
    example = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
    assert example.examples, f"{name} has no example in its docstring"
    runner = doctest.DocTestRunner(verbose=False)
    assert runner.run(example).failed == 0


def test_the_examples_of_the_page_run(examples_folder):
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 15 and result.failed == 0


def test_the_page_names_every_public_name():
    words = set(re.findall(r"\w+", PAGE.read_text()))
    assert set(detectors.__all__) <= words


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'detectors' has no attribute 'yolov3'; it has Detector"):
        _ = detectors.yolov3
    assert set(detectors.__all__) <= set(dir(detectors))


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, detectors; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def random_states() -> list:
    return [torch.get_rng_state(), np.random.get_state()[1], random.getstate()]  # noqa: NPY002


@pytest.mark.parametrize("way", ["load", "predict", "browse", "evaluate", "build_detector"])
def test_a_detector_in_your_program_leaves_its_random_state(way, examples_folder, tmp_path, capsys):
    """PyTorch's, NumPy's and Python's global generators: a program's own draws stay what they were."""
    config = check(composed(["model=yolov2_160", "model.width=0.125", f"paths.cache={tmp_path}"]))
    data = ["data.shapes.train=4", "data.shapes.val=2", "data.shapes.size=64", f"paths.cache={tmp_path}"]
    use = {
        "load": lambda: detectors.load("RUN"),
        "predict": lambda: predict.main(["RUN", "FOLDER", "--output", str(tmp_path / "pictures")]),
        "browse": lambda: browse.main(
            [*data, "--anchors", "--images", "2", "--output", str(tmp_path / "browse")]
        ),
        "evaluate": lambda: assemble.load_detector(load_checkpoint("RUN/best.pt"), torch.device("cpu")),
        "build_detector": lambda: assemble.build_detector(config, 3),
    }
    torch.manual_seed(5)  # no run's seed
    before = random_states()
    use[way]()
    torch.testing.assert_close(random_states()[0], before[0], rtol=0, atol=0)
    np.testing.assert_array_equal(random_states()[1], before[1])
    assert random_states()[2] == before[2]


def test_the_weights_of_a_seed_are_the_same_in_training_and_elsewhere():
    config = check(composed(["model=yolov2_160", "model.width=0.125", "seed=3"]))
    ours = assemble.build_detector(config, 3).state_dict()
    before = torch.random.get_rng_state()
    torch.testing.assert_close(assemble.seeded_detector(config, 3).state_dict(), ours, rtol=0, atol=0)
    torch.random.set_rng_state(before)
