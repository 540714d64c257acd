"""What makes a comparison unfair: other ground truth, post-processing, input handling or budget.

The checks look at what was measured, as evaluate.py recorded it, not at names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BUDGETS = {"images": "images seen", "seconds": "training seconds", "flops": "FLOPs"}  # --budget -> its name
BUDGET_SLACK = 0.02  # relative difference up to which two budgets are equal
# One post-processing for all, Caffe's: scores from .01, the best 400 of a class and 200 of an image.
PROTOCOL_SETTINGS = (
    "score_threshold=0.01",
    "nms_iou=0.45",
    "nms=hard",
    "candidates_per_class=400",
    "max_detections=200",
)
# Key of an evaluation's `protocol` -> what a message calls it, and how to make it equal.
EVALUATE_ALIKE = f"evaluate them alike: python evaluate.py run=RUN {' '.join(PROTOCOL_SETTINGS)}"
COMPARED_PROTOCOL = {
    "score_threshold": ("score_threshold (the lowest score that counts)", EVALUATE_ALIKE),
    "nms_iou": ("nms_iou", EVALUATE_ALIKE),
    "nms": ("nms (the rule of suppression)", EVALUATE_ALIKE),
    "candidates_per_class": ("candidates_per_class", EVALUATE_ALIKE),
    "max_detections": ("max_detections", EVALUATE_ALIKE),
    "resize": ("input.resize", "train them alike"),
}
UNRECORDED = {"nms": "hard"}  # what evaluations of older versions are taken to have


def unfair(runs: Sequence[dict[str, Any]], budget: str | None = None) -> list[str]:
    """One sentence for each reason why the runs' numbers cannot be compared, with its fix; none: fair.

    budget: which of BUDGETS must be equal; None: any of them.
    """
    return [*_other_truths(runs), *_other_protocols(runs), *_other_budgets(runs, budget)]


def _other_truths(runs: Sequence[dict[str, Any]]) -> list[str]:
    if not other_truths(runs):
        return []
    values = ", ".join(f"{run['name']} {truths(run)}" for run in runs)
    return [f"the runs were evaluated on different ground truth, so their AP cannot be compared: {values}"]


def other_truths(runs: Sequence[dict[str, Any]]) -> bool:
    """Whether two of the runs are known to be evaluated on different ground truth."""
    return len({run["truths_hash"] for run in runs if "truths_hash" in run}) > 1


def truths(run: dict[str, Any]) -> str:
    """The ground truth of an evaluation, for a message."""
    return f"{run['data']} {run['split']} {run.get('truths_hash', 'unknown')[:8]}"


def _other_protocols(runs: Sequence[dict[str, Any]]) -> list[str]:
    known = [run for run in runs if "protocol" in run]
    reasons = []
    for key, (words, fix) in COMPARED_PROTOCOL.items():
        values = {run["name"]: run["protocol"].get(key, UNRECORDED.get(key)) for run in known}
        if len(set(map(str, values.values()))) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            reasons.append(f"the runs differ in {words}: {listed}; {fix}")
    return reasons


def has_training(run: dict[str, Any]) -> bool:
    """Whether the run's training is known; that of another program's detections is not."""
    return run.get("images_seen") is not None


def training_costs(run: dict[str, Any]) -> dict[str, float]:
    """What a training has cost, by name."""
    return {
        "images seen": run["images_seen"],
        "training seconds": run["train_seconds"],
        "FLOPs": run["images_seen"] * run["gflops"],
    }


def equal_budgets(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The budgets in which all runs are equal, within BUDGET_SLACK."""
    costs = [training_costs(run) for run in runs]
    return [name for name in costs[0] if _close([cost[name] for cost in costs])]


def _close(values: Sequence[float]) -> bool:
    return max(values) - min(values) <= BUDGET_SLACK * max(values)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _other_budgets(runs: Sequence[dict[str, Any]], budget: str | None) -> list[str]:
    runs = [run for run in runs if has_training(run)]
    equal = equal_budgets(runs) if runs else list(BUDGETS.values())
    if equal if budget is None else BUDGETS[budget] in equal:
        return []
    shown = BUDGETS[budget or "images"]
    values = ", ".join(f"{run['name']} {_amount(training_costs(run)[shown])}" for run in runs)
    if budget is not None:
        return [f"the runs were trained on different budgets in {shown}: {values}"]
    return [
        f"the runs were trained on different budgets, whether in images seen ({values}), training seconds or "
        "FLOPs; train them with equal trainer.steps times trainer.batch_size"
    ]
