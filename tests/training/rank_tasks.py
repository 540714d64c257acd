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
from detectors.config import launched
from detectors.config.check import check
from detectors.config.entry import program
from detectors.config.schema import CONF
from detectors.data.images import ImageError
from detectors.training import checkpoint as ckpt
from detectors.training import compilation, detection, engine, memory_format
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
    "classifier": (
        "model=darknet19_classifier",
        "model.width=0.05",
        "input.size=[32,32]",
        "data.box_crops=0",
        "optimizer.rate=1e-4",
    ),
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


def memory_format_choice(place: Path) -> str:
    """What trainer.memory_format=auto becomes, where the first process measures that contiguous is quicker,
    and the other one cannot measure.
    """
    with joined() as processes:
        run = built(place, processes, ("choice", "yolov2", "trainer.memory_format=auto"))
        seconds = {"channels_last": 2.0, "contiguous": 1.0}
        memory_format.step_seconds = (lambda *arguments: seconds) if processes.first else None
        return memory_format.with_memory_format(run.config, 3, processes).trainer.memory_format


def train_compiled(place: Path, *overrides: str) -> dict[str, Any]:
    """As train, with trainer.compile and a backend that runs PyTorch's own operations."""
    compilation.BACKEND = "aot_eager"
    return train(place, *overrides, "trainer.compile=true")


def evaluate(place: Path, model: str, counts: list[int]) -> list[dict[str, Any]]:
    """Detections and AP of a validation split, for each number of images in it.

    Of the first process's weights: the others' BatchNorm starts with other numbers.
    """
    results = []
    with joined() as processes:
        for count in counts:
            settings = ("trainer.eval_batch_size=8", f"data.shapes.val={count}", "model.score_threshold=0.01")
            run = built(place, processes, (f"evaluation_{processes.world_size}", model, *settings))
            for name, buffer in run.task.module.named_buffers():
                if name.endswith("running_var"):
                    buffer.mul_(0.5 * (1 + processes.rank))
            report = run.task.evaluate()
            found = {name: tensor.numpy() for name, tensor in vars(run.task._last_detections).items()}
            results.append({"report": report.as_dict(), "detections": found, "curves": run.task.curves()})
    return results


def command(place: Path, fault: str, *arguments: str) -> int | str | None:
    """python train.py ARGUMENTS in place/rank, with both streams in place/rank.txt. The exit status."""
    rank = os.environ["RANK"]
    (place / rank).mkdir(exist_ok=True)
    os.chdir(place / rank)
    output = os.open(place / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    PLANT[fault]()
    try:
        program("train", "detectors.commands.train.main")()
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


def lose_image(run: Run) -> None:
    """The next batch of a process cannot be loaded."""

    def raise_error(key, part, problems):
        raise ImageError("lost.jpg", "the image cannot be decoded", "undecodable")

    run.train_loader.dataset._part = raise_error


def stop_evaluation() -> None:
    """A signal to one process while it looks for objects."""
    original = detection.detect

    def detect(*arguments: Any, **keywords: Any):
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **keywords)

    detection.detect = detect


def hurry() -> None:
    """A process with an error does not wait for torchrun, which is not there."""
    launched.PATIENCE = 0


PLANT = {
    "hurry": hurry,
    "evaluation": stop_evaluation,
    "image": lambda: in_step(3, 1, lose_image),
    "none": lambda: None,
    "signal": lambda: in_step(3, 1, lambda run: os.kill(os.getpid(), signal.SIGTERM)),
    "death": lambda: in_step(3, 1, lambda run: os.kill(os.getpid(), signal.SIGKILL)),
    "fault": lambda: in_step(3, 1, lambda run: run.nothing),
    "nan": lambda: in_step(3, 1, spoil),
}
