"""Compares evaluated runs: detectors compare RUN RUN ... [--split test] [--output FILE].

The folder of a multirun or a duel stands for the runs in it. Tables of the runs; and, from their saved
detections, intervals, differences and reasons for the detectors that they are runs of. It refuses comparisons
that are not fair.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from detectors.commands.compare.analysis import TITLES, analysed
from detectors.commands.compare.analysis_text import analysis_numbers, analysis_text
from detectors.commands.compare.comparison_events import write_comparison_events
from detectors.commands.compare.comparison_page import comparison_page
from detectors.commands.compare.fairness import (
    BUDGET_SLACK,
    BUDGETS,
    equal_budgets,
    has_training,
    other_truths,
    truths,
    unfair,
)
from detectors.commands.compare.groups import grouped_by_seed
from detectors.commands.compare.options import options
from detectors.commands.compare.run_names import distinctly_named, read_settings
from detectors.commands.compare.run_places import file_of, run_folder_of, with_runs_of_folders
from detectors.config.entry import verb
from detectors.config.schema import output_folder
from detectors.data.files import write_json, write_text
from detectors.tables import cell, markdown_table
from detectors.training.run_files import SUMMARY, SUMMARY_FIELDS, read_evaluation, read_summary

# Title of the column, key in comparison.json, and how a number is written.
COMPARED = (
    ("run", "name", "s"),
    ("model", "model", "s"),
    *((TITLES[key], key, ".3f") for key in ("AP", "AP50", "AP50_voc07", "AP50_voc10")),
    ("input", "input", "s"),
    ("parameters", "parameters", ",d"),
    ("GFLOPs", "gflops", ".2f"),
    ("training images/s", "train_images_per_second", ".1f"),
    ("inference images/s", "inference_images_per_second", ".1f"),
    ("steps", "steps", ",d"),
    ("images seen", "images_seen", ",d"),
    ("training s", "train_seconds", ".0f"),
    ("device", "device", "s"),
)
# Keys in which compared runs should agree, and what the note calls them.
WATCHED = {
    "images": "numbers of evaluated images",
    "images_seen": "numbers of training images",
    "device": "devices",
}
LEGEND = (
    "AP (COCO) is the mean over IoU .50:.05:.95; the three AP50 differ in how they sum up the same curve. "
    "GFLOPs: 2 per multiply-add, convolutions only. Images/s as each run measured them itself: training with "
    "loading, inference with post-processing, without loading."
)


@verb
def main(arguments: list[str] | None = None) -> None:
    args = options(arguments)
    places, left_out = with_runs_of_folders(args.runs, args.split)
    runs = [read_run(place, args.split) for place in places]
    settings = [read_settings(run_folder_of(place)) for place in places]
    runs = distinctly_named(runs, settings)
    reasons = unfair(runs, args.budget)
    if reasons and not args.unfair_ok:
        listed = "\n  ".join(["this comparison would not be fair:", *reasons])
        raise ValueError(f"{listed}\n--unfair-ok compares them all the same, and says so")
    detectors, missing = grouped_by_seed(runs, settings, [file_of(place, args.split) for place in places])
    pairs = analysed(detectors, resamples=args.resamples) if detectors else []
    notes = [
        *(f"UNFAIR: {reason}" for reason in reasons),
        *budget_notes(runs, args.budget),
        *unknown_notes(runs),
        *differences(runs),
        *missing,
        *left_out,
    ]
    runs = with_truths(runs)
    parts = [*unfair_text(reasons), run_table(runs), per_class_table(runs), *analysis_text(detectors, pairs)]
    text = "\n\n".join([*parts, *(f"Note: {note}" for note in notes), LEGEND])
    output = args.output or output_folder() / "comparison"
    if output.suffix in (".md", ".json", ".html"):
        output = output.with_suffix("")
    markdown, numbers, page = (Path(f"{output}.{kind}") for kind in ("md", "json", "html"))
    write_text(markdown, text + "\n")
    content = {"unfair": reasons, "runs": runs, "notes": notes, **analysis_numbers(detectors, pairs)}
    write_json(numbers, content)
    events = Path(f"{output}_tensorboard")
    write_comparison_events(events, content)
    typed = ["detectors", "compare", *(sys.argv[1:] if arguments is None else arguments)]
    write_text(
        page,
        comparison_page(runs, COMPARED, detectors, pairs, unfair=reasons, notes=notes, command=typed),
    )
    print(f"{text}\n\nin TensorBoard: tensorboard --logdir {shlex.quote(str(events))}")
    print(f"written: {markdown}, {numbers}, {page}")


def read_run(place: Path, split: str) -> dict:
    """summary.json and an evaluation of a run as one record.

    place: a run folder, or an evaluation file in one. An evaluation without a summary.json, as of another
    program's detections, has None for what only a summary knows. FileNotFoundError or ValueError says which
    command writes the file that is missing or damaged.
    """
    folder = run_folder_of(place)
    file = file_of(place, split)
    fix = f"write it with: python evaluate.py run={folder} split={split}"
    if not file.exists() and (others := sorted(path.name for path in folder.glob("evaluation*.json"))):
        fix += f"; or give one that is there: {', '.join(others)}"
    if not (folder / SUMMARY).exists() and any(folder.glob("evaluation*.json")):
        evaluation = read_evaluation(file, fix)
        name = evaluation.get("name") or Path(str(evaluation.get("checkpoint", folder.name))).stem
        return {**dict.fromkeys(SUMMARY_FIELDS), **evaluation, "name": str(name), "folder": str(place)}
    summary = read_summary(folder / SUMMARY, f"train.py writes it; is {folder} a run folder?")
    evaluation = read_evaluation(file, fix)
    height, width = summary["input_size"]
    training = {
        key: value for key, value in summary.items() if key not in ("validation", "best", "input_size")
    }
    return {
        **training,
        **evaluation,
        "input": f"{width}x{height}",
        "device": summary["device"],
        "folder": str(place),
    }


def unfair_text(reasons: list[str]) -> list[str]:
    """What stands first in an unfair comparison; nothing for a fair one."""
    return (
        ["\n".join(["**This comparison is not fair.**", "", *(f"- {it}" for it in reasons)])]
        if reasons
        else []
    )


def budget_notes(runs: list[dict], budget: str | None) -> list[str]:
    """Which budgets all runs share and were to share, or whose training is not known."""
    if unknown := [run["name"] for run in runs if not has_training(run)]:
        return [f"no {SUMMARY}, so that the budget cannot be checked: {', '.join(unknown)}"]
    if len(runs) == 1:
        return []
    stated = [f"the budget that was to be equal: {BUDGETS[budget]}"] if budget else []
    equal = equal_budgets(runs)
    return [*stated, *([f"equal budgets, within {BUDGET_SLACK:.0%}: {', '.join(equal)}"] if equal else [])]


def unknown_notes(runs: list[dict]) -> list[str]:
    """Notes about what older versions of evaluate.py and other programs did not record."""
    notes = []
    if unknown := [run["name"] for run in runs if "truths_hash" not in run]:
        notes.append(
            "evaluated by an older version, which did not record the ground truth, so that it may differ: "
            f"{', '.join(unknown)}; evaluate again to be sure"
        )
    if unknown := [run["name"] for run in runs if "truths_hash" in run and "protocol" not in run]:
        notes.append(f"the post-processing is not known, so that it may differ: {', '.join(unknown)}")
    return notes


def with_truths(runs: list[dict]) -> list[dict]:
    """The runs, named with their ground truth where that differs."""
    if not other_truths(runs):
        return runs
    return [run | {"name": f"{run['name']} on {truths(run)}"} for run in runs]


def differences(runs: list[dict]) -> list[str]:
    """What makes the comparison unequal: one sentence for each watched key in which the runs differ."""
    notes = []
    for key, title in WATCHED.items():
        known = [run for run in runs if run.get(key) is not None]
        if len({str(run[key]) for run in known}) > 1:
            values = ", ".join(f"{run['name']} {run[key]}" for run in known)
            notes.append(f"the runs differ in their {title}: {values}")
    return notes


def run_table(runs: list[dict]) -> str:
    """One row for each run."""
    rows = [[cell(run.get(key), form) for _, key, form in COMPARED] for run in runs]
    return markdown_table([title for title, _, _ in COMPARED], rows)


def per_class_table(runs: list[dict]) -> str:
    """AP50 (VOC10 area) of every class."""
    names = list(dict.fromkeys(name for run in runs for name in run["per_class"]))
    rows = [
        [name, *[cell(run["per_class"].get(name, {}).get("AP50_voc10"), ".3f") for run in runs]]
        for name in names
    ]
    return markdown_table([TITLES["AP50_voc10"], *[run["name"] for run in runs]], rows)


if __name__ == "__main__":
    main()
