"""Checks across images and splits: duplicate images and class names."""

import cv2
import pytest

from detectors.commands.lint import split_checks
from detectors.commands.lint.image_checks import inspect_all
from detectors.data.class_names import COCO_CLASSES, VOC_CLASSES
from tests.commands.lint.sets import split_of
from tests.data.files import write_image


def same_images(train: list[str], val: list[str]) -> list[tuple[str, str]]:
    """(kind, text) of each finding about two splits with these image paths."""
    splits = [
        split_of([[]] * len(train), paths=train, name="train"),
        split_of([[]] * len(val), paths=val, name="val"),
    ]
    findings = split_checks.same_images(splits, inspect_all([*train, *val], 0))
    return [(finding.problem.kind, str(finding)) for finding in findings]


def test_same_images(tmp_path):
    """The same file, the same pixels under another name, in two splits or one; a re-encoded file."""
    for seed, name in enumerate(("one", "two", "three")):
        write_image(tmp_path / f"train/{name}.png", (60, 80), seed=seed)
    write_image(tmp_path / "val/other.png", (60, 80), seed=0)  # the pixels of train/one.png
    write_image(tmp_path / "val/three.png", (60, 80), seed=7)  # only the name is in train, too
    nearly_two = cv2.imread(str(tmp_path / "train/two.png")) ^ 1  # an invisible change
    cv2.imwrite(str(tmp_path / "val/two.png"), nearly_two)
    train = [str(tmp_path / f"train/{name}.png") for name in ("one", "two", "three")]
    val = [train[2], *(str(tmp_path / f"val/{name}.png") for name in ("other", "three", "two"))]
    assert same_images(train, val) == [
        ("in-two-splits", f"val: {train[2]}: the same file is in train"),
        ("in-two-splits", f"val: {val[1]}: the same pixels as train's {train[0]}"),
        ("in-two-splits", f"val: {val[3]}: the same name and nearly the same pixels as train's {train[1]}"),
    ]
    write_image(tmp_path / "train/four.png", (60, 80), seed=1)
    train.append(str(tmp_path / "train/four.png"))
    assert same_images(train, []) == [
        ("duplicate-image", f"train: {train[3]}: the same pixels as {train[1]}")
    ]


def test_one_name_in_two_folders_of_a_split(tmp_path):
    """They may be frames of two films: similar pictures of one name are suspicious across splits only."""
    write_image(tmp_path / "a/1.png", (60, 80))
    (tmp_path / "b").mkdir()
    cv2.imwrite(str(tmp_path / "b/1.png"), cv2.imread(str(tmp_path / "a/1.png")) ^ 1)
    assert same_images([str(tmp_path / "a/1.png"), str(tmp_path / "b/1.png")], []) == []


def test_links_are_the_same_file(tmp_path):
    write_image(tmp_path / "a.png", (60, 80))
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    assert same_images([str(tmp_path / "a.png")], [str(tmp_path / "b.png")]) == [
        ("in-two-splits", f"val: {tmp_path}/b.png: the same file is in train")
    ]


def test_broken_images_are_not_the_same(tmp_path):
    val = [str(tmp_path / "b.png"), str(tmp_path / "c.png")]
    assert same_images([str(tmp_path / "a.png")], val) == []


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"dog": 50, "Dog": 40}, [("Dog", "dog")]),
        ({"dogs": 50, "dog": 40}, [("dog", "dogs")]),
        ({"traffic light": 50, "traffic_light": 4}, [("traffic_light", "traffic light")]),
        ({"raccoon": 50, "racoon": 2}, [("racoon", "raccoon")]),
        ({"raccoon": 50, "racoon": 30}, []),  # too frequent for a typo
        ({"cat": 50, "car": 1}, []),
        ({"bus": 50, "bu": 1}, []),
    ],
)
def test_similar_class_names(counts, expected):
    assert split_checks.alike(counts) == expected


@pytest.mark.parametrize("names", [VOC_CLASSES, COCO_CLASSES])
def test_class_names_of_benchmarks_are_not_similar(names):
    """However rare one of the classes is."""
    for rare in names[::4]:
        assert split_checks.alike({name: 1 if name == rare else 1000 for name in names}) == []


def test_class_findings():
    box = [1, 1, 9, 9]
    names = ("Dog", "cat", "dog", "animals")
    train = split_of([[box] * 24], [[1] * 12 + [2] * 9 + [0] * 3], class_names=names)
    val = split_of([[box] * 2], [[1, 1]], class_names=names, name="val")
    unlabelled = split_of([[]], class_names=names, name="test")
    findings = split_checks.class_findings([train, val, unlabelled])
    assert [(finding.split, finding.problem.kind, str(finding.problem)) for finding in findings] == [
        ("", "alike-classes", "class Dog: boxes: 3, beside 9 of dog"),
        ("", "empty-class", "class animals: no box in any split"),
        ("train", "rare-class", "class Dog: boxes in train: 3"),
        ("train", "rare-class", "class dog: boxes in train: 9"),
        ("val", "absent-class", "class Dog: no box in val"),
        ("val", "absent-class", "class dog: no box in val"),
    ]
