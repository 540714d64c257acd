"""Compares evaluated runs: detectors compare RUN RUN ... [--split test] [--output FILE].

The folder of a multirun or a duel stands for the runs in it. Tables of the runs; and, from their saved
detections, intervals, differences and reasons for the detectors that they are runs of. It refuses comparisons
that are not fair.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from detectors.commands.compare.accuracy_sections import accuracy_sections, summary_lines
from detectors.commands.compare.analysis import ComparedDetector, analysed
from detectors.commands.compare.analysis_numbers import analysis_numbers
from detectors.commands.compare.anchor_shares import anchor_shares
from detectors.commands.compare.comparison_events import write_comparison_events
from detectors.commands.compare.comparison_page import comparison_page
from detectors.commands.compare.cost_sections import cost_sections
from detectors.commands.compare.disagreement import disagreement_pictures
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
from detectors.commands.compare.measured_speed import measured_speeds
from detectors.commands.compare.options import options
from detectors.commands.compare.report_sections import markdown_of
from detectors.commands.compare.run_names import distinctly_named, read_settings
from detectors.commands.compare.run_places import file_of, run_folder_of, with_runs_of_folders
from detectors.commands.compare.run_sections import run_sections
from detectors.config.composing import output_folder
from detectors.config.entry import verb
from detectors.data.files import write_json, write_text
from detectors.training.assemble import choose_device
from detectors.training.run_files import SUMMARY, SUMMARY_FIELDS, read_evaluation, read_summary

# Keys in which compared runs should agree, and what the note calls them.
WATCHED = {
    "images": "numbers of evaluated images",
    "images_seen": "numbers of training images",
    "device": "devices",
}


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
    files = [file_of(place, args.split) for place in places]
    detectors, missing = grouped_by_seed(runs, settings, files)
    numbers, lacking = measured_numbers(detectors, args)
    pictures, unseen = disagreement_pictures(detectors, numbers["disagreement"]) if detectors else ([], [])
    notes = [
        *(f"UNFAIR: {reason}" for reason in reasons),
        *budget_notes(runs, args.budget),
        *unknown_notes(runs),
        *differences(runs),
        *missing,
        *lacking,
        *unseen,
        *left_out,
    ]
    runs = with_truths(runs)
    sections = run_sections(runs)
    if detectors:
        sections = [*accuracy_sections(numbers), *cost_sections(numbers), *sections]
    summary = summary_lines(numbers)
    text = "\n\n".join(
        [
            *unfair_text(reasons),
            *(f"- {line}" for line in summary),
            *markdown_of(sections),
            *(f"Note: {note}" for note in notes),
        ]
    )
    output = args.output or output_folder() / "comparison"
    if output.suffix in (".md", ".json", ".html"):
        output = output.with_suffix("")
    markdown, stored, page = (Path(f"{output}.{kind}") for kind in ("md", "json", "html"))
    html = comparison_page(
        sections,
        names=[detector.name for detector in detectors] or [run["name"] for run in runs],
        summary=summary,
        pictures=pictures,
        unfair=reasons,
        notes=notes,
        command=["detectors", "compare", *(sys.argv[1:] if arguments is None else arguments)],
    )
    write_text(markdown, text + "\n")
    content = {"unfair": reasons, "runs": runs, "notes": notes, **numbers}
    write_json(stored, content)
    write_text(page, html)
    events = Path(f"{output}_tensorboard")
    write_comparison_events(events, content)
    print(f"{text}\n\nin TensorBoard: tensorboard --logdir {shlex.quote(str(events))}")
    print(f"written: {markdown}, {stored}, {page}")


def measured_numbers(
    detectors: list[ComparedDetector], args: argparse.Namespace
) -> tuple[dict[str, Any], list[str]]:
    """All numbers of comparison.json about detectors, and notes about what could not be measured."""
    if not detectors:
        return analysis_numbers([], []), []
    device = choose_device(args.device)  # refuses a wrong one before the work
    pairs = analysed(detectors, resamples=args.resamples)
    anchors, notes = anchor_shares(detectors)
    speeds, conditions = {}, None
    if args.speed:
        speeds, conditions, more = measured_speeds(
            detectors,
            device,
            batch=args.batch,
            seconds=args.speed_seconds,
            threads=args.threads,
        )
        notes += more
    return analysis_numbers(detectors, pairs, anchors=anchors, speeds=speeds, conditions=conditions), notes


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


if __name__ == "__main__":
    main()
