"""The findings about single boxes: their kinds and their texts."""

from __future__ import annotations

from detectors.commands.lint.box_findings import box_findings
from tests.commands.lint.sets import split_of

SIZE = (160, 160)


def test_findings_say_where_and_how_much():
    """Coordinates are 1-based, as in VOC's file."""
    boxes = [[[10, 10, 50, 50], [10, 10, 50, 50], [10, 10, 50, 50.5], [70, 10, 95, 50], [90, 10, 95, 50]]]
    split = split_of(boxes, [[0, 0, 1, 1, 1]])
    findings = box_findings(split, size=SIZE, resize="letterbox")
    start = "train: /set/Annotations/train_0.xml: "
    assert {finding.problem.kind: str(finding) for finding in findings} == {
        "duplicate-box": f"{start}cat [11, 11, 50, 50], and cat [11, 11, 50, 50]",
        "two-classes": f"{start}dog [11, 11, 50, 50.5], and cat [11, 11, 50, 50]",
        "partly-outside": f"{start}dog [71, 11, 95, 50], by 15 px out of 80 x 60",
        "outside-image": f"{start}dog [91, 11, 95, 50], by 15 px out of 80 x 60",
    }


def test_three_equal_boxes_are_two_findings():
    split = split_of([[[10, 10, 50, 50]] * 3])
    findings = box_findings(split, size=SIZE, resize="letterbox")
    assert [finding.problem.kind for finding in findings] == ["duplicate-box"] * 2


def test_a_box_that_repeats_two_boxes_is_reported_once():
    """As a duplicate of the box of its own class."""
    split = split_of([[[10, 10, 50, 50]] * 3], [[0, 1, 1]])
    findings = box_findings(split, size=SIZE, resize="letterbox")
    assert [(finding.problem.kind, finding.problem.what) for finding in findings] == [
        ("duplicate-box", "dog [11, 11, 50, 50], and dog [11, 11, 50, 50]"),
        ("two-classes", "dog [11, 11, 50, 50], and cat [11, 11, 50, 50]"),
    ]


def test_coco_findings_name_the_image():
    split = split_of([[[70, 10, 95, 50]]], instances="/set/train.json", paths=["/set/images/7.jpg"])
    (finding,) = box_findings(split, size=SIZE, resize="letterbox")
    assert str(finding) == "train: /set/train.json: 7.jpg: cat [70, 10, 25, 40], by 15 px out of 80 x 60"
    assert finding.problem.image == "/set/images/7.jpg"
    assert finding.problem.box == (70, 10, 95, 50)
