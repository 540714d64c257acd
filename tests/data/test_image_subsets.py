"""Some images of a set keep their boxes, against a loop over images; a share of them is the val split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.annotations import Annotations
from detectors.config.check import ConfigError, check
from detectors.config.composing import composed
from detectors.config.schema import Config
from detectors.data.image_subsets import chosen_images, shared_out
from detectors.training import ground_truth


def made_up(counts: list[int]) -> Annotations:
    """Images with so many boxes each; every number is another one."""
    total = sum(counts)
    return Annotations(
        class_names=("a", "b"),
        image_ids=[f"id{n}" for n in range(len(counts))],
        paths=[f"{n}.jpg" for n in range(len(counts))],
        sizes=np.arange(2 * len(counts)).reshape(-1, 2),
        offsets=np.cumsum([0, *counts]),
        boxes_original=np.arange(4.0 * total).reshape(-1, 4),
        labels=np.arange(total) % 2,
        difficult=np.arange(total) % 3 == 0,
        crowd=np.arange(total) % 5 == 0,
        areas=np.arange(float(total)),
        category_ids=(1, 2),
    )


def image_facts(annotations: Annotations, index: int) -> tuple:
    boxes = annotations.rows(index)
    columns = (
        getattr(annotations, name) for name in ("boxes_original", "labels", "difficult", "crowd", "areas")
    )
    lists = [column[boxes].tolist() for column in columns]
    return annotations.image_ids[index], annotations.paths[index], annotations.sizes[index].tolist(), *lists


@pytest.mark.parametrize("rows", [[], [2], [4, 0, 1], [0, 1, 2, 3, 4], [3, 3]])
def test_chosen_images_keep_their_boxes(rows):
    whole = made_up([2, 0, 3, 1, 0])
    chosen = chosen_images(whole, np.array(rows, np.int64))
    assert len(chosen) == len(rows)
    assert [image_facts(chosen, n) for n in range(len(rows))] == [image_facts(whole, row) for row in rows]
    assert len(chosen.labels) == sum([2, 0, 3, 1, 0][row] for row in rows)


def test_labels_of_whole_images_go_with_them():
    whole = replace(made_up([1, 0, 0]), image_labels=np.array([-1, 7, 5]))
    assert chosen_images(whole, np.array([2, 0])).image_labels.tolist() == [5, -1]


def test_both_parts_are_the_whole():
    whole = made_up([2, 0, 3, 1, 0])
    parts = [shared_out(whole, 0.4, 0, val=val) for val in (False, True)]
    assert [len(part) for part in parts] == [3, 2]
    facts = [image_facts(part, n) for part in parts for n in range(len(part))]
    assert sorted(facts) == [image_facts(whole, n) for n in range(5)]


def shapes_config(folder, *overrides: str) -> Config:
    sizes = ("data.shapes.train=8", "data.shapes.val=2", "data.shapes.size=32")
    return check(composed(["model=ssd160", *sizes, f"paths.cache={folder}", *overrides]))


def test_a_detectors_val_split_is_a_share_of_the_training_images(tmp_path):
    all_images = ground_truth.read_annotations(shapes_config(tmp_path).data, "train")
    config = shapes_config(tmp_path, "data.val=[train]", "data.val_share=0.25")
    train, val = (ground_truth.read_annotations(config.data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6, 2)
    facts = [image_facts(part, n) for part in (train, val) for n in range(len(part))]
    assert sorted(facts) == sorted(image_facts(all_images, n) for n in range(8))


def test_a_share_of_joined_sets_is_refused():
    with pytest.raises(
        ConfigError, match=r"data\.val_share=0\.1: data=shapes_joint joins sets .* set it to null"
    ):
        check(composed(["experiment=shapes_joint", "data.val_share=0.1"]))
