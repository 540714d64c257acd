"""Examines a data set, image by image and box by box: detectors lint data=bccd [--html page.html] [--json all.json].

What trains well is found out here in minutes instead of there in days. Ends with status 1 if there are errors, 0 with warnings only.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from detectors.commands.lint.box_findings import box_findings
from detectors.commands.lint.findings import Finding, Split
from detectors.commands.lint.image_checks import Facts, cores, image_findings, inspect_all
from detectors.commands.lint.lint_report import LintReport, as_json, text
from detectors.commands.lint.page import page
from detectors.commands.lint.split_checks import class_findings, same_images
from detectors.commands.lint.statistics import statistics
from detectors.config.check import check
from detectors.config.entry import verb
from detectors.config.schema import Config, DataConfig, composed
from detectors.training import assemble


@verb
def main(arguments: list[str] | None = None) -> None:
    asked = _arguments(arguments)
    config = check(composed(asked.overrides))
    splits, same_lists = read_splits(config.data, asked.splits)
    facts = inspect_all([path for split in splits for path in split.annotations.paths], asked.workers)
    report = examine(config, splits, facts, same_lists)
    if asked.json:
        _write(asked.json, json.dumps(as_json(report), indent=1) + "\n")
    if asked.html:
        _write(asked.html, page(report, splits, asked.examples))
    print(text(report))
    if report.errors:
        raise SystemExit(1)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="detectors lint",
        description="Decodes every image and checks every box of a data set; tells what is wrong and what the set is like.",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="as for train.py: data=voc07, data.root=..., input.size=...",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=assemble.SPLITS, help="which splits (all that the data set has)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all findings and statistics, for programs")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the report as a page, with drawn examples")
    parser.add_argument("--examples", type=int, default=6, help="drawn examples of each kind of finding (6)")
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        help="processes that decode images; 0 uses this one alone (%(default)s)",
    )
    asked = parser.parse_intermixed_args(arguments)
    for name in ("workers", "examples"):
        if getattr(asked, name) < 0:
            raise ValueError(f"--{name} {getattr(asked, name)}: must be 0 or more")
    return asked


def read_splits(data: DataConfig, names: list[str] | None) -> tuple[list[Split], dict[str, str]]:
    """The splits that are asked for (None: all there are), and those that are lists of the same images: split -> its equal."""
    splits, same, lists = [], {}, {}
    for name in (
        name for name in assemble.SPLITS if (getattr(data, name) if names is None else name in names)
    ):
        listed = (*getattr(data, name), getattr(data.image_folders, name))
        if listed in lists:
            same[name] = lists[listed]
            continue
        lists[listed] = name
        instances = (
            str(Path(data.root) / getattr(data, name)[0])
            if data.format == "coco" and getattr(data, name)
            else None
        )
        splits.append(Split(name, *assemble.scan_annotations(data, name), instances))
    return splits, same


def examine(
    config: Config, splits: list[Split], facts: dict[str, Facts], same_lists: dict[str, str]
) -> LintReport:
    frame = {"size": tuple(config.input.size), "resize": config.input.resize}
    findings: list[Finding] = [finding for split in splits for finding in split.findings]
    findings += image_findings(splits, facts)
    for split in splits:
        findings += box_findings(split, **frame)
    findings += same_images(splits, facts) + class_findings(splits)
    return LintReport(config.data.name, findings, statistics(splits, **frame), same_lists)


def _write(path: Path, content: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error
    sys.stderr.write(f"written: {path}\n")


if __name__ == "__main__":
    main()
