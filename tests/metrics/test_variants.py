"""Every variant of AP against a naive double loop, and cases where its number follows on paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from detectors.annotations import Annotations
from detectors.metrics.coco import evaluate_coco
from detectors.metrics.report import report
from detectors.metrics.variants import ApVariant, ap_variants, variants_text
from detectors.structures import Detections
from tests.metrics.test_voc import VOC_CASES, voc_records
from tests.oracles import next_free_judge, one_ap_variant


def rows_of(annotations: Annotations, detections: Detections, **options) -> dict[str, ApVariant]:
    coco = report(annotations, detections).scalars
    return {row.name: row for row in ap_variants(annotations, detections, coco, **options)}


def kept(detections: Detections, rows: list[int]) -> Detections:
    rows = sorted(rows)
    return Detections(
        detections.image[rows], detections.boxes[rows], detections.scores[rows], detections.labels[rows]
    )


def best_rows(detections: Detections, group: list, most: int) -> list[int]:
    """The `most` best rows of each group, one after another."""
    seen = Counter()
    rows = []
    for row in sorted(range(len(group)), key=lambda row: -detections.scores[row].item()):
        seen[group[row]] += 1
        if seen[group[row]] <= most:
            rows.append(row)
    return rows


def with_sides(annotations: Annotations, detections: Detections, pixels: int):
    """Boxes are several pixels wide."""
    edges = np.array([0, 0, pixels, pixels])
    return (
        replace(annotations, boxes_original=annotations.boxes_original + edges),
        replace(detections, boxes=detections.boxes + torch.from_numpy(edges).float()),
    )


def expected_rows(annotations: Annotations, detections: Detections) -> dict[str, float]:
    """Each variant's AP by the naive loops, by its name."""
    case = (annotations, detections)
    images = detections.image.tolist()
    scores = detections.scores.tolist()
    places = [(image, *box) for image, box in zip(images, detections.boxes.tolist(), strict=True)]
    stats = evaluate_coco(*case).stats
    changed = {
        f"score_{f'{floor:g}'[1:]}": kept(detections, [row for row, s in enumerate(scores) if s > floor])
        for floor in (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
    } | {
        "best_100": kept(detections, best_rows(detections, images, 100)),
        "best_200": kept(detections, best_rows(detections, images, 200)),
        "one_class": kept(detections, best_rows(detections, places, 1)),
        "rounded": replace(detections, scores=torch.tensor([round(score, 3) for score in scores])),
        "clipped": replace(detections, boxes=clipped(annotations, detections)),
    }
    ones = kept(detections, [row for row, score in enumerate(scores) if score > 0.01])
    changed["score_.01_best_200"] = kept(ones, best_rows(ones, ones.image.tolist(), 200))
    count = len(annotations.class_names)
    absent = count - len(set(annotations.labels[~(annotations.difficult | annotations.crowd)].tolist()))
    voc07, voc10 = one_ap_variant(*case)
    inclusive07, inclusive10 = one_ap_variant(*case, inclusive=True)
    return {
        "voc10": voc10,
        "voc07": voc07,
        "voc07_inclusive": inclusive07,
        "coco_ap50": stats["AP50"],
        "coco_ap": stats["AP"],
        "inclusive": inclusive10,
        "shorter_sides": one_ap_variant(*with_sides(*case, -1))[1],
        "longer_sides": one_ap_variant(*with_sides(*case, 1))[1],
        "difficult": one_ap_variant(*case, difficult_counts=True)[1],
        "difficult_inclusive": one_ap_variant(*case, difficult_counts=True, inclusive=True)[1],
        "next_free": one_ap_variant(*case, judge=next_free_judge)[1],
        "next_free_inclusive": one_ap_variant(*case, judge=next_free_judge, inclusive=True)[1],
        "absent_classes": (voc10 * (count - absent) - absent) / count,
        **{name: one_ap_variant(annotations, other)[1] for name, other in changed.items()},
    }


def clipped(annotations: Annotations, detections: Detections) -> torch.Tensor:
    boxes = detections.boxes.tolist()
    for row, image in enumerate(detections.image.tolist()):
        height, width = annotations.sizes[image].tolist()
        sides = (width, height, width, height)
        boxes[row] = [min(max(x, 0.0), side) for x, side in zip(boxes[row], sides, strict=True)]
    return torch.tensor(boxes).reshape(-1, 4)


SCORES = (0.0004, 0.0007, 0.001, 0.003, 0.005, 0.008, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.4004, 0.4001, 0.7)


def dense_case(seed: int) -> tuple[Annotations, Detections]:
    """Small boxes on a grid of half pixels and few scores: equal IoUs, IoUs of 1/2, ties, duplicates, boxes
    outside the image. The last class has no box.
    """
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 6, (14, 2)) * 1.0
    gt_boxes = np.concatenate([corner, corner + rng.integers(1, 6, (14, 2))], axis=1)
    labels = rng.integers(0, 2, 14)
    gt_boxes[1:7:2] = gt_boxes[:6:2] + np.array(
        [1, 0, 1, 0]
    )  # neighbours of one class: one detection matches both
    labels[1:7:2] = labels[:6:2]
    annotations = Annotations(
        class_names=("a", "b", "none"),
        image_ids=("x", "y"),
        paths=("x.jpg", "y.jpg"),
        sizes=np.array([[11, 10], [9, 11]]),
        offsets=np.array([0, 9, 14]),
        boxes_original=gt_boxes,
        labels=labels,
        difficult=rng.random(14) < 0.2,
        crowd=rng.random(14) < 0.1,
        areas=(gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(1),
        category_ids=(1, 2, 3),
    )
    count = 400
    nearby = rng.integers(0, 14, count)
    boxes = gt_boxes[nearby] + rng.integers(-2, 3, (count, 4)) * 0.5
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    scores = np.where(np.isin(nearby, (0, 9)), SCORES[0], rng.choice(SCORES, count))  # two are found last
    detections = Detections(
        torch.from_numpy((nearby >= 9) ^ (rng.random(count) < 0.1)).long(),
        torch.from_numpy(boxes).float(),
        torch.from_numpy(scores).float(),
        torch.from_numpy(rng.integers(0, 3, count)),
    )
    return annotations, detections


@pytest.mark.parametrize("seed", range(4))
def test_naive_loops(seed):
    annotations, detections = dense_case(seed)
    rows = rows_of(annotations, detections)
    expected = expected_rows(annotations, detections)
    assert rows.keys() == expected.keys()
    for name, ap in expected.items():
        assert rows[name].ap == pytest.approx(ap, abs=1e-9), name


def test_the_cases_above_tell_all_variants_apart():
    same = {row.name for row in rows_of(*dense_case(0)).values()}
    for seed in range(4):
        rows = rows_of(*dense_case(seed))
        same &= {name for name, row in rows.items() if row.ap == rows["voc10"].ap}
    assert same == {"voc10"}


def one_class(gt: list, found: list, *, difficult: tuple = (), names: tuple = ("a",), size: int = 100):
    """gt: boxes of class 0 in one image. found: (score, label, box)."""
    boxes = np.array(gt, dtype=np.float64).reshape(-1, 4)
    flags = np.zeros(len(boxes), dtype=bool)
    annotations = Annotations(
        class_names=names,
        image_ids=("x",),
        paths=("x.jpg",),
        sizes=np.array([[size, size]]),
        offsets=np.array([0, len(boxes)]),
        boxes_original=boxes,
        labels=np.zeros(len(boxes), dtype=np.int64),
        difficult=np.isin(np.arange(len(boxes)), difficult),
        crowd=flags,
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
        category_ids=tuple(range(1, len(names) + 1)),
    )
    scores, labels, corners = zip(*found, strict=True)
    image = torch.zeros(len(found), dtype=torch.int64)
    return annotations, Detections(
        image, torch.tensor(corners).float(), torch.tensor(scores), torch.tensor(labels)
    )


def aps(case: tuple, *names: str, **options) -> list[float]:
    rows = rows_of(*case, **options)
    return [rows[name].ap for name in names]


def test_an_iou_of_exactly_one_half():
    case = one_class([[0, 0, 10, 10]], [(0.9, 0, [0, 0, 10, 5])])
    assert aps(case, "voc10", "inclusive", "voc07_inclusive") == [0, 1, 1]


def test_a_pixel_on_each_side():
    """IoU of 4 x 8 in 8 x 8 is 1/2; a pixel more on each side makes it 5/9, a pixel less 3/7."""
    case = one_class([[0, 0, 8, 8]], [(0.9, 0, [0, 0, 4, 8])])
    assert aps(case, "voc10", "longer_sides", "shorter_sides", "inclusive") == [0, 1, 0, 1]
    above = one_class([[0, 0, 8, 8]], [(0.9, 0, [0, 0, 4.4, 8])])  # .55; 3.4 / 7 is .486
    assert aps(above, "voc10", "longer_sides", "shorter_sides") == [1, 1, 0]


def test_a_side_below_a_pixel_does_not_become_negative():
    case = one_class([[0, 0, 0.5, 0.5]], [(0.9, 0, [0, 0, 0.5, 0.5])])
    assert aps(case, "voc10", "shorter_sides") == [1, 0]


def test_difficult_boxes_as_ordinary_ones():
    """One ordinary box is found behind the difficult one: 1 of 1, or 2 of 3 with the missed difficult box."""
    gt = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    found = [(0.9, 0, gt[1]), (0.8, 0, gt[0])]
    names = ("voc10", "difficult", "difficult_inclusive")
    assert aps(one_class(gt, found, difficult=(1, 2)), *names) == pytest.approx([1, 2 / 3, 2 / 3])


def test_the_next_free_box():
    """Both detections overlap the first box most, at IoU .8 and .75, and the second one at .6 and .54."""
    gt = [[0, 0, 10, 10], [0, 3, 10, 13]]
    found = [(0.9, 0, [0, 1.1, 10, 11.1]), (0.8, 0, [0, 1.4, 10, 11.4])]
    assert aps(one_class(gt, found), "voc10", "next_free", "coco_ap50") == pytest.approx([0.5, 1, 1])
    three = one_class(gt, [*found, (0.7, 0, gt[1])])
    assert aps(three, "voc10", "next_free") == pytest.approx([0.5 + 0.5 * 2 / 3, 1])


def test_no_free_box_but_a_difficult_one():
    """The second detection would take the first box again; the difficult box makes it count for nothing."""
    gt = [[0, 0, 10, 10], [0, 3, 10, 13], [50, 50, 60, 60]]
    found = [(0.9, 0, gt[0]), (0.8, 0, [0, 1, 10, 11]), (0.7, 0, gt[2])]
    case = one_class(gt, found, difficult=(1,))
    assert aps(case, "voc10", "next_free") == pytest.approx([0.5 + 0.5 * 2 / 3, 1])


def test_absent_classes():
    case = one_class([[0, 0, 10, 10]], [(0.9, 0, [0, 0, 10, 10])], names=("a", "b", "c"))
    assert aps(case, "voc10", "absent_classes") == pytest.approx([1, -1 / 3])


def test_score_floors():
    """The score itself is not above it. Without the detection there is nothing found."""
    case = one_class([[0, 0, 10, 10]], [(0.25, 0, [0, 0, 10, 10])])
    assert aps(case, "score_.1", "score_.25", "score_.5") == [1, 0, 0]


def test_the_best_100_of_an_image():
    """The 101st is the only one that is right."""
    wrong = [(0.9 - n / 1000, 0, [50, 50, 60, 60]) for n in range(100)]
    case = one_class([[0, 0, 10, 10]], [(0.5, 0, [0, 0, 10, 10]), *wrong])
    assert aps(case, "voc10", "best_100", "best_200", "coco_ap50") == pytest.approx([1 / 101, 0, 1 / 101, 0])


def test_one_class_for_each_box():
    """The box is also called b, with a better score, so that a is lost."""
    box = [0, 0, 10, 10]
    found = [(0.5, 0, box), (0.6, 1, box)]
    assert aps(one_class([box], found, names=("a", "b")), "voc10", "one_class") == [1, 0]
    moved = [(0.5, 0, box), (0.6, 1, [0, 0, 10, 10.001])]
    assert aps(one_class([box], moved, names=("a", "b")), "one_class") == [1]


def test_rounding_makes_ties():
    """Of equal scores the first in order comes first: the wrong one."""
    box = [0, 0, 10, 10]
    case = one_class([box], [(0.9001, 0, [50, 50, 60, 60]), (0.9002, 0, box)])
    assert aps(case, "voc10", "rounded") == [1, 0.5]


def test_boxes_outside_the_image():
    """A box twice as long as its truth, the second half outside the image."""
    case = one_class([[50, 0, 100, 10]], [(0.9, 0, [50, 0, 150, 10])])
    assert aps(case, "voc10", "clipped") == [0, 1]
    annotations, detections = case
    inside = replace(detections, boxes=detections.boxes.clamp(max=100))
    assert aps((annotations, inside), "voc10", "unclipped", unclipped=detections) == [1, 0]


def test_no_ground_truth():
    case = one_class([], [(0.9, 0, [0, 0, 10, 10])])
    rows = list(rows_of(*case).values())
    assert {row.ap for row in rows if row.name != "absent_classes"} == {None}
    assert variants_text(rows).splitlines()[1].split()[-2:] == ["-", "voc_eval.py"]


def test_the_devkits_number_by_its_name():
    """VOCevaldet.m's recorded answers, in a case where they differ from voc_eval.py's."""
    case = next(case for case in VOC_CASES.values() if "inclusive" in case["expected"]["0.5"])
    answer = case["expected"]["0.5"]
    rows = rows_of(*voc_records(case))
    for name, rule, key in (
        ("voc10", "strict", "map10"),
        ("voc07", "strict", "map07"),
        ("inclusive", "inclusive", "map10"),
        ("voc07_inclusive", "inclusive", "map07"),
    ):
        assert rows[name].ap == pytest.approx(answer[rule][key], abs=1e-9)


def test_the_table_names_each_difference():
    case = one_class([[0, 0, 10, 10]], [(0.9, 0, [0, 0, 10, 5])])
    rows = list(rows_of(*case).values())
    lines = variants_text(rows).splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[1].endswith("0.0000              voc_eval.py")
    (inclusive,) = [line for line in lines if line.startswith("IoU >= .5")]
    assert inclusive.split()[-4:] == ["1.0000", "+1.0000", "VOCdevkit's", "VOCevaldet.m"]
    assert rows[0].as_dict(rows[0]) == {
        "name": "voc10",
        "differs": "AP50 (VOC10 area): IoU > .5, all detections",
        "used_by": "voc_eval.py",
        "AP": 0.0,
        "difference": 0.0,
    }
