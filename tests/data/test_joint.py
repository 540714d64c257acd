"""Several sets under one tree: nodes of classes, labels without boxes, the order in which sets are drawn."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.annotations import Annotations
from detectors.data.darknet_labels import scan_darknet
from detectors.data.joint import Source, joined_sets, labels_alone, nodes_of_classes, with_nodes
from detectors.data.sampling import ResumableSampler, SourceMix
from tests.data.files import write_darknet

NODES = ("animal", "thing", "cat", "dog", "cup")


def a_set(name: str, labels: list[list[int]], class_names: tuple[str, ...]) -> Annotations:
    """labels: of the boxes of each image."""
    flat = np.array(list(chain(*labels)), np.int64)
    return Annotations(
        class_names=class_names,
        image_ids=[f"{name}{n}" for n in range(len(labels))],
        paths=[f"/{name}/{n}.jpg" for n in range(len(labels))],
        sizes=np.full((len(labels), 2), 50),
        offsets=np.cumsum([0, *map(len, labels)]),
        boxes_original=np.arange(4 * len(flat)).reshape(-1, 4) + np.array([0.0, 0, 9, 9]),
        labels=flat,
        difficult=np.zeros(len(flat), bool),
        crowd=np.zeros(len(flat), bool),
        areas=np.ones(len(flat)),
        category_ids=tuple(range(1, len(class_names) + 1)),
    )


def test_classes_become_nodes_by_name_or_as_given():
    nodes = nodes_of_classes(("dog", "mug"), NODES, {"mug": "cup"}, "data.mix.a")
    assert_array_equal(nodes, [3, 4])
    mapped = with_nodes(a_set("a", [[1, 0], []], ("dog", "mug")), nodes, NODES)
    assert mapped.class_names == NODES and mapped.category_ids == (1, 2, 3, 4, 5)
    assert_array_equal(mapped.labels, [4, 3])


@pytest.mark.parametrize(
    ("classes", "given", "messages"),
    [
        (("dgo",), {}, ["data.mix.a: the class 'dgo' is no node of data.tree; did you mean 'dog'?"]),
        (("dog",), {"dgo": "dog"}, ["data.mix.a.nodes={dgo: dog}: the set has no class 'dgo'; did you mean"]),
        (
            ("dog", "mug"),
            {"dog": "dgo"},
            [
                "data.mix.a.nodes={dog: dgo}: data.tree has no node 'dgo'; did you mean 'dog'?",
                "data.mix.a: the class 'mug' is no node",
            ],
        ),
    ],
)
def test_classes_without_a_node_are_one_error(classes, given, messages):
    with pytest.raises(ValueError, match="nodes={CLASS: NODE}") as error:
        nodes_of_classes(classes, NODES, given, "data.mix.a")
    for message in messages:
        assert message in str(error.value)


def test_images_of_one_class_keep_its_label_alone():
    alone, dropped = labels_alone(a_set("a", [[2, 2], [], [3], [2, 3], [2]], NODES))
    assert dropped == 2
    assert list(alone.image_ids) == ["a0", "a2", "a4"]
    assert_array_equal(alone.image_labels, [2, 3, 2])
    assert_array_equal(alone.offsets, [0, 0, 0, 0])
    assert len(alone.boxes_original) == len(alone.labels) == len(alone.areas) == 0


def test_joined_sets_keep_their_boxes_and_labels():
    boxes = a_set("a", [[2], [], [3, 4]], NODES)
    labels, _ = labels_alone(a_set("b", [[2, 2], [3]], NODES))
    both = joined_sets([Source("first", boxes), Source("second", labels)])
    assert list(both.image_ids) == ["first/a0", "first/a1", "first/a2", "second/b0", "second/b1"]
    assert list(both.paths) == ["/a/0.jpg", "/a/1.jpg", "/a/2.jpg", "/b/0.jpg", "/b/1.jpg"]
    assert both.parts == (3, 2)
    assert_array_equal(both.image_labels, [-1, -1, -1, 2, 3])
    assert_array_equal(both.offsets, [0, 1, 1, 3, 3, 3])
    assert_array_equal(both.boxes_original, boxes.boxes_original)
    assert_array_equal(both.labels, [2, 3, 4])
    single = joined_sets([Source("first", boxes)])
    assert list(single.image_ids) == ["a0", "a1", "a2"]
    assert_array_equal(single.image_labels, [-1, -1, -1])


# --- the order ---


def keys_of(mix: SourceMix, steps: int, batch_size: int = 4, **options) -> list:
    sampler = ResumableSampler(images=sum(mix.sizes), batch_size=batch_size, seed=5, mix=mix, **options)
    batches = iter(sampler)
    return [next(batches) for _ in range(steps)]


def test_sets_are_drawn_in_the_stated_ratio():
    """3 : 1 of 40 images: 30 places of a set of 8 in each epoch, 10 of a set of 32."""
    mix = SourceMix(("a", "b"), (8, 32), (3.0, 1.0))
    assert_array_equal(mix.counts(), [30, 10])
    for epoch in range(3):
        _, rows = mix.order(seed=5, epoch=epoch)
        assert (rows < 8).sum() == 30
    keys = list(chain(*keys_of(mix, steps=160)))  # 16 epochs
    assert len(set(keys)) == len(keys)  # so that no two samples have the same random numbers
    counts = np.bincount([key.index for key in keys], minlength=40)
    assert_array_equal(counts[:8], 60)  # 480 draws of 8 images: each set is used up before it starts again
    assert_array_equal(counts[8:], 5)


def test_a_pass_of_a_set_is_used_up_before_the_next():
    mix = SourceMix(("a", "b"), (7, 13), (1.0, 1.0))
    keys = [key for key in chain(*keys_of(mix, steps=70)) if key.index < 7]
    passes = [key.epoch for key in keys]
    assert all({k.index for k in keys if k.epoch == turn} == set(range(7)) for turn in range(max(passes)))
    sources = np.array([key.index < 7 for key in chain(*keys_of(mix, steps=10))])
    assert 0 < np.abs(np.diff(sources.astype(int))).sum() < 39  # shuffled, neither in blocks nor in turn


def test_the_order_of_a_mix_is_resumable_and_shared_by_processes():
    mix = SourceMix(("a", "b", "c"), (3, 20, 9), (1.0, 2.0, 0.5))
    whole = keys_of(mix, steps=40)
    for start in (1, 13, 39):
        assert keys_of(mix, 40 - start, start_step=start) == whole[start:]
        assert keys_of(mix, 40 - start, start_step=3, start_image=4 * start) == whole[start:]
    two = [keys_of(mix, 40, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*two, strict=True)] == whole


def test_other_images_of_the_same_set_stand_in():
    mix = SourceMix(("a", "b", "c"), (3, 20, 9), (1.0, 1.0, 1.0))
    assert [mix.like(row) for row in (0, 2, 3, 22, 23, 31)] == [
        (0, 3), (0, 3), (3, 23), (3, 23), (23, 32), (23, 32),
    ]  # fmt: skip


def test_a_weight_that_is_too_small_is_an_error():
    mix = SourceMix(("a", "b"), (10, 10), (1000.0, 1.0))
    with pytest.raises(ValueError, match=r"data\.mix\.b\.weight=1: its share of the 20 images is less than"):
        mix.counts()


# --- Darknet's marking ---


def test_darknets_zeros_are_a_label_alone(tmp_path):
    """The first such line decides, and the image has no box; without a tree it is the fault it always was."""
    texts = {
        "images/a": "1 .5 .5 .2 .2\n",
        "images/b": "4 0 0 0 0\n",
        "images/c": "0 .5 .5 .2 .2\n3 0 0 0 0\n2 0 0 0 0\n",
        "images/d": "",
    }
    root = write_darknet(tmp_path, texts, labels="labels")
    found, problems = scan_darknet(root=root, image_sets=["images"], class_names=["x", "y"], nodes=5)
    assert problems == []
    assert list(found.image_ids) == ["a", "b", "c", "d"]
    assert_array_equal(found.image_labels, [-1, 4, 3, -1])
    assert_array_equal(found.offsets, [0, 1, 1, 1, 1])
    assert_array_equal(found.labels, [1])
    _, problems = scan_darknet(root=root, image_sets=["images"], class_names=["x", "y", "z", "v", "w"])
    assert [problem.kind for problem in problems] == ["no-area"] * 3


def test_a_label_that_is_no_node_names_its_line(tmp_path):
    root = write_darknet(tmp_path, {"images/a": "\n0 .5 .5 .2 .2\n5 0 0 0 0\n"}, labels="labels")
    found, problems = scan_darknet(root=root, image_sets=["images"], class_names=["x"], nodes=5)
    assert len(found) == 0
    (problem,) = problems
    assert str(problem) == f"{root}/labels/a.txt: line 3: the label 5 is no node of data.tree, 0 to 4"


def test_boxes_at_the_corner_stay_boxes(tmp_path):
    """Darknet looks at the centre alone; here all four numbers must be zero."""
    root = write_darknet(tmp_path, {"images/a": "0 0 0 .2 .2\n"}, labels="labels")
    found, problems = scan_darknet(root=root, image_sets=["images"], class_names=["x"], nodes=5)
    assert problems == [] and len(found.labels) == 1
    assert_array_equal(found.image_labels, [-1])


def test_any_label_file_is_right_or_one_clear_problem(tmp_path):
    """500 seeded files of lines with and without boxes: no row of a label alone becomes a box."""
    random = np.random.default_rng(0)
    root = write_darknet(tmp_path, {"images/a": "", "images/b": "0 .5 .5 .2 .2\n"}, labels="labels")
    numbers = ["0", "1", "4", "5", "-1", "0.0", "-0", "0e0", ".5", "1e9", "nan", "x", "999999", "#", "", "\t"]
    alone = boxes = faults = 0
    for _ in range(500):
        lines = [
            " ".join(numbers[it] for it in random.integers(len(numbers), size=random.integers(1, 7)))
            if random.random() < 0.4
            else f"{random.integers(-1, 7)} " + ("0 0 0 0" if random.random() < 0.5 else ".5 .5 .2 .2")
            for _ in range(random.integers(4))
        ]
        (root / "labels/a.txt").write_text("\n".join(lines))
        found, problems = scan_darknet(root=root, image_sets=["images"], class_names=["x", "y"], nodes=5)
        assert all(
            problem.what.startswith("line ") and problem.file.endswith("a.txt") for problem in problems
        )
        assert len(found.image_labels) == len(found) and found.image_labels.max() < 5
        counts = np.diff(found.offsets)
        assert not counts[found.image_labels >= 0].any() and (found.image_labels >= -1).all()
        alone += int((found.image_labels >= 0).sum())
        boxes += len(found.labels) - 1
        faults += len(problems)
    assert min(alone, boxes, faults) > 30
