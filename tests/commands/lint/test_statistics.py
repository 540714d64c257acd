"""Statistics, compared with counts by hand and by loops."""

import numpy as np

from detectors.commands.lint import statistics
from tests.commands.lint.sets import split_of

BOXES = [[[0, 0, 10, 10], [0, 0, 32, 32], [0, 0, 64, 20]], [], [[0, 0, 96, 96], [0, 0, 200, 40]]]


def test_counts_by_hand():
    """Images of 200 x 100 px; at the model's input, boxes are half as large."""
    train = split_of(BOXES, [[0, 0, 1], [], [1, 1]], size=(100, 200))
    val = split_of([[]], name="val")
    counts = statistics.statistics([train, val], size=(100, 100), resize="letterbox")
    assert counts["splits"]["train"] == {
        "images": 3,
        "boxes": 5,
        "images without boxes": 1,
        "difficult": 0,
        "crowd": 0,
        "faults left out": 0,
    }
    assert counts["classes"] == {"cat": {"train": 2, "val": 0}, "dog": {"train": 3, "val": 0}}
    per_image, original, at_input, sides, ratios, sizes = (
        {bucket: count for bucket, count in table["train"].items() if count}
        for table in counts["tables"].values()
    )
    assert per_image == {"0": 1, "2": 1, "3 to 4": 1}
    assert original == {"small": 1, "medium": 3, "large": 1}  # 100, 1024, 1280, 9216, 8000
    assert at_input == {"small": 3, "medium": 2}  # 25, 256, 320, 2304, 2000
    assert sides == {"5% to 10%": 1, "10% to 20%": 2, "20% to 50%": 2}  # .05, .16, .179, .48, .447
    assert ratios == {"3/4 to 4/3": 3, "2 to 4": 1, "4 or more": 1}
    assert sizes == {"200 x 100": 3}
    assert counts["tables"]["boxes per image"]["val"]["0"] == 1


def test_every_box_and_image_is_in_one_bucket():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(200):
        corners = rng.uniform(0, 300, (rng.integers(0, 90), 2))
        sides = rng.exponential(60, corners.shape) + 0.01
        images.append(np.concatenate([corners, corners + sides], 1).tolist())
    split = split_of(images, size=(300, 300))
    tables = statistics.statistics([split], size=(416, 416), resize="stretch")["tables"]
    totals = {title: sum(table["train"].values()) for title, table in tables.items()}
    boxes = sum(map(len, images))
    assert list(totals.values()) == [200, boxes, boxes, boxes, boxes, 200]
    width, height = np.diff(split.annotations.boxes_original.reshape(-1, 2, 2), axis=1)[:, 0].T
    tall = sum(w < h / 4 for w, h in zip(width, height, strict=True))
    assert tables["aspect ratio (width / height)"]["train"]["below 1/4"] == tall


def test_a_box_as_large_as_the_input_is_not_larger():
    counts = statistics.fractions(np.array([[416.0, 416.0], [416, 417]]), (416, 416))
    assert (counts["50% to 100%"], counts["more than the input"]) == (1, 1)


def test_rare_image_sizes_are_counted_as_other():
    """The ten most frequent sizes of all splits together are listed, for each split."""
    parts = [split_of([[]] * (20 - n), size=(100, 100 + n)).annotations.sizes for n in range(14)]
    train = split_of([[]] * sum(map(len, parts)))
    train.annotations.sizes[:] = np.concatenate(parts)
    val = split_of([[]] * 3, name="val", size=(100, 109))
    counts = statistics.image_sizes([train, val])
    assert next(iter(counts["train"].items())) == ("100 x 100", 20)
    assert counts["train"]["other"] == 10 + 9 + 8 + 7
    assert {size: count for size, count in counts["val"].items() if count} == {"109 x 100": 3}
    assert list(counts["train"]) == list(counts["val"])
    assert len(counts["train"]) == 11
