"""Rows of the last layers by the names of the classes, against a loop over anchors and classes."""

from __future__ import annotations

import pytest

from detectors.training.initial.class_rows import kept_classes
from tests.training.initial.starts import NAMES, configured, started, stored

LAST = {  # model -> layer with rows of classes -> rows that stand before them, and anchors
    "yolov2_160": {"head.conv": (5, 5)},
    "ssd160": {f"head.class_logits.{level}": (1, count) for level, count in enumerate((4, 6, 6, 4))},
}


@pytest.mark.parametrize("model", LAST)
@pytest.mark.parametrize("names", [("c", "x", "a", "y"), ("c", "b", "a"), ("x", "y", "z")])
def test_rows_of_classes_with_the_same_name_are_kept(model, names, tmp_path):
    """Other classes, another order, none of them: what an anchor's classes share is always kept."""
    config = configured(model=model)
    checkpoint = stored(config, tmp_path / "a.pt")
    before, after, text = started(config, checkpoint.path, names)
    parts = {f"{layer}.{part}": rows for layer, rows in LAST[model].items() for part in ("weight", "bias")}
    for name, tensor in after.items():
        if name in parts:
            shared, anchors = parts[name]
            assert len(tensor) == anchors * (shared + len(names))
            for anchor in range(anchors):
                start, old_start = anchor * (shared + len(names)), anchor * (shared + len(NAMES))
                for entry in range(shared):
                    assert tensor[start + entry].equal(checkpoint.model[name][old_start + entry])
                for number, label in enumerate(names):
                    row = start + shared + number
                    old = before[name][row]
                    if label in NAMES:
                        old = checkpoint.model[name][old_start + shared + NAMES.index(label)]
                    assert tensor[row].equal(old), (name, anchor, label)
        elif not name.startswith("loss."):
            assert tensor.equal(checkpoint.model[name]), name
    assert f"loaded in part: {next(iter(parts))}" in text and kept_classes(names, NAMES) in text


def test_what_is_said_about_kept_rows():
    assert kept_classes(("c", "x", "a"), NAMES) == (
        "what all classes share, and 2 of 3 classes by name: c, a; initialised: x"
    )
    assert kept_classes(("x",), NAMES) == (
        "what all classes share, and 0 of 1 classes by name; initialised: x"
    )
    many = tuple(map(str, range(10)))
    assert kept_classes(many, many).endswith("10 of 10 classes by name: 0, 1, 2, 3, 4, 5, 6, 7 and 2 more")


def test_other_anchors_start_the_last_layer_anew(tmp_path):
    """Three anchors for five: no row has a place."""
    path = stored(configured(model="yolov2_160"), tmp_path / "a.pt").path
    config = configured("model.anchors=[[1,1],[2,2],[3,3]]", model="yolov2_160")
    before, after, text = started(config, path, ("c", "b"))
    assert after["head.conv.weight"].equal(before["head.conv.weight"])
    assert "initialised anew: head.conv.weight, head.conv.bias (the file's has another size)" in text
    assert "trained with anchors=" in text
