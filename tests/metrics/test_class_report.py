"""Accuracy, top 5 and confusion against counts by hand."""

from __future__ import annotations

import numpy as np

from detectors.data.labelled_sets import whole_images
from detectors.metrics.class_report import Guesses, class_report, predictions_csv

NAMES = ("a", "b", "c", "d", "e", "f")


def case() -> tuple:
    truth = np.array([0, 0, 1, 2, 5])
    sizes = np.tile([4, 4], (5, 1))
    annotations = whole_images(
        NAMES, [f"i{n}" for n in range(5)], [f"i{n}.png" for n in range(5)], sizes, truth
    )
    labels = np.array([[0, 1, 2, 3, 4], [1, 2, 0, 3, 4], [1, 0, 2, 3, 4], [0, 1, 3, 4, 5]])
    return annotations, Guesses(np.arange(4), labels, np.full((4, 5), 0.2, np.float32))


def test_numbers_by_hand():
    """Image 3 is not among the best five, image 4 could not be read: both are wrong."""
    report = class_report(*case())
    assert report.scalars == {
        "accuracy": 2 / 5,
        "accuracy_top5": 3 / 5,
        "accuracy_mean": (0.5 + 1 + 0 + 0) / 4,
    }
    assert report.per_class["a"] == {"accuracy": 0.5, "images": 2}
    assert report.per_class["d"] == {"accuracy": None, "images": 0}
    expected = np.zeros((6, 6), int)
    expected[0, 0] = expected[0, 1] = expected[1, 1] = expected[2, 0] = 1
    np.testing.assert_array_equal(report.confusion, expected)
    assert "most confused: a taken for b 1, c taken for a 1" in report.table()
    assert report.as_dict()["confusion"] == expected.tolist()


def test_a_line_for_each_image():
    lines = predictions_csv(*case()).splitlines()
    assert lines[:3] == ["image,class,best,probability", "i0,a,a,0.200000", "i1,a,b,0.200000"]


def test_without_images_there_is_no_number():
    annotations = whole_images(NAMES, [], [], np.zeros((0, 2)), np.zeros(0, int))
    guesses = Guesses(np.zeros(0, int), np.zeros((0, 1), int), np.zeros((0, 1), np.float32))
    assert set(class_report(annotations, guesses).scalars.values()) == {None}
