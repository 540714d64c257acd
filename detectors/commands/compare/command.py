"""Compares evaluated runs in one table: detectors compare RUN RUN ... [--split test] [--output FILE]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from detectors.config.entry import verb
from detectors.data.files import write_json, write_text
from detectors.tables import cell, markdown_table

# Title of the column, key in comparison.json, and how a number is written.
COMPARED = (
    ("run", "name", "s"),
    ("model", "model", "s"),
    ("AP (COCO)", "AP", ".3f"),
    ("AP50 (COCO)", "AP50", ".3f"),
    ("AP50 (VOC07 11-point)", "AP50_voc07", ".3f"),
    ("AP50 (VOC10 area)", "AP50_voc10", ".3f"),
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
    "data": "data sets",
    "split": "splits",
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
    args = _arguments(arguments)
    runs = distinctly_named([read_run(folder, args.split) for folder in args.runs])
    notes = differences(runs)
    text = "\n\n".join([run_table(runs), per_class_table(runs), *[f"Note: {note}" for note in notes], LEGEND])
    markdown = args.output.with_suffix(".md")
    numbers = args.output.with_suffix(".json")
    write_text(markdown, text + "\n")
    write_json(numbers, {"runs": runs, "notes": notes})
    print(f"{text}\n\nwritten: {markdown}, {numbers}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors compare", description="One table for several evaluated runs."
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="a run folder that evaluate.py has seen")
    add("--split", default="val", help="which evaluation to compare (val)")
    add(
        "--output",
        type=Path,
        default=Path("outputs/comparison"),
        help="for .md and .json (outputs/comparison)",
    )
    return parser.parse_intermixed_args(arguments)


def read_run(folder: Path, split: str) -> dict:
    """summary.json and evaluation.json of a run as one record.

    FileNotFoundError or ValueError says which command writes the file that is missing or damaged.
    """
    suffix = "" if split == "val" else f"_{split}"
    summary = _read_json(folder / "summary.json", f"train.py writes it; is {folder} a run folder?")
    fix = f"write it with: python evaluate.py run={folder} split={split}"
    evaluation = _read_json(folder / f"evaluation{suffix}.json", fix)
    height, width = summary["input_size"]
    training = {key: value for key, value in summary.items() if key not in ("validation", "input_size")}
    return {
        **training,
        **evaluation,
        "input": f"{width}x{height}",
        "device": summary["device"],
        "folder": str(folder),
    }


def distinctly_named(runs: list[dict]) -> list[dict]:
    """Runs of one recipe share a name: adds the last parts of their folders that tell them apart."""
    names = [run["name"] for run in runs]
    named = []
    for run in runs:
        twins = [other for other in runs if other["name"] == run["name"]]
        parts = Path(run["folder"]).parts
        depth = next((n for n in range(1, len(parts) + 1) if _tails(twins, n) == len(twins)), len(parts))
        suffix = f" ({'/'.join(parts[-depth:])})" if names.count(run["name"]) > 1 else ""
        named.append(run | {"name": run["name"] + suffix})
    return named


def _tails(runs: list[dict], depth: int) -> int:
    """How many different endings of `depth` parts the folders have."""
    return len({Path(run["folder"]).parts[-depth:] for run in runs})


def _read_json(path: Path, fix: str) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; {fix}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error}); {fix}") from error


def differences(runs: list[dict]) -> list[str]:
    """What makes the comparison unequal: one sentence for each watched key in which the runs differ."""
    notes = []
    for key, title in WATCHED.items():
        if len({str(run.get(key)) for run in runs}) > 1:
            values = ", ".join(f"{run['name']} {run.get(key)}" for run in runs)
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
    return markdown_table(["AP50 (VOC10 area)", *[run["name"] for run in runs]], rows)


if __name__ == "__main__":
    main()
