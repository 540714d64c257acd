"""The report as one self-contained HTML file: style and pictures are embedded, and there are no scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from detectors.commands.lint.findings import Finding, Split
from detectors.commands.lint.lint_report import LintReport, bucket_rows, columns
from detectors.commands.lint.pictures import SplitImages, picture, split_images
from detectors.data.problems import KINDS, LISTED
from detectors.drawing.framed_images import jpeg_address

QUALITY = 85  # of the embedded JPEGs
SHOWN = 200  # findings of one kind on the page; the JSON file has them all
NO_PICTURE = '<div class="none">this image cannot be shown</div>'

PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 1100px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em }
h2 { font-size: 1.25em; margin-top: 2em; border-bottom: 1px solid #ccc }
h3 { font-size: 1em; margin: 1.6em 0 .3em }
table { border-collapse: collapse }
th, td { padding: .1em .8em .1em 0; text-align: right; font-variant-numeric: tabular-nums }
th:first-child, td:first-child { text-align: left }
th { font-weight: 600; border-bottom: 1px solid #ccc }
td.bar { width: 280px; text-align: left }
td.bar div { height: .8em; background: #4a7ebb }
.error h3 { color: #b00020 }
.warning h3 { color: #8a5a00 }
.fix { color: #555 }
ul { margin: .3em 0; padding-left: 1.2em; overflow-wrap: anywhere }
.pictures { display: flex; flex-wrap: wrap; gap: 1em }
figure { margin: 0; width: 340px; overflow-wrap: anywhere; font-size: .85em }
figure img { max-width: 100%; max-height: 340px; border: 1px solid #ccc; display: block }
.none { width: 100%; padding: 2em 0; text-align: center; background: #eee; color: #777 }
.none, td.bar div { border-radius: 3px }
"""


def page(report: LintReport, splits: Sequence[Split], examples: int) -> str:
    """The HTML text. splits: where a picture's other boxes come from. examples: most pictures per kind."""
    title = escape(f"{report.name}: {report.errors} errors, {report.warnings} warnings")
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{PAGE_STYLE}</style></head><body>",
        *_summary(report),
        *_findings(report, split_images(splits), examples),
        *_statistics(report.statistics),
        "</body></html>",
        "",
    ]
    return "\n".join(lines)


def _summary(report: LintReport) -> Iterator[str]:
    splits = report.statistics["splits"]
    words = list(next(iter(splits.values())))
    rows = [[split, *(f"{counts[word]:,}" for word in words)] for split, counts in splits.items()]
    yield f"<h1>{escape(report.name)}: {report.errors:,} errors, {report.warnings:,} warnings</h1>"
    yield _table(["split", *words], rows)
    for split, other in report.same_lists.items():
        yield f"<p>{escape(split)} lists the same images as {escape(other)}.</p>"


def _findings(report: LintReport, images: SplitImages, examples: int) -> Iterator[str]:
    for error, title in ((True, "Errors"), (False, "Warnings")):
        kinds = {kind: findings for kind, findings in report.kinds.items() if KINDS[kind].error is error}
        yield f"<h2>{title}</h2>"
        yield "" if kinds else "<p>none</p>"
        style = "error" if error else "warning"
        for kind, findings in kinds.items():
            heading = f"{escape(KINDS[kind].title)}: {len(findings):,}"
            yield f'<section class="{style}" id="{kind}"><h3>{heading}</h3>'
            yield f'<p class="fix">Fix: {escape(KINDS[kind].fix)}.</p>'
            yield from _finding_list(findings)
            if any(finding.problem.image for finding in findings):
                figures = "".join(_figure(finding, images) for finding in findings[:examples])
                yield f'<div class="pictures">{figures}</div>'
            yield "</section>"


def _finding_list(findings: Sequence[Finding]) -> Iterator[str]:
    """The first LISTED findings, and the rest folded away, up to SHOWN."""
    items = [f"<li>{escape(str(finding))}</li>" for finding in findings[:SHOWN]]
    yield f"<ul>{''.join(items[:LISTED])}</ul>"
    if len(findings) > LISTED:
        folded = items[LISTED:]
        if len(findings) > SHOWN:
            folded.append(f"<li>and {len(findings) - SHOWN:,} more, in the JSON</li>")
        summary = f"<summary>{len(findings) - LISTED:,} more</summary>"
        yield f"<details>{summary}<ul>{''.join(folded)}</ul></details>"


def _figure(finding: Finding, images: SplitImages) -> str:
    problem = finding.problem
    caption = escape(str(problem._replace(file=Path(problem.file).name)))
    drawn = picture(finding, images)
    if drawn is None:
        shown = NO_PICTURE
    else:
        shown = f'<img src="{jpeg_address(drawn, QUALITY)}" alt="{caption}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _statistics(statistics: Mapping) -> Iterator[str]:
    yield "<h2>Statistics</h2>"
    for title, table in {"boxes per class": columns(statistics["classes"]), **statistics["tables"]}.items():
        rows, totals = bucket_rows(table)
        largest = max([*totals, 1])
        yield f"<h3>{escape(title)}</h3>"
        yield _table(["", *table], rows, bars=[total / largest for total in totals])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], bars: Sequence[float] = ()) -> str:
    """bars: a length from 0 to 1 for each row, drawn in an extra column; empty: no such column."""
    head_cells = [f"<th>{escape(cell)}</th>" for cell in head]
    body = [[f"<td>{escape(cell)}</td>" for cell in row] for row in rows]
    if bars:
        head_cells.append("<th></th>")
        for cells, length in zip(body, bars, strict=True):
            cells.append(f'<td class="bar"><div style="width:{100 * length:.1f}%"></div></td>')
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    return f"<table><tr>{''.join(head_cells)}</tr>{lines}</table>"
