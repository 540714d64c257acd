"""The JSON files of a run folder, as evaluate.py and `detectors compare` read them.

They may come from others.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectors.config.build import LARGEST_INTEGER, describe_type, fits
from detectors.data.text_files import read_text

SUMMARY = "summary.json"

# Key -> type, of the keys that are read.
SUMMARY_FIELDS = {
    "name": str,
    "model": str,
    "data": str,
    "input_size": tuple[int, int],
    "parameters": int,
    "gflops": float,
    "steps": int,
    "images_seen": int,
    "train_seconds": float,
    "train_images_per_second": float,
    "device": str,
}
EVALUATION_FIELDS = {
    "data": str,
    "split": str,
    "truths_hash": str,
    "images": int,
    "AP": float | None,
    "AP50": float | None,
    "AP50_voc07": float | None,
    "AP50_voc10": float | None,
    "AP75": float | None,
    "AP_small": float | None,
    "AP_medium": float | None,
    "AP_large": float | None,
    "inference_images_per_second": float,
    "device": str,
    "per_class": dict,
}
CLASS_FIELDS = {"AP50_voc10": float | None}
# Keys that older versions did not write, or that the detections of other programs do not come with.
OPTIONAL = {"truths_hash", "inference_images_per_second", "device"}
OPTIONAL |= {"AP75", "AP_small", "AP_medium", "AP_large"}
WORDS = {dict: "an object of names and values", list: "a list", tuple[int, int]: "[height, width] in pixels"}


def read_summary(path: Path, fix: str) -> dict[str, Any]:
    """summary.json as a dict. See read_record."""
    content = read_record(path, fix)
    check_fields(content, SUMMARY_FIELDS, str(path), fix)
    return content


def read_evaluation(path: Path, fix: str) -> dict[str, Any]:
    """An evaluation file as a dict. See read_record."""
    content = read_record(path, fix)
    if content.get("task") == "classification":
        raise ValueError(
            f"{path}: of a classifier, and this compares detectors; that file holds its accuracy, per_class "
            "and confusion"
        )
    fields = {
        name: hint for name, hint in EVALUATION_FIELDS.items() if name in content or name not in OPTIONAL
    }
    check_fields(content, fields, str(path), fix)
    for name, row in content["per_class"].items():
        place = f"{path}: per_class[{name!r}]"
        if not isinstance(row, dict):
            raise ValueError(f"{place} is {kind_of(row)}, must be an object of names and values; {fix}")
        check_fields(row, CLASS_FIELDS, place, fix)
    return content


def read_record(path: Path, fix: str) -> dict[str, Any]:
    """A JSON file with an object in it.

    FileNotFoundError or ValueError names the file, what is wrong with it, and `fix`, the command to run.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; {fix}")
    if not path.is_file():
        raise ValueError(f"{path}: not a regular file; {fix}")
    text = read_text(path, what="JSON file")
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); {fix}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {kind_of(content)}, must be an object of names and values; {fix}")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text}")
    return value


def check_fields(content: Mapping[str, Any], fields: Mapping[str, Any], place: str, fix: str) -> None:
    """ValueError for the first key that is missing or whose value has the wrong type.

    fields: key -> type annotation. place: the file, and where in it. fix: how to go on.
    """
    for name, hint in fields.items():
        if name not in content:
            raise ValueError(f"{place}: {name} is missing; {fix}")
        value = content[name]
        container = typing.get_origin(hint) or hint
        right = isinstance(value, container) if container is dict or hint is list else fits(value, hint)
        if not right or (isinstance(value, int | float) and not abs(value) < LARGEST_INTEGER):
            what = WORDS.get(dict if container is dict else hint) or describe_type(hint)
            raise ValueError(f"{place}: {name} is {kind_of(value)}, must be {what}; {fix}")


def kind_of(value: Any) -> str:
    """A short single value as it is, any other by its type, for messages."""
    if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        return "a number of more than 18 digits"
    if (
        value is None
        or isinstance(value, str | int | float)
        or (isinstance(value, list | dict) and not value)
    ):
        text = json.dumps(value)
        if len(text) <= 40:
            return text
    return f"a {type(value).__name__}"
