"""The report as one HTML file that needs no other: its style and its pictures are in it, and it has no scripts."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import cv2
import numpy as np

from detectors.commands.lint.findings import Finding, Split
from detectors.commands.lint.lint_report import LintReport, columns
from detectors.commands.lint.pictures import Places, picture, places_of
from detectors.data.problems import KINDS, LISTED

QUALITY = 85  # of the pictures' JPEG
SHOWN = 200  # findings of one kind that the page lists; the JSON has them all

PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc } h3 { font-size: 1em; margin: 1.6em 0 .3em }
table { border-collapse: collapse } th, td { padding: .1em .8em .1em 0; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left } th { font-weight: 600; border-bottom: 1px solid #ccc }
td.bar { width: 280px; text-align: left } td.bar div { height: .8em; background: #4a7ebb }
.error h3 { color: #b00020 } .warning h3 { color: #8a5a00 } .fix { color: #555 }
ul { margin: .3em 0; padding-left: 1.2em; overflow-wrap: anywhere }
.pictures { display: flex; flex-wrap: wrap; gap: 1em } figure { margin: 0; width: 340px; overflow-wrap: anywhere; font-size: .85em }
figure img { max-width: 100%; max-height: 340px; border: 1px solid #ccc; display: block }
.none { width: 100%; padding: 2em 0; text-align: center; background: #eee; color: #777 } .none, td.bar div { border-radius: 3px }
"""


def page(report: LintReport, splits: Sequence[Split], examples: int) -> str:
    """splits: for the other boxes of a drawn image. examples: pictures for each kind of finding, at most."""
    body = [*_head(report), *_findings(report, places_of(splits), examples), *_statistics(report.statistics)]
    title = escape(f"{report.name}: {report.errors} errors, {report.warnings} warnings")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{PAGE_STYLE}</style>'
    return "\n".join(
        ["<!DOCTYPE html>", f'<html lang="en"><head>{head}</head><body>', *body, "</body></html>", ""]
    )


def _head(report: LintReport) -> Iterator[str]:
    splits = report.statistics["splits"]
    yield f"<h1>{escape(report.name)}: {report.errors:,} errors, {report.warnings:,} warnings</h1>"
    words = list(next(iter(splits.values())))
    yield _table(
        ["split", *words],
        [[split, *(f"{counts[word]:,}" for word in words)] for split, counts in splits.items()],
    )
    for split, other in report.same_lists.items():
        yield f"<p>{escape(split)} lists the same images as {escape(other)}.</p>"


def _findings(report: LintReport, places: Places, examples: int) -> Iterator[str]:
    for error, title in ((True, "Errors"), (False, "Warnings")):
        kinds = {kind: found for kind, found in report.kinds.items() if KINDS[kind].error is error}
        yield f"<h2>{title}</h2>"
        yield "" if kinds else "<p>none</p>"
        for kind, found in kinds.items():
            yield f'<section class="{title.lower()[:-1]}" id="{kind}"><h3>{escape(KINDS[kind].title)}: {len(found):,}</h3>'
            yield f'<p class="fix">Fix: {escape(KINDS[kind].fix)}.</p>'
            yield from _listed(found)
            if any(finding.problem.image for finding in found):
                yield f'<div class="pictures">{"".join(_figure(finding, places) for finding in found[:examples])}</div>'
            yield "</section>"


def _listed(found: Sequence[Finding]) -> Iterator[str]:
    """The first as they are, more of them folded away."""
    items = [f"<li>{escape(str(finding))}</li>" for finding in found[:SHOWN]]
    yield f"<ul>{''.join(items[:LISTED])}</ul>"
    if len(found) > LISTED:
        rest = f"<li>and {len(found) - SHOWN:,} more, in the JSON</li>" * (len(found) > SHOWN)
        yield f"<details><summary>{len(found) - LISTED:,} more</summary><ul>{''.join(items[LISTED:])}{rest}</ul></details>"


def _figure(finding: Finding, places: Places) -> str:
    drawn, problem = picture(finding, places), finding.problem
    words = escape(str(problem._replace(file=Path(problem.file).name)))
    shown = (
        f'<img src="data:image/jpeg;base64,{_jpeg(drawn)}" alt="{words}">'
        if drawn is not None
        else _NO_PICTURE
    )
    return f"<figure>{shown}<figcaption>{words}</figcaption></figure>"


_NO_PICTURE = '<div class="none">this image cannot be shown</div>'


def _jpeg(image: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return base64.b64encode(encoded.tobytes()).decode()


def _statistics(statistics: Mapping) -> Iterator[str]:
    yield "<h2>Statistics</h2>"
    for title, table in {"boxes per class": columns(statistics["classes"]), **statistics["tables"]}.items():
        buckets = list(dict.fromkeys(bucket for counts in table.values() for bucket in counts))
        totals = {bucket: sum(counts.get(bucket, 0) for counts in table.values()) for bucket in buckets}
        longest = max([*totals.values(), 1])
        rows = [[bucket, *(f"{counts.get(bucket, 0):,}" for counts in table.values())] for bucket in buckets]
        yield f"<h3>{escape(title)}</h3>"
        yield _table(["", *table], rows, bars=[totals[bucket] / longest for bucket in buckets])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], bars: Sequence[float] = ()) -> str:
    """bars: 0..1 for each row, drawn in a column of their own."""
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    drawn = [f'<td class="bar"><div style="width:{100 * length:.1f}%"></div></td>' for length in bars] or [
        ""
    ] * len(rows)
    lines = "".join(f"<tr>{row}{bar}</tr>" for row, bar in zip(cells, drawn, strict=True))
    return f"<table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}{'<th></th>' * bool(bars)}</tr>{lines}</table>"
