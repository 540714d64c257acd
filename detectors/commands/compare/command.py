"""Compares evaluated runs in one table: detectors compare RUN RUN ... [--split test] [--output outputs/comparison]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from detectors.config.entry import verb

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


@verb
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="detectors compare", description="One table for several evaluated runs."
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="a run folder that evaluate.py has seen"
    )
    parser.add_argument("--split", default="val", help="which evaluation to compare (val)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/comparison"),
        help="written with .md and .json (outputs/comparison)",
    )
    asked = parser.parse_args(arguments)
    runs = [read_run(folder, asked.split) for folder in asked.runs]
    remarks = differences(runs)
    text = "\n\n".join(
        [run_table(runs), per_class_table(runs), *[f"Note: {remark}" for remark in remarks], LEGEND]
    )
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.with_suffix(".md").write_text(text + "\n")
    asked.output.with_suffix(".json").write_text(
        json.dumps({"runs": runs, "notes": remarks}, indent=1) + "\n"
    )
    print(f"{text}\n\nwritten: {asked.output.with_suffix('.md')}, {asked.output.with_suffix('.json')}")


LEGEND = (
    "AP (COCO) is the mean over IoU .50:.05:.95; the three AP50 differ in how they sum up the same curve. GFLOPs: 2 per multiply-add, "
    "convolutions only. Images/s as each run measured them itself: training with loading, inference with post-processing, without loading."
)


def read_run(folder: Path, split: str) -> dict:
    """summary.json and evaluation.json of a run as one record. FileNotFoundError that says which command writes what is missing."""
    suffix = "" if split == "val" else f"_{split}"
    summary = _read(folder / "summary.json", f"train.py writes it; is {folder} a run folder?")
    evaluation = _read(
        folder / f"evaluation{suffix}.json", f"write it with: python evaluate.py run={folder} split={split}"
    )
    height, width = summary["input_size"]
    training = {key: value for key, value in summary.items() if key not in ("validation", "input_size")}
    return {
        **training,
        **evaluation,
        "input": f"{width}x{height}",
        "device": summary["device"],
        "folder": str(folder),
    }


def _read(path: Path, fix: str) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file; {fix}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error}); {fix}") from error


def differences(runs: list[dict]) -> list[str]:
    """What makes the comparison unequal: one sentence for each setting in which the runs differ."""
    watched = {
        "data": "data sets",
        "split": "splits",
        "images": "numbers of evaluated images",
        "images_seen": "numbers of training images",
    }
    watched["device"] = "devices"
    found = []
    for key, words in watched.items():
        values = {run["name"]: run.get(key) for run in runs}
        if len(set(map(str, values.values()))) > 1:
            found.append(
                f"the runs differ in their {words}: "
                + ", ".join(f"{name} {value}" for name, value in values.items())
            )
    return found


def run_table(runs: list[dict]) -> str:
    rows = [[_cell(run.get(key), form) for _, key, form in COMPARED] for run in runs]
    return _markdown([title for title, _, _ in COMPARED], rows)


def per_class_table(runs: list[dict]) -> str:
    """AP50 (VOC10 area) of every class."""
    names = list(dict.fromkeys(name for run in runs for name in run["per_class"]))
    rows = [
        [name, *[_cell(run["per_class"].get(name, {}).get("AP50_voc10"), ".3f") for run in runs]]
        for name in names
    ]
    return _markdown(["AP50 (VOC10 area)", *[run["name"] for run in runs]], rows)


def _cell(value: object, form: str) -> str:
    return "-" if value is None else format(value, form)


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table whose columns are padded, so that it reads well as plain text too."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


if __name__ == "__main__":
    main()
