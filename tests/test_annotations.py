"""Ground truth in flat arrays: rows of an image, texts in one buffer, and no copies in workers."""

from __future__ import annotations

import gc
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from detectors.annotations import Annotations, Texts, pack_ids


def test_annotations_know_the_image_of_each_box():
    flags = np.zeros(3, bool)
    annotations = Annotations(
        class_names=("cat",),
        image_ids=("a", "b", "c"),
        paths=("a.jpg", "b.jpg", "c.jpg"),
        sizes=np.full((3, 2), 10),
        offsets=np.array([0, 2, 2, 3]),
        boxes_original=np.zeros((3, 4)),
        labels=np.zeros(3, np.int64),
        difficult=flags,
        crowd=flags,
        areas=np.zeros(3),
        category_ids=(1,),
    )
    assert len(annotations) == 3
    assert annotations.image.tolist() == [0, 0, 2]
    assert annotations.rows(2) == slice(2, 3)


def test_annotations_without_images():
    nothing = Annotations.without_images(("cat", "dog"))
    assert (len(nothing), len(nothing.labels), nothing.class_names, nothing.category_ids) == (
        0,
        0,
        ("cat", "dog"),
        (1, 2),
    )
    assert nothing.image.shape == nothing.labels.shape == (0,)


def test_texts_behave_as_a_sequence_of_str():
    words = [
        "a",
        "",
        "ünï",
        "long " * 20,
        "\udcff",
        "\ud800",
    ]  # the last two: a name of a file, and of JSON, that UTF-8 does not have
    texts = Texts(words)
    assert list(texts) == words and [texts[i] for i in range(-6, 6)] == words * 2 and len(texts) == 6
    assert texts == words and texts == tuple(words) and words == texts and texts == Texts(words)
    assert (
        texts != words[:5]
        and texts != [*words[:5], "x"]
        and texts != "a"
        and Texts(["a"]) != "a"
        and Texts() == []
    )
    assert texts[1:4] == tuple(words[1:4]) and texts.index("ünï") == 2 and "a" in texts and "b" not in texts
    assert all(type(text) is str for text in texts) and pickle.loads(pickle.dumps(texts)) == words
    assert texts[np.int64(2)] == "ünï"
    with pytest.raises(IndexError):
        texts[6]


def test_ids_keep_their_type():
    for ids in ([5, -7, 2**62], ["a", "b"], []):
        packed = pack_ids(ids)
        assert list(packed) == ids and [type(i) for i in packed] == [type(i) for i in ids]
        assert list(pack_ids(packed)) == list(pickle.loads(pickle.dumps(packed))) == ids
    assert pack_ids([1, "x", 2**70]) == ["1", "x", str(2**70)]


def _growth(sequences, results) -> None:
    """Kilobytes that this process alone holds after it has looked at everything, beyond those before."""

    def private() -> int:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))

    gc.disable()  # a collection would write into the shared pages, too
    before = private()
    for sequence in sequences:
        for item in sequence:
            hash(item)
    results.put(private() - before)


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="Linux says what a process holds alone"
)
def test_a_worker_that_reads_paths_and_ids_copies_nothing():
    """100,000 of them: as tuples 9 MB come to be copied."""
    paths = [f"/data/train2017/{number:012d}.jpg" for number in range(100000)]
    context, grown = multiprocessing.get_context("fork"), []
    for sequences in ((Texts(paths), pack_ids(list(range(10**6, 10**6 + 100000)))), (tuple(paths),)):
        results = context.Queue()
        worker = context.Process(target=_growth, args=(sequences, results))
        worker.start()
        grown.append(results.get(timeout=30))
        worker.join(30)
    assert grown[0] < 1500 and grown[1] > 5000, grown
