"""What the processes of test_distributed.py do; tests/ranks.py starts them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import nn

from detectors.commands import train as script
from detectors.config.check import check
from detectors.config.schema import CONF
from detectors.training import checkpoint as ckpt
from detectors.training import engine
from detectors.training.distributed import Processes, joined
from detectors.training.run import Run

SMALL = (
    "trainer.steps=6",
    "trainer.log_every=1",
    "trainer.eval_every=0",
    "trainer.probe_images=1",
    "trainer.progress=false",
    "trainer.device=cpu",
    "schedule.warmup_steps=2",
    "data.shapes.train=10",
    "data.shapes.val=3",
    "data.shapes.size=96",
    "paths.shared=unused",
)
MODELS = {
    "yolov2": ("model=yolov2_160", "input.size=[96,96]"),
    "ssd": ("model=ssd160", "model.batch_norm=false", "optimizer.rate=1e-4"),
}


def built(place: Path, processes: Processes, overrides: tuple[str, ...], resumed: bool = False) -> Run:
    """A run in place/NAME, with images in place/cache. overrides: the folder's NAME, the model, settings."""
    torch.set_num_threads(1)
    name, model, *settings = overrides
    paths = (f"paths.cache={place / 'cache'}", f"paths.output={place}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = check(compose("train", [*MODELS[model], *paths, *SMALL, *settings]))
    folder = place / name
    folder.mkdir(exist_ok=True)
    stored = ckpt.load_checkpoint(folder / ckpt.LAST) if resumed else None
    return script.build_run(config, folder, stored, processes)


def freeze_statistics() -> None:
    """BatchNorm uses its running statistics in training, too: those of a batch depend on its size."""
    nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)


def train(place: Path, *overrides: str, resumed: bool = False) -> dict[str, Any]:
    """Trains to the end; what the process knows then."""
    freeze_statistics()
    with joined() as processes:
        run = built(place, processes, overrides, resumed)
        report = engine.train(run)
        run.tracker.close()
    state = {name: tensor.numpy() for name, tensor in run.task.module.state_dict().items()}
    return {"state": state, "progress": vars(run.progress), "report": report.as_dict()}


def evaluate(place: Path, *overrides: str) -> dict[str, Any]:
    """Detections and AP of the first process's weights; the others' BatchNorm starts with other numbers."""
    with joined() as processes:
        run = built(place, processes, overrides)
        for name, buffer in run.task.module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(0.01 * (1 + processes.rank))
        report = run.task.evaluate()
        found = {name: tensor.numpy() for name, tensor in vars(run.task._last_detections).items()}
    return {"report": report.as_dict(), "detections": found}


def command(place: Path, fault: str, *arguments: str) -> int | str | None:
    """python train.py ARGUMENTS in place/rank, with both streams in place/rank.txt. The exit status."""
    rank = os.environ["RANK"]
    (place / rank).mkdir()
    os.chdir(place / rank)
    output = os.open(place / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)
    sys.argv = ["train.py", f"paths.cache={place / 'cache'}", f"paths.output={place / 'out'}", *arguments]
    PLANT[fault]()
    try:
        script.main()
    except SystemExit as end:
        return end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def in_step(step: int, rank: int, act) -> None:
    """Calls `act(run)` in one process, at the beginning of a step."""
    original = engine.update

    def update(run: Run):
        if run.progress.step == step - 1 and run.processes.rank == rank:
            act(run)
        return original(run)

    engine.update = update


def spoil(run: Run) -> None:
    """Makes the next loss of one process not finite, and no other's."""
    run.task.module.loss.coord_scale = float("nan")


PLANT = {
    "none": lambda: None,
    "signal": lambda: in_step(3, 1, lambda run: os.kill(os.getpid(), signal.SIGTERM)),
    "death": lambda: in_step(3, 1, lambda run: os.kill(os.getpid(), signal.SIGKILL)),
    "fault": lambda: in_step(3, 1, lambda run: run.nothing),
    "nan": lambda: in_step(3, 1, spoil),
}
