"""Finds a learning rate: detectors find-rate [--steps 100] [model=ssd160 data=bccd ...]

Trains on the run's own data while the rate rises from a ten-thousandth of optimizer.rate to a hundred times
it, and prints where the loss falls fastest. The model is not kept. Writes NAME.csv and NAME.png.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm import tqdm

from detectors.commands.find_rate.options import options
from detectors.commands.find_rate.rate_plot import plot_range
from detectors.commands.find_rate.rate_range import RateRange, ramp, range_test
from detectors.config.check import check
from detectors.config.composing import composed, output_folder
from detectors.config.entry import verb
from detectors.config.schema import Config
from detectors.data.files import atomic_file, write_text
from detectors.kernels.dispatch import set_kernels
from detectors.tables import text_table
from detectors.training import assemble, ground_truth
from detectors.training.initial.initial_weights import initial_weights, initialise
from detectors.training.memory_format import with_memory_format
from detectors.training.run_log import shows_bar
from detectors.training.trial import TrialTraining

TABLE_ROWS = 15  # of the table


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    config = check(composed(args.overrides))
    if config.trainer.resume:
        raise ValueError("find-rate starts a training; init.from=... starts it from a run's weights")
    if config.trainer.threads:
        torch.set_num_threads(config.trainer.threads)
    set_kernels(config.trainer.kernels)
    config.trainer.steps = args.steps
    rate = config.optimizer["rate"]
    rates = tqdm(
        ramp(rate, args.steps), disable=not shows_bar(config.trainer.progress), unit="step", leave=False
    )
    result = range_test(training_step(config), rates)
    print("\n".join(range_lines(result, rate)))
    place = (args.output or output_folder() / "find_rate") / config.name
    files = [place.with_name(f"{place.name}{suffix}") for suffix in (".csv", ".png")]
    write_text(files[0], as_csv(result))
    with atomic_file(files[1]) as file:
        plot_range(file, result, title=f"{config.name} on {config.data.name}", rate=rate)
    print(f"written: {', '.join(map(str, files))}")


def training_step(config: Config) -> Callable[[float], float]:
    """A new training of config: a function that takes its next step at a rate and returns the loss."""
    trainer = config.trainer
    device = assemble.choose_device(trainer.device)
    annotations = ground_truth.read_annotations(config.data, "train")
    num_classes = len(annotations.class_names)
    training = TrialTraining(with_memory_format(config, num_classes), num_classes, device)
    origin = initial_weights(config.init.from_)
    if lines := initialise(training.detector, origin, config, annotations.class_names):
        print(*lines, sep="\n")
    batches = iter(assemble.train_loader(config, annotations, start_step=0))

    def step(rate: float) -> float:
        fetched = [next(batches).to(device, non_blocking=True) for _ in range(trainer.accumulate)]
        return training.step(fetched, rate).item()

    return step


def range_lines(result: RateRange, rate: float) -> list[str]:
    """A table of some of the steps, and what follows from all of them. rate: optimizer.rate."""
    rows = list(zip(result.rates, result.losses, result.smoothed.tolist(), strict=True))
    cells = [[f"{value:.3g}" for value in row] for row in rows[:: max(1, len(rows) // TABLE_ROWS)]]
    table = text_table(("rate", "loss", "smoothed"), cells, left=())
    lines = [*table, f"{len(rows)} steps; {result.end}"]
    if result.suggestion is None:
        return [*lines, "no suggestion: the loss does not fall; try other settings, or more --steps"]
    lowest = f"it is lowest at {result.lowest:.2g}, and the setting is {rate:.2g}"
    return [
        *lines,
        f"suggestion: optimizer.rate={result.suggestion:.2g}, where the loss falls fastest; {lowest}",
    ]


def as_csv(result: RateRange) -> str:
    rows = zip(result.rates, result.losses, result.smoothed.tolist(), strict=True)
    return "rate,loss,smoothed\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)


if __name__ == "__main__":
    main()
