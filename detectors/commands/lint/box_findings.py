"""Findings about single boxes, each with the class and the numbers that its file has."""

from __future__ import annotations

from detectors.annotations import Annotations
from detectors.commands.lint.findings import Finding, Split
from detectors.data.suspicious_boxes import overreach, sides_at_input, suspicious, twins


def box_findings(split: Split, *, size: tuple[int, int], resize: str) -> list[Finding]:
    """What is wrong or suspicious with single boxes. size: (height, width) of the model input."""
    truths = split.annotations
    rows = suspicious(truths, size=size, resize=resize)
    image, reach, sides, first = (
        truths.image,
        overreach(truths),
        sides_at_input(truths, size, resize),
        _first_twins(truths),
    )

    def what(kind: str, row: int) -> str:
        height, width = truths.sizes[image[row]].tolist()
        if kind in ("outside-image", "partly-outside"):
            return f", by {reach[row]:.6g} px out of {width} x {height}"
        if kind == "tiny-box":
            return f", {sides[row, 0]:.2g} x {sides[row, 1]:.2g} px at the model's input"
        return f", and {split.words(first[kind][row])}"

    return [
        split.box_finding(kind, int(image[row]), row, what(kind, row))
        for kind in rows
        for row in rows[kind].tolist()
    ]


def _first_twins(annotations: Annotations) -> dict[str, dict[int, int]]:
    """Kind of twins -> row -> the first row that it is a twin of."""
    pairs = twins(annotations)[::-1]
    same = annotations.labels[pairs[:, 0]] == annotations.labels[pairs[:, 1]]
    chosen = {"duplicate-box": pairs[same], "two-classes": pairs[~same]}
    return {kind: {later: first for first, later in rows.tolist()} for kind, rows in chosen.items()}
