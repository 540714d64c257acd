"""The comparison as one self-contained HTML file: no network, light and dark, with sortable tables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from detectors.commands.compare.disagreement import PictureRow
from detectors.commands.compare.meanings import INTERVAL_WORDS
from detectors.commands.compare.report_sections import ReportSection
from detectors.tables import printable

TEMPLATE = Path(__file__).with_name("comparison_page.html")
SIZE_MARK = "SIZE-OF-THIS-PAGE"


def comparison_page(
    sections: Sequence[ReportSection],
    *,
    names: Sequence[str],
    summary: Sequence[str],
    pictures: Sequence[PictureRow],
    unfair: Sequence[str],
    notes: Sequence[str],
    command: Sequence[str],
) -> str:
    """The HTML text. names: of what is compared. pictures: of the images on which the detectors disagree."""
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["printable"] = printable
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=" and ".join(names),
        unfair=unfair,
        summary=summary,
        intervals=INTERVAL_WORDS,
        sections=sections,
        pictures=pictures,
        notes=notes,
        size=SIZE_MARK,
        command=shlex.join(command),
    )
    return text.replace(SIZE_MARK, f"{len(text.encode()) / 1e6:.2f} MB")
