"""Recall by kinds of boxes, on boxes whose kind is plain to see, and against a double loop."""

from __future__ import annotations

import numpy as np
from numpy.testing import assert_allclose

from detectors.annotations import Annotations
from detectors.metrics.recall_by import Share, covered_share, recall_by
from tests.metrics.test_coco_arrays import random_case
from tests.metrics.test_error_kinds import one_set


def annotated(*boxes: tuple[float, ...], difficult: int = 0) -> Annotations:
    """Boxes in one image of 500 x 500; the first `difficult` ones are."""
    rows = [(0, 0, box, "difficult") if n < difficult else (0, 0, box) for n, box in enumerate(boxes)]
    return one_set(rows, [], images=1)[0]


def test_each_box_is_counted_once_in_each_attribute():
    annotations = annotated((200, 200, 230, 230), (100, 100, 300, 120), (0, 0, 50, 200), (200, 300, 400, 450))
    table = recall_by(annotations, np.array([True, False, True, False]))
    assert table["size"] == {"small": Share(1, 1), "medium": Share(1, 0), "large": Share(2, 1)}
    assert all(sum(share.boxes for share in kinds.values()) == 4 for kinds in table.values())
    assert all(sum(share.found for share in kinds.values()) == 2 for kinds in table.values())


def test_kinds():
    found = np.array([True])
    cases = {
        ("size", "small"): (200, 200, 231, 231),
        ("size", "medium"): (200, 200, 232, 232),
        ("size", "large"): (200, 200, 296, 296),
        ("shape", "very tall"): (200, 200, 210, 240),
        ("shape", "tall"): (200, 200, 220, 240),
        ("shape", "square"): (200, 200, 240, 240),
        ("shape", "wide"): (200, 200, 240, 220),
        ("shape", "very wide"): (200, 200, 240, 210),
        ("border", "at the border"): (0, 200, 40, 240),
        ("border", "near it"): (200, 200, 240, 490),
        ("border", "inside"): (200, 200, 240, 240),
        ("crowding", "alone"): (200, 200, 240, 240),
        ("flag", "none"): (200, 200, 240, 240),
    }
    for (attribute, kind), box in cases.items():
        shares = recall_by(annotated(box), found)[attribute]
        assert shares[kind] == Share(1, 1), (attribute, kind)
        assert sum(share.boxes for share in shares.values()) == 1


def test_a_box_is_crowded_by_what_covers_it():
    annotations = annotated((100, 100, 200, 200), (150, 100, 350, 200), (400, 400, 420, 420))
    assert_allclose(covered_share(annotations), [0.5, 0.25, 0])
    table = recall_by(annotations, np.array([False, True, True]))["crowding"]
    assert table["heavily overlapped"] == Share(1, 0)
    assert table["overlapped"] == Share(1, 1)
    assert table["alone"] == Share(1, 1)


def test_difficult_boxes_count_in_their_own_line_alone():
    annotations = annotated((100, 100, 200, 200), (300, 300, 350, 350), difficult=1)
    table = recall_by(annotations, np.array([True, False]))
    assert table["flag"] == {"none": Share(1, 0), "difficult": Share(1, 1), "crowd": Share(0, 0)}
    assert sum(share.boxes for share in table["size"].values()) == 1


def test_covered_share_against_a_double_loop():
    annotations, _ = random_case(4)
    expected = np.zeros(len(annotations.labels))
    for one, a in enumerate(annotations.boxes_original):
        for other, b in enumerate(annotations.boxes_original):
            if one == other or annotations.image[one] != annotations.image[other]:
                continue
            width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
            height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
            area = (a[2] - a[0]) * (a[3] - a[1])
            expected[one] = max(expected[one], width * height / area)
    assert_allclose(covered_share(annotations), expected)


def test_wilson_s_interval():
    # Newcombe (1998), table I: 81 of 263, and none of 20.
    assert_allclose(Share(263, 81).interval, (0.2553, 0.3662), atol=5e-5)
    assert_allclose(Share(20, 0).interval, (0.0, 0.1611), atol=5e-5)
    assert Share(0, 0).interval == (0.0, 1.0)
