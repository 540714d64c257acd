"""From the command line to the answer, in new processes: detectors benchmark startup [--repeats 5]

CPU time of the processes, beside one that imports torch and nothing else. A first start after a boot takes
longer, because the disk is read.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from detectors.commands.benchmark.ratio_table import RatioRow, rows_of
from detectors.commands.benchmark.subject_options import prepared_device, publish, subject_parser
from detectors.config.schema import HOME, INSTALLED
from detectors.training.interleaving import Contender, interleaved, stopwatch_of_children

BESIDE = "import torch"
SCRIPT = ["-m", "detectors", "train"] if INSTALLED else [str(HOME / "train.py")]
# name -> (arguments of Python, exit status)
COMMANDS = {
    "train.py --help": ([*SCRIPT, "--help"], 0),
    "train.py --cfg job": ([*SCRIPT, "--cfg", "job"], 0),
    "train.py trainer.stpes=3": ([*SCRIPT, "trainer.stpes=3"], 2),  # a misspelt setting
    "detectors --help": (["-m", "detectors", "--help"], 0),
    "import detectors": (["-c", "import detectors"], 0),
    BESIDE: (["-c", "import torch"], 0),
}


def main(arguments: list[str]) -> None:
    parser = subject_parser("startup", "CPU time of new processes, beside `import torch`.", repeats=5)
    args = parser.parse_args(arguments)
    device = prepared_device(args)
    publish("startup", startup_rows(args.repeats), args, device, stopwatch_of_children())


def startup_rows(rounds: int) -> list[RatioRow]:
    contenders = [Contender(name, {"": process(*command)}) for name, command in COMMANDS.items()]
    timings = interleaved(contenders, stopwatch_of_children(), rounds=rounds)
    ours = [name for name in COMMANDS if name != BESIDE]
    pairs = [rows_of(name, {"ours": timings[name], BESIDE: timings[BESIDE]}) for name in ours]
    return [row for pair in pairs for row in pair]


def process(arguments: list[str], status: int) -> Callable[[], None]:
    """A function that runs Python and waits for it. RuntimeError if it ends with another status."""

    def run() -> None:
        command = [sys.executable, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != status:
            ended = f"ended with status {result.returncode}, not {status}: {result.stderr}"
            raise RuntimeError(f"{' '.join(command)} {ended}")

    return run
