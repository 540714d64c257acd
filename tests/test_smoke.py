"""The commands themselves, as a person types them: train, Ctrl-C, resume, evaluate, compare, predict, and
what mistakes print.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from detectors.commands.compare.fairness import PROTOCOL_SETTINGS

PROJECT = Path(__file__).resolve().parents[1]
FAST = [
    "trainer.device=cpu",
    "trainer.threads=1",
    "trainer.progress=false",
    "data.shapes.train=12",
    "data.shapes.val=4",
]

LONG = ["trainer.log_every=1", "trainer.steps=3000", "trainer.eval_every=0", "schedule.warmup_steps=0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("smoke")


def start(place: Path, *command: str) -> subprocess.Popen:
    environment = {**os.environ, "DETECTORS_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(place: Path, *command: str) -> tuple[int, str, str]:
    process = start(place, *command)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def trained(place: Path, model: str) -> Path:
    """A run of four steps, trained once per module."""
    folder = place / model
    if not folder.exists():
        status, _, error = call(
            place, "train.py", "debug=fast", f"model={model}", f"hydra.run.dir={folder}", *FAST
        )
        assert status == 0, error
        status, _, error = call(
            place, "evaluate.py", f"run={folder}", "threads=1", "progress=false", *PROTOCOL_SETTINGS
        )
        assert status == 0, error
    return folder


def test_two_detectors_from_training_to_comparison(place):
    folders = [trained(place, model) for model in ("yolov2_160", "ssd160")]
    for folder in folders:
        assert {"best.pt", "last.pt", "summary.json", "evaluation.json", "detections.json"} <= {
            path.name for path in folder.iterdir()
        }
    output = place / "comparison"
    status, out, error = call(
        place,
        "-m",
        "detectors",
        "compare",
        *map(str, folders),
        "--output",
        str(output),
        "--speed-seconds",
        "0",
    )
    assert status == 0, error
    assert "AP50 (VOC10 area)" in out
    content = json.loads(output.with_suffix(".json").read_text())
    for detector in content["detectors"]:
        assert detector["speed"]["latency_ms"]["network"]["median"] > 0
        assert detector["speed"]["memory_bytes"] > 4 * detector["parameters"]
        assert detector["anchors"]["near"]["all"]["recall"] > 0.5
    assert [detector["anchors"]["cell"] is None for detector in content["detectors"]] == [False, True]
    assert set(content["pareto"]) == {"latency_ms", "gflops"}
    shown = len(content["disagreement"])
    page = output.with_suffix(".html").read_text()
    assert page.count('src="data:image/jpeg') == 3 * shown and len(page) < 3e6
    runs = content["runs"]
    assert [run["model"] for run in runs] == ["yolov2_tiny", "ssd160"]
    assert all(run["AP50_voc10"] is not None and run["train_seconds"] > 0 for run in runs)


def test_predict_prints_and_draws(place):
    folder = trained(place, "ssd160")
    images = next((place / "cache").rglob("JPEGImages"))
    options = ["--score", "0.0001", "--output", str(place / "drawn")]
    broken = place / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not much of an image")
    status, out, error = call(
        place, "-m", "detectors", "predict", str(folder), str(broken), str(images), *options
    )
    assert status == 2
    assert f"{broken}: the image cannot be decoded" in error
    assert "left out, see above: 1" in error
    first = out.splitlines()[0].split(": ")
    assert Path(first[0]).is_file()
    name, score, *edges = first[1].split()
    assert name in {"cross", "disc", "ring", "square", "star", "triangle"}
    assert 0 <= float(score) <= 1
    assert len(edges) == 4
    assert len(list((place / "drawn").glob("*.png"))) == len(list(images.iterdir())) == 16


def test_ctrl_c_leaves_a_checkpoint_that_can_go_on(place):
    folder = place / "interrupted"
    process = start(place, "train.py", f"hydra.run.dir={folder}", *FAST, *LONG)
    for line in process.stdout:
        if line.startswith("curves:"):
            break
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"go on with: python train.py trainer.resume={folder}" in error
    assert "Traceback" not in error
    assert error.splitlines()[-1] in (folder / "train.log").read_text()
    steps = int(error.split("stopped after step ")[1].split(";")[0]) + 2
    typed = (folder / ".hydra/overrides.yaml").read_text()
    status, out, error = call(place, "train.py", f"trainer.resume={folder}", f"trainer.steps={steps}")
    assert status == 0, error
    assert (folder / ".hydra/overrides.yaml").read_text() == typed
    assert f"step {steps - 2} to {steps}" in out
    assert json.loads((folder / "summary.json").read_text())["steps"] == steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=voc", "data.root=/no/such/place"], "/no/such/place"),
        (["trainer.resume=/no/such/run"], "/no/such/run: no such run folder or checkpoint"),
    ],
)
def test_a_mistake_gives_one_message_without_a_traceback(place, arguments, message):
    status, _, error = call(place, "train.py", f"hydra.run.dir={place / 'mistake'}", *arguments)
    assert status == 2
    assert message in error
    assert "Traceback" not in error
