"""Intervals and p-values on simulated detectors whose true AP is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from detectors.metrics.intervals import Estimate, coco_numbers, estimate, permutation_p
from detectors.metrics.resampling import Outcomes, drawn_weights, weighted_ap, weighted_boxes

CLASSES = 3
THRESHOLDS = 10


def simulated(
    rng: np.random.Generator, images: int, skill: float = 0.0, boxes: np.ndarray | None = None
) -> Outcomes:
    """A detector that finds a box with probability sigmoid(.8 + skill + ease of the image).

    Hard images have fewer found boxes, and more wrong detections. All ten thresholds are alike.
    """
    boxes = rng.poisson(1.5, (images, CLASSES)) if boxes is None else boxes
    ease = rng.normal(0, 0.7, images)
    columns = []
    for label in range(CLASSES):
        image = np.repeat(np.arange(images), boxes[:, label])
        found = rng.random(len(image)) < 1 / (1 + np.exp(-(0.8 + skill + ease[image])))
        wrong = np.repeat(np.arange(images), rng.poisson(3 * np.exp(-0.5 * ease)))
        score = np.concatenate(
            [rng.normal(1 + 0.5 * ease[image[found]], 0.8), rng.normal(0, 0.8, len(wrong))]
        )
        right = np.arange(len(score)) < found.sum()
        order = np.argsort(-score)
        where = np.concatenate([image[found], wrong])
        columns.append((where[order], np.full(len(order), label), score[order], right[order]))
    image, label, score, right = map(np.concatenate, zip(*columns, strict=True))
    right = np.repeat(right[:, None], THRESHOLDS, axis=1)
    return Outcomes(image, label, score, right, ~right, boxes)


def resampled_coco(outcomes: Outcomes, weights: np.ndarray) -> dict[str, np.ndarray]:
    """AP, AP50 and AP75 of R resampled data sets, each (R,). weights: (N, R)."""
    return coco_numbers(*weighted_ap(outcomes, weights, weighted_boxes(outcomes, weights), "coco"))


def ap_of(outcomes: Outcomes) -> float:
    return float(resampled_coco(outcomes, np.ones((len(outcomes.boxes), 1), np.uint16))["AP"][0])


def true_ap(images: int) -> float:
    return ap_of(simulated(np.random.default_rng(1), images))


def estimated(sets: list[Outcomes], seed: int, draws: int = 200) -> Estimate:
    weights = drawn_weights(len(sets[0].boxes), draws, seed)
    return estimate([ap_of(one) for one in sets], [resampled_coco(one, weights)["AP"] for one in sets])


def covered(trials: int, images: int, truth_from: int) -> float:
    """The share of intervals that hold the AP of a data set of `truth_from` images."""
    truth = true_ap(truth_from)
    hits = 0
    for seed in range(trials):
        low, high = estimated([simulated(np.random.default_rng(seed), images)], seed).over_images
        hits += low <= truth <= high
    return hits / trials


def test_an_interval_holds_the_true_ap_about_as_often_as_it_says():
    assert covered(25, images=150, truth_from=5_000) >= 0.8


@pytest.mark.slow
def test_95_percent_intervals_hold_the_true_ap_in_93_to_97_percent_of_400_data_sets():
    assert 0.93 <= covered(400, images=300, truth_from=50_000) <= 0.97


def test_an_interval_over_seeds_is_student_s_when_images_do_not_matter():
    values = [0.3, 0.4, 0.5]
    draws = np.repeat(np.array(values)[:, None], 50, axis=1)
    result = estimate(values, draws)
    half = 4.302652729911275 * 0.1 / 3**0.5  # the 97.5 % quantile with two degrees of freedom
    assert_allclose(result.over_seeds, (0.4 - half, 0.4 + half), rtol=1e-9)
    assert_allclose(result.over_images, (0.4, 0.4), rtol=1e-9)


def test_a_single_seed_has_no_interval_over_seeds():
    result = estimated([simulated(np.random.default_rng(0), 50)], 0, draws=50)
    assert result.over_seeds is None
    assert result.over_images.low < result.value < result.over_images.high


def test_equal_seeds_add_nothing_to_the_variance_over_images():
    one = simulated(np.random.default_rng(0), 100)
    single = estimated([one], 0)
    double = estimated([one, one], 0)
    assert double.over_images == pytest.approx(single.over_images)
    half = (double.over_seeds.high - double.over_seeds.low) / 2
    assert half == pytest.approx((single.over_images.high - single.over_images.low) / 2, rel=0.1)


def p_values(trials: int, skill: float, draws: int = 99) -> np.ndarray:
    """Of two detectors on the same images, one of them better by `skill`."""
    values = []
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        boxes = rng.poisson(1.5, (60, CLASSES))
        pair = [simulated(rng, 60, boxes=boxes), simulated(rng, 60, skill, boxes=boxes)]
        values.append(permutation_p(pair[:1], pair[1:], draws=draws, seed=seed)["AP"])
    return np.array(values)


def assert_uniform(values: np.ndarray) -> None:
    """Kolmogorov and Smirnov's distance from the uniform distribution, at the 1 % level."""
    ranks = np.arange(1, len(values) + 1) / len(values)
    distance = np.abs(np.sort(values) - ranks).max()
    assert distance < 1.63 / len(values) ** 0.5


def test_p_values_of_equal_detectors_are_uniform():
    assert_uniform(p_values(60, skill=0.0))


@pytest.mark.slow
def test_p_values_of_equal_detectors_are_uniform_in_400_data_sets():
    values = p_values(400, skill=0.0)
    assert_uniform(values)
    assert 0.03 <= (values <= 0.05).mean() <= 0.07


def test_a_much_better_detector_has_a_small_p_value():
    assert p_values(5, skill=3.0).max() <= 0.02


def test_a_detector_beside_itself_has_p_1():
    one = simulated(np.random.default_rng(0), 40)
    assert set(permutation_p([one, one], [one, one], draws=50, seed=0).values()) == {1.0}
