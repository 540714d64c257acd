"""AP of weighted images: against the evaluators on data sets in which images really are repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from detectors.annotations import Annotations
from detectors.data.checks import to_offsets
from detectors.metrics import resampling
from detectors.metrics.coco import evaluate_coco, judge_by_size
from detectors.metrics.resampling import (
    Outcomes,
    coco_outcomes,
    drawn_weights,
    mixed,
    voc_outcomes,
    weighted_ap,
    weighted_boxes,
)
from detectors.metrics.voc import evaluate_voc
from detectors.structures import Detections
from tests.metrics.test_coco_arrays import random_case


def repeated(
    annotations: Annotations, detections: Detections, weights: np.ndarray
) -> tuple[Annotations, Detections]:
    """A data set that holds image n weights[n] times."""
    rows = np.repeat(np.arange(len(annotations)), weights)
    boxes = np.concatenate([np.arange(len(annotations.labels))[annotations.rows(row)] for row in rows])
    found = [np.flatnonzero(detections.image.numpy() == row) for row in rows]
    image = np.repeat(np.arange(len(rows)), list(map(len, found)))
    found = np.concatenate(found)
    many = Annotations(
        class_names=annotations.class_names,
        image_ids=list(range(len(rows))),
        paths=[str(place) for place in range(len(rows))],
        sizes=annotations.sizes[rows],
        offsets=to_offsets(np.diff(annotations.offsets)[rows]),
        boxes_original=annotations.boxes_original[boxes],
        labels=annotations.labels[boxes],
        difficult=annotations.difficult[boxes],
        crowd=annotations.crowd[boxes],
        areas=annotations.areas[boxes],
        category_ids=annotations.category_ids,
    )
    columns = (detections.boxes, detections.scores, detections.labels)
    return many, Detections(torch.from_numpy(image), *(column[found] for column in columns))


def of_coco(annotations: Annotations, detections: Detections) -> Outcomes:
    return coco_outcomes(annotations, judge_by_size(annotations, detections))[0]


def without_ties(detections: Detections, seed: int) -> Detections:
    """Equal scores count in the order of images, which repeating them changes."""
    scores = torch.randperm(len(detections.scores), generator=torch.Generator().manual_seed(seed))
    return Detections(detections.image, detections.boxes, (scores + 1) / (len(scores) + 1), detections.labels)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("drawn", [False, True])
def test_ap_of_repeated_images(seed, drawn):
    annotations, detections = random_case(seed, images=9)
    weights = np.ones((9, 3), np.uint16)
    if drawn:
        detections = without_ties(detections, seed)
        weights = drawn_weights(9, 3, seed)
    for column in range(3):
        many = (annotations, detections)
        if drawn:
            many = repeated(*many, weights[:, column])
        coco, voc = evaluate_coco(*many), evaluate_voc(*many)
        table = np.where(coco.ap_table[..., 0] < 0, np.nan, coco.ap_table[..., 0])
        outcomes = of_coco(annotations, detections)
        ours = weighted_ap(outcomes, weights, weighted_boxes(outcomes, weights), "coco")[0]
        assert_allclose(ours[..., column], table, rtol=0, atol=1e-6)
        outcomes = voc_outcomes(annotations, detections)
        boxes = weighted_boxes(outcomes, weights)
        both = weighted_ap(outcomes, weights, boxes, "voc07", "voc10")
        for ours, expected in zip(both, (voc.ap07, voc.ap10), strict=True):
            assert_allclose(ours[0, :, column], expected, rtol=0, atol=1e-6)


def test_an_evaluation_in_blocks_is_the_same(monkeypatch):
    outcomes = of_coco(*random_case(3))
    weights = drawn_weights(7, 20, 0)
    boxes = weighted_boxes(outcomes, weights)
    (whole,) = weighted_ap(outcomes, weights, boxes, "coco")
    monkeypatch.setattr(resampling, "LARGEST_TABLE", 100)
    assert_array_equal(weighted_ap(outcomes, weights, boxes, "coco")[0], whole)


def test_mixed_detections_are_those_of_either_detector():
    annotations, one = random_case(5)
    other = random_case(6)[1]
    one, other = without_ties(one, 5), without_ties(other, 6)
    both = mixed(of_coco(annotations, one), of_coco(annotations, other))
    from_one = np.array([1, 0, 1, 1, 0, 0, 1], np.uint16)
    parts = [
        (part, torch.from_numpy(flags.astype(bool))[part.image])
        for part, flags in ((one, from_one), (other, 1 - from_one))
    ]
    chosen = Detections(
        *(
            torch.cat([getattr(part, name)[keep] for part, keep in parts])
            for name in ("image", "boxes", "scores", "labels")
        )
    )
    table = evaluate_coco(annotations, chosen).ap_table[..., 0]
    boxes = weighted_boxes(both, np.ones((7, 1)))
    ours = weighted_ap(both, np.concatenate([from_one, 1 - from_one])[:, None], boxes, "coco")[0][..., 0]
    assert_allclose(ours, np.where(table < 0, np.nan, table), rtol=0, atol=1e-6)


def test_each_resampled_data_set_has_as_many_images():
    weights = drawn_weights(50, 8, seed=1)
    assert_array_equal(weights.sum(0), np.full(8, 50))
    assert_array_equal(weights, drawn_weights(50, 8, seed=1))
    assert len({column.tobytes() for column in weights.T}) == 8
