"""The package's one door: its names, their examples, the page about them, and a quick import."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detectors
from detectors.config.check import check
from detectors.config.schema import composed, to_plain
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, save_checkpoint

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
