"""The VOC reader: coordinates, order, flags, and a clear error for every fault that real data sets have."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data.class_names import VOC_CLASSES
from detectors.data.voc import read_voc, scan_voc
from tests.data.files import box_xml, write_image, write_voc


def test_boxes_are_read_by_name_with_continuous_edges(tmp_path):
    """VOC's corners are 1-based and inclusive, VOC2012 writes xmax first, a <part> has its own box and name.

    <filename> is wrong.
    """
    corners = "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
    parts = f"<part><name>x</name></part><part><name>head</name><bndbox>{corners}</bndbox></part>"
    xmax_first = "<bndbox><xmax>40</xmax><xmin>11.5</xmin><ymax>30</ymax><ymin>1</ymin></bndbox>"
    person = f"<object>{parts}<name> person </name><difficult>1</difficult>{xmax_first}</object>"
    objects = {
        "b": person + box_xml("dog", 1, 1, 80, 60),
        "empty": "",
        "a": box_xml("cat", 5, 6, 7, 8),
    }
    root = write_voc(tmp_path, objects)
    annotations = read_voc(root=root, image_sets=["train"])
    assert annotations.class_names == ("cat", "dog", "person")
    assert annotations.image_ids == ("b", "empty", "a")
    assert [Path(path).name for path in annotations.paths] == ["b.jpg", "empty.jpg", "a.jpg"]
    assert_array_equal(annotations.boxes_original, [[10.5, 0, 40, 30], [0, 0, 80, 60], [4, 5, 7, 8]])
    assert annotations.boxes_original.dtype == np.float64
    assert_array_equal(annotations.labels, [2, 1, 0])
    assert_array_equal(annotations.difficult, [True, False, False])
    assert_array_equal(annotations.offsets, [0, 2, 2, 3])
    assert_array_equal(annotations.sizes, [[60, 80]] * 3)
    assert_array_equal(annotations.areas, [29.5 * 30, 4800, 9])
    assert not annotations.crowd.any() and annotations.category_ids == (1, 2, 3)


def test_labels_are_indices_into_class_names(tmp_path):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5) + box_xml("dog", 1, 1, 5, 5)})
    annotations = read_voc(root=root, image_sets=["train"], class_names=["dog", "cow", "cat"])
    assert_array_equal(annotations.labels, [2, 0])


def test_years_are_joined_in_order_and_equal_stems_get_different_ids(tmp_path):
    for year, stems in (("VOC2007", "ab"), ("VOC2012", "bc")):
        write_voc(tmp_path / year, {stem: box_xml("cat", 1, 1, 5, 5) for stem in stems})
    annotations = read_voc(root=tmp_path, image_sets=["VOC2012/train", "VOC2007/train"])
    assert annotations.image_ids == ("VOC2012/b", "VOC2012/c", "VOC2007/a", "VOC2007/b")
    assert_array_equal(annotations.image, [0, 1, 2, 3])


@pytest.mark.parametrize(
    "size_xml", ["", "<size><width>0</width><height>0</height></size>", "<size><depth>3</depth></size>"]
)
def test_a_missing_size_comes_from_the_image(tmp_path, size_xml):
    root = write_voc(tmp_path, {"a": ""}, size=(33, 47), size_xml=size_xml)
    assert_array_equal(read_voc(root=root, image_sets=["train"], class_names=["cat"]).sizes, [[33, 47]])


def test_other_suffixes_are_found(tmp_path):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5), "b": ""})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/a.JPG")
    (root / "JPEGImages/b.jpg").unlink()
    write_image(root / "JPEGImages/b.png", (60, 80))
    assert [Path(path).name for path in read_voc(root=root, image_sets=["train"]).paths] == ["a.JPG", "b.png"]


DEGENERATE = {
    "good": box_xml("cat", 1, 1, 5, 5),
    "flat": box_xml("cat", 1, 1, 5, 5) + box_xml("dog", 50, 33, 50, 33) + box_xml("dog", 9, 9, 8, 20),
    "nan": box_xml("cat", "nan", 1, 5, 5),
}


def test_one_error_lists_all_degenerate_boxes(tmp_path):
    root = write_voc(tmp_path, DEGENERATE)
    with pytest.raises(ValueError) as caught:
        read_voc(root=root, image_sets=["train"])
    message = str(caught.value)
    assert "boxes without area: 2" in message and "data.on_error=skip" in message
    for fault in (
        "flat.xml: object 2 dog [50, 33, 50, 33]",
        "flat.xml: object 3 dog [9, 9, 8, 20]",
        "nan.xml: object 1 cat [nan, 1, 5, 5]",
    ):
        assert fault in message
    assert "good" not in message


def test_degenerate_boxes_are_dropped_with_a_warning(tmp_path, caplog):
    annotations = read_voc(root=write_voc(tmp_path, DEGENERATE), image_sets=["train"], on_error="skip")
    for text in ("left out: boxes without area: 2", "flat.xml: object 2", "nan.xml"):
        assert text in caplog.text
    assert_array_equal(annotations.offsets, [0, 1, 2, 2])  # the image that lost its only box stays
    assert_array_equal(annotations.boxes_original, [[0, 0, 5, 5]] * 2)
    for name in ("labels", "difficult", "crowd", "areas"):
        assert len(getattr(annotations, name)) == 2


FAULTS = {  # what breaks the folder, the error, parts of its message
    "no folder": (lambda root: shutil.rmtree(root), FileNotFoundError, ["voc: no such folder (data.root)"]),
    "no Annotations": (
        lambda root: shutil.rmtree(root / "Annotations"),
        FileNotFoundError,
        ["voc: not a VOC folder", "lacks Annotations", "a VOC folder contains JPEGImages/NAME.jpg"],
    ),
    "no split": (
        lambda root: (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trian.txt"),
        FileNotFoundError,
        ["Main/train.txt: no such split list; did you mean 'trian'"],
    ),
    "empty split": (
        lambda root: (root / "ImageSets/Main/train.txt").write_text("\n"),
        ValueError,
        ["train.txt: the split list is empty"],
    ),
    "not UTF-8": (
        lambda root: (root / "ImageSets/Main/train.txt").write_bytes(b"a\xff"),
        ValueError,
        ["train.txt: the split list is not UTF-8 text"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_with_another_layout_is_an_error(tmp_path, fault):
    breaks, kind, parts = FAULTS[fault]
    root = write_voc(tmp_path / "voc", {"a": box_xml("cat", 1, 1, 5, 5)})
    breaks(root)
    with pytest.raises(kind) as caught:
        scan_voc(root=root, image_sets=["train"], class_names=["horse", "cat"])
    for part in parts:
        assert part in str(caught.value)


def test_the_error_for_a_flat_folder_says_what_to_move(tmp_path):
    write_image(tmp_path / "a.jpg", (8, 8))
    for stem in "ab":
        (tmp_path / f"{stem}.xml").write_text("<annotation/>")
    with pytest.raises(FileNotFoundError) as caught:
        scan_voc(root=tmp_path, image_sets=["train"])
    assert "lacks JPEGImages, Annotations, ImageSets/Main" in str(caught.value)
    assert f"move the 2 XML files directly in {tmp_path} into Annotations/" in str(caught.value)
    assert f"move the 1 images directly in {tmp_path} into JPEGImages/" in str(caught.value)


def annotation_xml(name: object, *corners: object) -> str:
    return f"<a>{box_xml(name, *corners)}</a>"


XML_FAULTS = {  # the XML, the kind of the problem, its text
    "no bndbox": ("<a><object><name>cat</name></object></a>", "broken-object", "object 1 cat: no <bndbox>"),
    "no name": ("<a><object><bndbox/></object></a>", "broken-object", "object 1: no <name>"),
    "empty name": (annotation_xml(" ", 1, 1, 5, 5), "broken-object", "object 1: no <name>"),
    "no xmax": (
        annotation_xml("cat", 1, 1, 5, 5).replace("xmax", "xmx"),
        "broken-object",
        "object 1 cat: no <xmax>",
    ),
    "not a number": (
        annotation_xml("cat", 1, "two", 5, 5),
        "broken-object",
        "object 1 cat: <ymin> is 'two', not a number",
    ),
    "empty number": (
        annotation_xml("cat", 1, "", 5, 5),
        "broken-object",
        "object 1 cat: <ymin> is '', not a number",
    ),
    "an underscore": (
        annotation_xml("cat", 1, "1_0", 5, 20),
        "broken-object",
        "object 1 cat: <ymin> is '1_0', not a number",
    ),
    "an HTML page": (
        "<html><body/></html>",
        "broken-annotation",
        "its root is <html>, not <annotation>, and it has no <object>",
    ),
    "NaN": (annotation_xml("cat", 1, "NaN", 5, 5), "broken-object", "object 1 cat [1, nan, 5, 5]"),
    "infinite": (annotation_xml("cat", 1, 1, "inf", 5), "broken-object", "object 1 cat [1, 1, inf, 5]"),
    "huge": (annotation_xml("cat", 1, 1, 5, "1e308"), "broken-object", "object 1 cat [1, 1, 5, 1e+308]"),
    "overflow": (annotation_xml("cat", "-1e999", 1, 5, 5), "broken-object", "object 1 cat [-inf, 1, 5, 5]"),
    "a point": (annotation_xml("cat", 5, 5, 5, 5), "no-area", "object 1 cat [5, 5, 5, 5]"),
    "inside out": (annotation_xml("cat", 5, 5, 1, 9), "no-area", "object 1 cat [5, 5, 1, 9]"),
    "broken XML": ("<annotation><object>", "broken-annotation", "not well-formed XML"),
    "empty XML": ("", "broken-annotation", "not well-formed XML"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', "broken-annotation", "not well-formed XML"),
    "entities": (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><a>&b;</a>',
        "broken-annotation",
        "not well-formed XML",
    ),
    "unknown class": (
        annotation_xml("hrose", 1, 1, 5, 5),
        "unknown-class",
        "object 1 hrose [1, 1, 5, 5]; did you mean 'horse'?",
    ),
    "other class": (annotation_xml("zzz", 1, 1, 5, 5), "unknown-class", "object 1 zzz [1, 1, 5, 5]"),
}


@pytest.mark.parametrize("fault", XML_FAULTS)
def test_each_fault_is_one_problem_and_nothing_else_is_lost(tmp_path, fault, caplog):
    text, kind, what = XML_FAULTS[fault]
    root = write_voc(tmp_path, {"a": "", "good": box_xml("cat", 2, 3, 5, 5)})
    (root / "Annotations/a.xml").write_text(text)
    arguments = {"root": root, "image_sets": ["train"], "class_names": ["horse", "cat"]}
    annotations, (problem,) = scan_voc(**arguments)
    assert problem.kind == kind
    assert problem.file == str(root / "Annotations/a.xml")
    assert problem.image == str(root / "JPEGImages/a.jpg")
    assert what in problem.what
    assert annotations.image_ids == (("good",) if kind == "broken-annotation" else ("a", "good"))
    assert_array_equal(annotations.boxes_original, [[1, 2, 5, 5]])
    assert_array_equal(annotations.image, [len(annotations) - 1])
    with pytest.raises(ValueError, match="data.on_error=skip") as caught:
        read_voc(**arguments)
    assert "Annotations/a.xml: " in str(caught.value) and what in str(caught.value)
    assert len(read_voc(**arguments, on_error="skip").labels) == 1 and what in caplog.text


def test_missing_files_are_problems(tmp_path):
    root = write_voc(tmp_path, dict.fromkeys(("a", "b", "c", "d"), box_xml("cat", 1, 1, 5, 5)))
    (root / "Annotations/a.xml").unlink()
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/c.jpg").write_bytes(b"")
    (root / "Annotations/c.xml").write_text("<annotation/>")  # no size: the header is needed
    annotations, problems = scan_voc(root=root, image_sets=["train"])
    split = root / "ImageSets/Main/train.txt"
    assert [problem.kind for problem in problems] == ["missing-annotation", "missing-image", "broken-image"]
    assert str(problems[0]) == f"{root / 'Annotations/a.xml'}: {split} lists a"
    assert str(problems[1]) == f"{root / 'JPEGImages/b.jpg'}: listed in {split}"
    assert annotations.image_ids == ("d",)


@pytest.mark.parametrize("side", ["0", "-5", "nan", "inf", "1e400", "99999999999", "many", ""])
def test_an_invalid_size_comes_from_the_image(tmp_path, side):
    size_xml = f"<size><width>{side}</width><height>33</height></size>"
    root = write_voc(tmp_path, {"a": ""}, size=(33, 47), size_xml=size_xml)
    annotations, problems = scan_voc(root=root, image_sets=["train"])
    assert_array_equal(annotations.sizes, [[33, 47]])
    assert not problems


def test_a_data_set_without_any_class_is_refused(tmp_path):
    root = write_voc(tmp_path, {"a": ""})
    assert scan_voc(root=root, image_sets=["train"])[0].class_names == ()
    with pytest.raises(ValueError, match="no class at all"):
        read_voc(root=root, image_sets=["train"])


def test_the_error_for_a_devkit_without_a_year_says_what_to_write(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": box_xml("cat", 1, 1, 5, 5)})
    with pytest.raises(FileNotFoundError, match="name the image set VOC2007/train"):
        read_voc(root=tmp_path, image_sets=["train"])


def test_overlapping_sets_and_bad_settings_are_refused(tmp_path):
    root = write_voc(tmp_path, DEGENERATE)
    with pytest.raises(ValueError, match="listed more than once"):
        read_voc(root=root, image_sets=["train", "train"], on_error="skip")
    with pytest.raises(ValueError, match="on_error='keep': choose stop or skip"):
        read_voc(root=root, image_sets=["train"], on_error="keep")
    with pytest.raises(ValueError, match="'cat' more than once"):
        read_voc(root=root, image_sets=["train"], class_names=["cat", "dog", "cat"])
    with pytest.raises(ValueError, match="no image set"):
        read_voc(root=root, image_sets=[])


@pytest.mark.data
def test_bccd(shared, caplog):
    """4888 boxes, of which exactly two have no area (PROVENANCE.md counts objects from 0)."""
    arguments = {"root": shared / "data/bccd", "image_sets": ["trainval", "test"]}
    with pytest.raises(ValueError, match="boxes without area: 2") as caught:
        read_voc(**arguments)
    for fault in (
        "BloodImage_00338.xml: object 13 RBC [504, 337, 504, 337]",
        "BloodImage_00343.xml: object 4 RBC [181, 329, 181, 329]",
    ):
        assert fault in str(caught.value)
    annotations = read_voc(**arguments, on_error="skip")
    assert "BloodImage_00338.xml" in caplog.text and "BloodImage_00343.xml" in caplog.text
    assert (len(annotations), len(annotations.labels)) == (364, 4888 - 2)
    counts = dict(zip(annotations.class_names, np.bincount(annotations.labels).tolist(), strict=True))
    assert counts == {"Platelets": 361, "RBC": 4155 - 2, "WBC": 372}
    assert np.diff(annotations.offsets).max() == 30 and not annotations.difficult.any()
    assert_array_equal(annotations.sizes, [[480, 640]] * 364)


@pytest.mark.data
def test_voc2012_animals(shared):
    annotations = read_voc(
        root=shared / "data/voc2012-animals/VOCdevkit",
        image_sets=["VOC2012/train", "VOC2012/val"],
        class_names=list(VOC_CLASSES),
    )
    assert (len(annotations), len(annotations.labels), annotations.difficult.sum()) == (3426, 7168, 777)
    counts = dict(zip(VOC_CLASSES, np.bincount(annotations.labels, minlength=20).tolist(), strict=True))
    assert (counts["cat"], counts["dog"], counts["sheep"], counts["person"]) == (1223, 1532, 994, 1149)
    assert (annotations.boxes_original >= 0).all()
    assert (annotations.boxes_original[:, 2:] <= annotations.sizes[annotations.image][:, ::-1]).all()


@pytest.mark.data
def test_all_real_oddities_at_once(shared, tmp_path):
    """xmax first, fractional corners, depth 1, wrong <filename>s, boxes without area, broken images.

    Only the two boxes without area are left out.
    """
    images = {
        path.stem.split("_zero")[0].split("_trunc")[0]: path
        for path in (shared / "bad-input/images").iterdir()
    }
    stems = sorted(path.stem for path in (shared / "bad-input/xml").iterdir())
    assert len(stems) == 10
    root = write_voc(tmp_path, dict.fromkeys(stems, ""))
    for stem in stems:
        shutil.copyfile(shared / f"bad-input/xml/{stem}.xml", root / f"Annotations/{stem}.xml")
        if stem in images:
            shutil.copyfile(images[stem], root / f"JPEGImages/{stem}.jpg")
    annotations, problems = scan_voc(root=root, image_sets=["train"])
    assert annotations.image_ids == stems
    assert [str(problem) for problem in problems] == [
        f"{root}/Annotations/BloodImage_00338.xml: object 13 RBC [504, 337, 504, 337]",
        f"{root}/Annotations/BloodImage_00343.xml: object 4 RBC [181, 329, 181, 329]",
    ]
    counts = [(root / f"Annotations/{stem}.xml").read_text().count("<bndbox>") for stem in stems]
    assert np.diff(annotations.offsets).tolist() == [counts[0] - 1, counts[1] - 1, *counts[2:]]
    expected = {
        "voc2012_2009_000001_xmax_first": [[148, 86, 338, 238], [32, 106, 184, 251]],
        "voc2012_2011_003353": [[129, 44.70000076293945, 375, 470]],
        "voc2012_2011_006777": [[0, 280.70000076293945, 218, 500]],
        "raccoon-150": [[79, 61, 187, 169]],
    }
    for stem, boxes in expected.items():
        assert_array_equal(annotations.boxes_original[annotations.rows(stems.index(stem))], boxes)
    assert_array_equal(annotations.sizes[stems.index("raccoon-150")], [183, 275])


def test_a_set_without_any_known_object_is_refused(tmp_path, caplog):
    """Also where faults are skipped: numbers of a set without objects mean nothing."""
    root = write_voc(
        tmp_path, {"a": box_xml("cat", 1, 1, 5, 5), "empty": "", "b": box_xml("dog", 1, 1, 5, 5)}
    )
    known = read_voc(root=root, image_sets=["train"], class_names=["cow", "dog"], on_error="skip")
    assert len(known) == 3 and len(known.labels) == 1
    with pytest.raises(
        ValueError, match="no object is left: 2 of unknown classes; the classes here are: cow"
    ):
        read_voc(root=root, image_sets=["train"], class_names=["cow"], on_error="skip")
    write_voc(tmp_path / "empty", {"a": ""})
    read_voc(root=tmp_path / "empty", image_sets=["train"], class_names=["cow"], on_error="skip")
