"""Lists of images with a label each: what is read, and one problem with file and line for what is not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data.label_lists import label_list_sources, scan_label_list
from detectors.data.problems import KINDS
from tests.data.labelled import write_folder
from tests.data.test_fuzz_readers import assert_valid


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), {"a b": 2, "c": 2})


def listed(root, text, name="train.txt"):
    (root / name).write_text(text)
    return root


def test_labels_are_the_last_word_of_a_line(images):
    root = listed(images, "a b/0.png dog\n\n  c/1.png\tcat \na b/1.png cat\r\n")
    found, problems = scan_label_list(root=root, image_sets=["train.txt"])
    assert problems == []
    assert found.class_names == ("cat", "dog")
    assert list(found.image_ids) == ["a b/0.png", "c/1.png", "a b/1.png"]
    assert_array_equal(found.labels, [1, 0, 0])
    assert_array_equal(found.boxes_original, [[0, 0, 30, 20]] * 3)
    assert len(list(label_list_sources(root=root, image_sets=["train.txt"]))) == 4
    some, _ = scan_label_list(root=root, image_sets=["train.txt"], class_names=["dog", "cow"])
    assert list(some.image_ids) == ["a b/0.png"] and some.class_names == ("dog", "cow")


def test_problems_name_file_and_line(images, tmp_path):
    shutil.copytree(images, tmp_path / "set")
    root = tmp_path / "set"
    (root / "empty.png").touch()
    listed(root, "c/0.png dog\nc/9.png dog\nlonely\n../x.png dog\nc dog\nx/1.jpg dog\nempty.png dog\n")
    found, problems = scan_label_list(root=root, image_sets=["train.txt"])
    assert list(found.image_ids) == ["c/0.png"]
    texts = [str(problem) for problem in problems]
    file = root / "train.txt"
    assert texts[0] == f"{file}: line 3: 'lonely' has no label"
    assert texts[1] == f"{file}: line 2: 'c/9.png' is not there"
    assert texts[2].startswith(f"{file}: line 4: '../x.png' lies outside of {root}")
    assert texts[3].startswith(f"{root}/c: ") and texts[3].endswith(f"(line 5 of {file})")
    assert texts[4].startswith(f"{file}: line 6: 'x/1.jpg' is not there; there is 'a b/1.png' (in a")
    assert texts[5].endswith(f"(line 7 of {file})")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line with an image and its label; a line is PATH LABEL"),
        ("one\ntwo\n", "no line with an image"),
        ("c/0.png a\nc/0.png b\n", "listed more than once"),
        ("c/0.png a\0\n", "contains zero bytes"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_error(images, text, message):
    with pytest.raises(ValueError, match=message):
        scan_label_list(root=listed(images, text), image_sets=["train.txt"])
    with pytest.raises(FileNotFoundError, match=r"no\.txt: no such list of images"):
        scan_label_list(root=images, image_sets=["no.txt"])


def test_any_list_is_right_or_one_clear_error(images):
    """400 seeded cases of damage: a line cut, doubled, joined, or with bytes of another."""
    random = np.random.default_rng(0)
    lines = ["a b/0.png dog", "c/1.png cat", "c/0.png dog", "", "a b/1.png  two words"]
    pieces = ["\t", " ", "\n", "/", "..", "\0", "é", "dog", "#", "a b/0.png", "c", "\r", "'", "\x1b"]
    outcomes = set()
    errors = []
    for _ in range(400):
        text = "\n".join(random.permutation(lines)[: random.integers(6)])
        for _ in range(random.integers(1, 5)):
            at, end = sorted(random.integers(0, len(text) + 1, 2))
            text = (
                text[:at]
                + pieces[random.integers(len(pieces))]
                + text[end if random.random() < 0.5 else at :]
            )
        root = listed(images, text)
        try:
            found, problems = scan_label_list(root=root, image_sets=["train.txt"])
        except ValueError as error:
            errors.append(str(error))
            continue
        assert_valid((found, problems), images=8)
        assert all(KINDS[problem.kind].error for problem in problems)
        outcomes.add("problems" if problems else "right")
    assert outcomes == {"problems", "right"}
    assert errors and all("\n" not in text and len(text) < 500 for text in errors)
