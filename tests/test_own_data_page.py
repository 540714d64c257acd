"""docs/own-data.md, from the first command to the last, as it is written, in a copy of the project.

The environment that the page makes borrows the packages of this one. With DETECTORS_WHEEL_INSTALL=1 pip
installs all that the page asks for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.forked import PROJECT
from tests.page_commands import SHELL, blocks, page_text

PAGE = page_text("own-data.md")
COPIED = (
    "conf",
    "detectors",
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "train.py",
    "evaluate.py",
)
BORROWED = {
    "PYTHONPATH": sysconfig.get_paths()["purelib"],
    "PIP_NO_DEPS": "1",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: build with the packages that are there
}


def copy_of_the_project(folder: Path) -> Path:
    skipped = shutil.ignore_patterns("__pycache__", "local")
    for name in COPIED:
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name, **({"ignore": skipped} if source.is_dir() else {}))
    return folder


@pytest.mark.slow
def test_the_page_runs_as_it_is_written(tmp_path):
    folder = copy_of_the_project(tmp_path)
    script = "\n".join(
        ["set -euo pipefail", *(content for language, content in blocks(PAGE) if language in SHELL)]
    )
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DETECTORS"))
    }
    if os.environ.get("DETECTORS_WHEEL_INSTALL") != "1":
        environment |= BORROWED
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    (anchors,) = re.findall(r"'(model\.anchors=\S+)'", script)
    assert anchors in done.stdout  # what cluster proposed
    pictures = "outputs/pictures/val_00000.png"
    exported = "outputs/my_ssd/best_boxes.onnx"
    for name in ("lint.html", "anchors.png", "outputs/comparison.html", pictures, exported):
        assert (folder / name).stat().st_size > 1000, name
    assert list((folder / "outputs/browse").glob("*anchors*"))
    for run in ("my_yolov2", "my_ssd"):
        report = json.loads((folder / "outputs" / run / "evaluation.json").read_text())
        assert report["AP50_voc10"] > 0.5, report
