"""Darknet's learning rates (lr.json)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from detectors.commands.verify.comparison import (
    EXACT,
    Comparison,
    Fixture,
    Tolerance,
    compare_numbers,
    known_difference,
    merge,
)
from detectors.commands.verify.recordings import Folder, Settings
from detectors.config.schema import ScheduleConfig
from detectors.darknet.cfg import read_cfg
from detectors.darknet.sections import Net
from detectors.training.optim import rate_factor

RATES = Tolerance(relative=1e-6)  # float32 and powf
ROUNDING = 6e-8  # of a float32 near 1
UNSIGNED = (
    "Darknet compares steps=-1 as an unsigned number and never passes it; here it is passed from the start"
)


def rates(folder: Folder, name: Path) -> Iterator[Fixture]:
    """lr.json: for each cfg, batch number -> what get_current_rate returns."""
    for case, settings in folder.json(name).items():
        if not case.startswith("_"):
            yield Fixture(f"{name.stem}/{case}", partial(_rates, folder, name, case, settings))


def schedule_of(net: Net) -> ScheduleConfig:
    """The cfg's learning rate policy as a ScheduleConfig.

    Raises ValueError for a policy that the YOLOv2 family does not use.
    """
    names = {"constant": "constant", "steps": "step", "poly": "poly"}
    if net.policy not in names:
        raise ValueError(f"policy={net.policy}: known are {', '.join(names)}")
    return ScheduleConfig(
        names[net.policy],
        warmup_steps=net.burn_in,
        warmup_power=net.power,
        milestones=list(net.steps),
        factors=list(net.scales),
        power=net.power,
    )


def _rates(folder: Folder, name: Path, case: str, settings: Settings) -> Iterator[Comparison]:
    net = read_cfg(_cfg_path(folder, name, case, settings)).net
    forward_batch = net.batch // net.subdivisions  # what Darknet calls `batch` after reading the cfg
    yield compare_numbers(
        "batch and subdivisions",
        [forward_batch, net.subdivisions],
        [settings["batch"], settings["subdivisions"]],
        EXACT,
    )
    recorded = {int(batch): rate for batch, rate in settings["lr"].items()}
    ours = _rates_at(recorded, net, schedule_of(net))
    if min(net.steps, default=0) >= 0:
        comparisons = [
            compare_numbers(f"batch {batch}", ours[batch], rate, _rate_tolerance(net, batch))
            for batch, rate in recorded.items()
        ]
        yield merge(f"rates at {len(recorded)} batch numbers", comparisons)
    else:
        yield _rates_with_negative_step(net, ours, recorded)


def _rates_at(batches: Iterable[int], net: Net, schedule: ScheduleConfig) -> dict[int, float]:
    """Batch number -> learning rate."""
    return {batch: net.learning_rate * rate_factor(schedule, batch, net.max_batches) for batch in batches}


def _rates_with_negative_step(net: Net, ours: dict[int, float], recorded: dict[int, float]) -> Comparison:
    """Compares Darknet's rates with a schedule that ends before its negative step, see UNSIGNED."""
    first_negative = next(n for n, step in enumerate(net.steps) if step < 0)
    truncated = ScheduleConfig(
        "step",
        warmup_steps=net.burn_in,
        warmup_power=net.power,
        milestones=list(net.steps[:first_negative]),
        factors=list(net.scales[:first_negative]),
    )
    expected = _rates_at(recorded, net, truncated)
    differing = [
        f"{batch}: {ours[batch]:g}"
        for batch in recorded
        if not np.isclose(ours[batch], recorded[batch], rtol=1e-6)
    ]
    comparison = compare_numbers(
        f"rates at {len(recorded)} batch numbers, as in Darknet",
        list(expected.values()),
        list(recorded.values()),
        RATES,
    )
    return known_difference(comparison, f"{UNSIGNED} ({', '.join(differing)})")


def _cfg_path(folder: Folder, name: Path, case: str, settings: Settings) -> Path:
    """The cfg that the case names, or else the one named after the case in cfg-full/ or cfg/."""
    if "cfg" in settings:
        candidates = [settings["cfg"]]
    else:
        candidates = [f"cfg-full/{case}.cfg", f"cfg/{case}.cfg"]
    existing = [path for path in candidates if (folder.root / name.parent / path).is_file()]
    return folder.path(name.parent / (existing or candidates)[0])


def _rate_tolerance(net: Net, batch: int) -> Tolerance:
    """Darknet computes poly's 1 - batch / max_batches in float32, which loses digits near the end."""
    if net.policy != "poly" or batch < net.burn_in or batch == net.max_batches:
        return RATES
    return Tolerance(relative=RATES.relative + net.power * ROUNDING / abs(1 - batch / net.max_batches))
