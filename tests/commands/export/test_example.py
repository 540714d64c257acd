"""The program of docs/export.md that needs no PyTorch, as the page has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from detectors.commands.predict import command as predict
from detectors.data.augment.fitting import RESIZES, resize
from tests.commands.export.networks import NARROW, export, write_run

PAGE = Path(__file__).resolve().parents[3] / "docs" / "export.md"
ABSENT = ("torch", "torchvision", "cv2", "onnx", "detectors", "scipy")  # beside numpy, onnxruntime and Pillow
BLOCKER = f"""
import runpy, sys
for name in {ABSENT}:
    sys.modules[name] = None  # importing it raises ImportError
script, *sys.argv = sys.argv[1], *sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""
SIZES = [(61, 80), (160, 160), (333, 500), (400, 211), (2, 97), (159, 3)]  # (height, width)


def program() -> str:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return text


def functions() -> dict:
    """What the program defines, without running it."""
    definitions, _, _ = program().partition("session = ")
    names: dict = {}
    exec(definitions, names)
    return names


def test_it_is_short():
    assert len(program().splitlines()) <= 60


@pytest.mark.parametrize("how", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(160, 160), (300, 300), (416, 352)])
def test_its_pixels_are_those_of_training(how, size):
    fitted = functions()["fitted"]
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        fit = RESIZES[how]((height, width), size)
        canvas, scale, shift = fitted(image, size, how, 127)
        assert_array_equal(canvas, resize(image, fit, size), err_msg=f"{height} x {width}")
        assert (scale, shift) == (fit.scale_xy((height, width)), fit.shift_xy())


def test_it_prints_what_predict_prints(tmp_path, capsys):
    """Without PyTorch, and from JPEG and PNG files of other sizes than the input's."""
    run = write_run(tmp_path / "run", "model=yolov2_160", NARROW, "model.max_detections=20", objectness=3)
    export(run, "--with-boxes", "--score-threshold", "0.01")
    rng = np.random.default_rng(0)
    images = []
    for number, (height, width) in enumerate(SIZES[:4]):
        small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        images.append(tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}")
        Image.fromarray(cv2.resize(small, (width, height))).save(images[-1])
    (tmp_path / "run_onnx.py").write_text(program())
    command = [sys.executable, "-c", BLOCKER, tmp_path / "run_onnx.py", run / "best_boxes.onnx", *images]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    capsys.readouterr()
    predict.main([str(run), *map(str, images), "--output", str(tmp_path / "drawn")])
    expected = capsys.readouterr().out.splitlines()[:-1]
    assert len(printed.splitlines()) == len(expected) > 10
    numbers = {line: parsed(line) for line in expected}
    for line in printed.splitlines():
        place, found = parsed(line)
        near = [np.abs(found - there).max() for where, there in numbers.values() if where == place]
        assert min(near, default=np.inf) < 0.11, line  # the last digit of a rounded edge


def parsed(line: str) -> tuple[str, np.ndarray]:
    """`image: class score xmin ymin xmax ymax` -> what is no number, and the five numbers"""
    *words, score, left, top, right, bottom = line.split()
    return " ".join(words), np.array([score, left, top, right, bottom], float)
