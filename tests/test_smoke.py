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
from tests.processes import Forks

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


@pytest.fixture(scope="module")
def forks(place):
    forks = Forks(DETECTORS_CACHE=str(place / "cache"))
    yield forks
    forks.close()


@pytest.fixture(scope="module")
def call(forks, place):
    """`detectors ARGUMENTS` -> status, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status, out = forks.run(*arguments, output=place / "out", errors=place / "errors")
        return status, out, (place / "errors").read_text()

    return run


def script(place: Path, *command: str) -> None:
    """A script of the project, which must succeed, as a person types it."""
    environment = {**os.environ, "DETECTORS_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(call, place) -> list[Path]:
    """Two evaluated runs of four steps, the first by the scripts themselves."""
    folders = [place / "yolov2_160", place / "ssd160"]
    train, evaluate = (
        [("debug=fast", f"model={folder.name}", f"hydra.run.dir={folder}", *FAST) for folder in folders],
        [(f"run={folder}", "threads=1", "progress=false", *PROTOCOL_SETTINGS) for folder in folders],
    )
    script(place, "train.py", *train[0])
    script(place, "evaluate.py", *evaluate[0])
    for command in (("train", *train[1]), ("evaluate", *evaluate[1])):
        status, _, error = call(*command)
        assert status == 0, error
    return folders


def test_two_detectors_from_training_to_comparison(call, runs, place):
    for folder in runs:
        assert {"best.pt", "last.pt", "summary.json", "evaluation.json", "detections.json"} <= {
            path.name for path in folder.iterdir()
        }
    output = place / "comparison"
    status, out, error = call("compare", *map(str, runs), "--output", str(output), "--speed-seconds", "0")
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
    assert [run["model"] for run in content["runs"]] == ["yolov2_tiny", "ssd160"]
    assert all(run["AP50_voc10"] is not None and run["train_seconds"] > 0 for run in content["runs"])


def test_predict_prints_and_draws(call, runs, place):
    images = next((place / "cache").rglob("JPEGImages"))
    options = ["--score", "0.0001", "--output", str(place / "drawn")]
    broken = place / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 not much of an image")
    status, out, error = call("predict", str(runs[1]), str(broken), str(images), *options)
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


def test_ctrl_c_leaves_a_checkpoint_that_can_go_on(call, forks, place):
    folder = place / "interrupted"
    arguments = (f"hydra.run.dir={folder}", *FAST, *LONG)
    process = forks.start("train", *arguments, output=place / "out", errors=place / "errors")
    process.wait_for_text("curves:")
    time.sleep(1.5)
    process.send(signal.SIGINT)
    status, _ = process.ended()
    error = (place / "errors").read_text()
    assert status == 130, error
    assert f"go on with: python train.py trainer.resume={folder}" in error
    assert "Traceback" not in error
    assert error.splitlines()[-1] in (folder / "train.log").read_text()
    steps = int(error.split("stopped after step ")[1].split(";")[0]) + 2
    typed = (folder / ".hydra/overrides.yaml").read_text()
    status, out, error = call("train", f"trainer.resume={folder}", f"trainer.steps={steps}")
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
def test_a_mistake_gives_one_message_without_a_traceback(call, place, arguments, message):
    status, _, error = call("train", f"hydra.run.dir={place / 'mistake'}", *arguments)
    assert status == 2
    assert message in error
    assert "Traceback" not in error
