"""Which of several processes this one is, as torchrun says it in the environment."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import NamedTuple

# Seconds that a process with an error waits for torchrun, which ends all when the first one has ended.
PATIENCE = 30


class Launched(NamedTuple):
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among those of this machine


def launched() -> Launched:
    """This process's numbers; those of a single process without torchrun."""
    names = [name.upper() for name in Launched._fields]
    if not all(os.environ.get(name, "").isdecimal() for name in names):
        return Launched()
    return Launched(*(int(os.environ[name]) for name in names))


def overrides_of_rank(program: str, arguments: Sequence[str]) -> list[str]:
    """What Hydra has to know: processes other than the first one leave no folder, no .hydra and no log.

    ValueError for what runs as one process: a program other than train, a multirun.
    """
    rank, world_size, _ = launched()
    if world_size > 1 and program != "train":
        raise ValueError(
            f"{program}.py is one process, and torchrun started {world_size}; start it with python instead"
        )
    if world_size > 1 and {"-m", "--multirun"} & set(arguments):
        raise ValueError("-m: torchrun starts the processes of one run; start it again for each run")
    return ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=silent"] if rank else []


def leave_the_word_to_the_first() -> None:
    """Waits to be ended, unless this is the first process: that one has the same settings and error."""
    if launched().rank:
        time.sleep(PATIENCE)
        raise SystemExit(2)
