"""Several processes that train one model, one on each device: torchrun starts them. docs/scaling.md.

One process is the same code: its Processes has a world_size of 1, and no process group is needed.
Small messages between the hosts go through Gloo, so that none of them waits for a device.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from time import sleep
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from detectors.config.entry import USER_ERRORS, message
from detectors.config.launched import launched
from detectors.config.schema import TrainerConfig
from detectors.data.loading import BatchLoader
from detectors.models.detector import Detector

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(minutes=30)  # how long a process waits for another one
FAREWELL = 0.2  # seconds
LAST_WORDS = timedelta(seconds=10)  # how long an error waits for the first process to end and report
LOST = (
    "another process of this run has ended, or its connection is lost; what it said is above, or in "
    "torchrun's own report below"
)


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them. Each method that speaks of all must be called by all."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine

    def own_device(self, device: torch.device) -> torch.device:
        """This process's device of that type. ValueError if a number is given, or is not there."""
        if self.world_size == 1 or device.type != "cuda":
            return device
        if device.index is not None:
            raise ValueError(
                f"device={device}: {self.world_size} processes take one GPU each; set trainer.device=cuda"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"process {self.rank} of {self.world_size} has no GPU: PyTorch sees "
                f"{torch.cuda.device_count()} here; start fewer with torchrun --nproc-per-node, or set "
                "trainer.device=cpu"
            )
        return torch.device("cuda", self.local_rank)

    def where(self, device: torch.device) -> str:
        """'cuda:0', or '2 processes, this one on cuda:0'."""
        return str(device) if self.world_size == 1 else f"{self.world_size} processes, this one on {device}"

    @property
    def first(self) -> bool:
        """Whether this process writes files, logs and shows progress; the others do neither."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Whether it is true for one of the processes. Hosts wait for each other, not for their devices."""
        if self.world_size == 1:
            return value
        flag = torch.tensor(int(value))
        with _connected():
            distributed.all_reduce(flag)
        return flag.item() > 0

    def gathered(self, value: Value) -> list[Value]:
        """The values of all processes, by rank. They are pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with _connected():
            distributed.all_gather_object(values, value)
        return values

    def of_first(self, value: Value) -> Value:
        """The first process's value, pickled."""
        if self.world_size == 1:
            return value
        values = [value]
        with _connected():
            distributed.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes. No host waits for its device."""
        return values if self.world_size == 1 else mean_over_processes(values)

    def means(self, numbers: Mapping[str, float]) -> Mapping[str, float]:
        """The mean of each number over those processes in which it is not NaN."""
        if self.world_size == 1:
            return numbers
        values = torch.tensor(list(numbers.values()), dtype=torch.float64)
        known = ~values.isnan()
        sums = torch.stack([torch.where(known, values, 0), known.to(values.dtype)])
        with _connected():
            distributed.all_reduce(sums)
        return dict(zip(numbers, (sums[0] / sums[1]).tolist(), strict=True))

    def copy_from_first(self, module: nn.Module) -> None:
        """Gives the module the parameters and buffers that it has in the first process.

        They differ in the statistics of BatchNorm alone, which each process takes from its own images.
        """
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                distributed.broadcast(tensor.detach(), src=0)

    def share_problems(self, loader: BatchLoader) -> None:
        """Lets all processes know each image that could not be used so far; the first one logs new ones."""
        if self.world_size > 1:
            for problems in self.gathered(list(loader.problems.values())):
                loader.note(problems)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes leave alike: an error or a request to stop in one of them ends all.

        Raises KeyboardInterrupt if some were stopped and the others well. An error of another process is
        raised as one with its message.
        """
        if self.world_size == 1:
            yield
            return
        failure = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            failure = error
        if self.any(failure is not None):
            self._raise_alike(failure)

    def _raise_alike(self, failure: BaseException | None) -> None:
        failures = self.gathered(None if failure is None else _described(failure))
        if failure is not None and not isinstance(failure, KeyboardInterrupt):
            raise failure
        errors = [(rank, text) for rank, text in enumerate(failures) if text]
        if not errors:
            raise KeyboardInterrupt
        rank, text = errors[0]
        raise ChildProcessError(f"{_name(rank, self.world_size)}: {text}")


ALONE = Processes()


def mean_over_processes(values: Tensor) -> Tensor:
    """Processes.mean as a function, for a loss that is copied and compiled."""
    total = values.detach().clone()
    distributed.all_reduce(total)
    return total / distributed.get_world_size()


def parallel(module: nn.Module, processes: Processes) -> nn.Module:
    """The module whose backward pass averages gradients over the processes; for one process, itself."""
    if processes.world_size == 1:
        return module
    # Every parameter has a gradient in every step, also without boxes. Buffers are copied for evaluations.
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """Forward and backward passes in which gradients add up in each process, and are not averaged yet."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def shared_detector(detector: Detector, trainer: TrainerConfig, processes: Processes) -> Detector:
    """A new detector, made ready for a batch that several processes share; for one process, itself.

    Its loss divides by the counts that trainer.loss_normalizer names, and counts the images of all processes.
    With trainer.sync_batch_norm, BatchNorm takes its statistics over the images of all; ValueError on a CPU,
    for which PyTorch has none.
    """
    if processes.world_size == 1:
        return detector
    detector.loss.processes = processes.world_size
    if trainer.loss_normalizer == "global":
        detector.loss.average = mean_over_processes
    if not trainer.sync_batch_norm:
        return detector
    if detector.pixel_mean.device.type == "cpu":
        raise ValueError("trainer.sync_batch_norm=true: PyTorch has it on GPUs only; leave it out on a CPU")
    return nn.SyncBatchNorm.convert_sync_batchnorm(detector)


@contextmanager
def joined() -> Iterator[Processes]:
    """Joins the processes that torchrun started, and leaves them at the end.

    Errors: the first process raises its own. Any other process lets it report, or reports itself if the
    first one is not about to end, and leaves with SystemExit.
    """
    rank, world_size, local_rank = launched()
    processes = Processes(rank, world_size, local_rank)
    if world_size == 1:
        yield processes
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=LONGEST_WAIT)
    if processes.first:
        yield processes
    else:
        with _others_leave_the_word_to_the_first(processes):
            yield processes
    # Once in a while a process hung here on a loaded machine: the group's destructor, which holds Python's
    # lock, waited for a lock of Gloo's threads. It seems that they need Python's lock to drop their last
    # message; while this thread sleeps, they get it.
    sleep(FAREWELL)
    distributed.destroy_process_group()


@contextmanager
def _others_leave_the_word_to_the_first(processes: Processes) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except SystemExit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        stopped = isinstance(error, KeyboardInterrupt)
        if not _first_has_ended() and not stopped:
            print(
                f"error: {_name(processes.rank, processes.world_size)}: {_described(error)}", file=sys.stderr
            )
        raise SystemExit(130 if stopped else 2) from error


def _first_has_ended() -> bool:
    """Waits up to LAST_WORDS for the first process to end, which closes its connection."""
    try:
        distributed.irecv(torch.zeros(1), src=0).wait(LAST_WORDS)
    except RuntimeError as error:
        return "imed out" not in str(error)
    return True


@contextmanager
def _connected() -> Iterator[None]:
    """ConnectionError in place of what Gloo raises if another process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(f"{LOST} ({str(error).strip().splitlines()[-1]})") from error


def _described(error: BaseException) -> str:
    """What an error's process has to say to the others; "" for a request to stop."""
    if isinstance(error, KeyboardInterrupt):
        return ""
    if isinstance(error, USER_ERRORS):
        return message(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _name(rank: int, world_size: int) -> str:
    return f"process {rank} of {world_size}"
