"""Findings about single boxes, with class and coordinates as in the annotation file."""

from __future__ import annotations

from detectors.annotations import Annotations
from detectors.commands.lint.findings import Finding, Split
from detectors.data.suspicious_boxes import overreach, sides_at_input, suspicious, twins


def box_findings(split: Split, *, size: tuple[int, int], resize: str) -> list[Finding]:
    """Wrong and suspicious boxes, kind by kind. size: (height, width) of the model input."""
    annotations = split.annotations
    image_of = annotations.image  # (T,)
    beyond = overreach(annotations)  # (T,) pixels
    sides = sides_at_input(annotations, size, resize)  # (T, 2)
    first_twins = _first_twins(annotations)

    def details(kind: str, row: int) -> str:
        height, width = annotations.sizes[image_of[row]].tolist()
        if kind in ("outside-image", "partly-outside"):
            return f", by {beyond[row]:.6g} px out of {width} x {height}"
        if kind == "tiny-box":
            return f", {sides[row, 0]:.2g} x {sides[row, 1]:.2g} px at the model's input"
        return f", and {split.describe_box(first_twins[kind][row])}"

    findings = []
    for kind, rows in suspicious(annotations, size=size, resize=resize).items():
        for row in rows.tolist():
            findings.append(split.box_finding(kind, int(image_of[row]), row, details(kind, row)))
    return findings


def _first_twins(annotations: Annotations) -> dict[str, dict[int, int]]:
    """Kind of twins -> row of a box -> row of the first box that it repeats."""
    pairs = twins(annotations)[::-1]  # reversed: the first twin of a row is the last to be entered
    same_class = annotations.labels[pairs[:, 0]] == annotations.labels[pairs[:, 1]]
    return {
        "duplicate-box": {later: first for first, later in pairs[same_class].tolist()},
        "two-classes": {later: first for first, later in pairs[~same_class].tolist()},
    }
