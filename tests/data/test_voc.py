"""The VOC reader: coordinates, order, flags, and one clear error for each fault that data sets have."""

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
    """VOC's 1-based inclusive corners; VOC2012 writes xmax first; a <part> has a box and a name of its own; <filename> lies."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    swapped = "<bndbox><xmax>40</xmax><xmin>11.5</xmin><ymax>30</ymax><ymin>1</ymin></bndbox>"
    odd = f"<object><part><name>x</name></part>{part}<name> person </name><difficult>1</difficult>{swapped}</object>"
    root = write_voc(
        tmp_path, {"b": odd + box_xml("dog", 1, 1, 80, 60), "empty": "", "a": box_xml("cat", 5, 6, 7, 8)}
    )
    truths = read_voc(root=root, image_sets=["train"])
    assert truths.class_names == ("cat", "dog", "person")
    assert truths.image_ids == ("b", "empty", "a")
    assert [Path(path).name for path in truths.paths] == ["b.jpg", "empty.jpg", "a.jpg"]
    assert_array_equal(truths.boxes_original, [[10.5, 0, 40, 30], [0, 0, 80, 60], [4, 5, 7, 8]])
    assert truths.boxes_original.dtype == np.float64
    assert_array_equal(truths.labels, [2, 1, 0])
    assert_array_equal(truths.difficult, [True, False, False])
    assert_array_equal(truths.offsets, [0, 2, 2, 3])
    assert_array_equal(truths.sizes, [[60, 80]] * 3)
    assert_array_equal(truths.areas, [29.5 * 30, 4800, 9])
    assert not truths.crowd.any() and truths.category_ids == (1, 2, 3)


def test_class_names_give_the_labels(tmp_path):
    root = write_voc(tmp_path, {"a": box_xml("cat", 1, 1, 5, 5) + box_xml("dog", 1, 1, 5, 5)})
    assert_array_equal(
        read_voc(root=root, image_sets=["train"], class_names=["dog", "cow", "cat"]).labels, [2, 0]
    )


def test_years_are_joined_in_order_and_equal_stems_stay_apart(tmp_path):
    for year, stems in (("VOC2007", "ab"), ("VOC2012", "bc")):
        write_voc(tmp_path / year, {stem: box_xml("cat", 1, 1, 5, 5) for stem in stems})
    truths = read_voc(root=tmp_path, image_sets=["VOC2012/train", "VOC2007/train"])
    assert truths.image_ids == ("VOC2012/b", "VOC2012/c", "VOC2007/a", "VOC2007/b")
    assert_array_equal(truths.image, [0, 1, 2, 3])


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


def test_all_degenerate_boxes_stand_in_one_error(tmp_path):
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
    truths = read_voc(root=write_voc(tmp_path, DEGENERATE), image_sets=["train"], on_error="skip")
    assert (
        "left out: boxes without area: 2" in caplog.text
        and "flat.xml: object 2" in caplog.text
        and "nan.xml" in caplog.text
    )
    assert_array_equal(truths.offsets, [0, 1, 2, 2])  # the image that lost its only box stays
    assert_array_equal(truths.boxes_original, [[0, 0, 5, 5]] * 2)
    assert len(truths.labels) == len(truths.difficult) == len(truths.crowd) == len(truths.areas) == 2


FAULTS = {  # what breaks the folder, the error, what its message holds
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
    "no text": (
        lambda root: (root / "ImageSets/Main/train.txt").write_bytes(b"a\xff"),
        ValueError,
        ["train.txt: the split list is not UTF-8 text"],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_of_another_layout_is_one_error(tmp_path, fault):
    breaks, kind, parts = FAULTS[fault]
    root = write_voc(tmp_path / "voc", {"a": box_xml("cat", 1, 1, 5, 5)})
    breaks(root)
    with pytest.raises(kind) as caught:
        scan_voc(root=root, image_sets=["train"], class_names=["horse", "cat"])
    for part in parts:
        assert part in str(caught.value)


def test_a_folder_with_everything_in_one_place_says_what_to_move(tmp_path):
    write_image(tmp_path / "a.jpg", (8, 8))
    for stem in "ab":
        (tmp_path / f"{stem}.xml").write_text("<annotation/>")
    with pytest.raises(FileNotFoundError) as caught:
        scan_voc(root=tmp_path, image_sets=["train"])
    assert "lacks JPEGImages, Annotations, ImageSets/Main" in str(caught.value)
    assert f"move the 2 XML files directly in {tmp_path} into Annotations/" in str(caught.value)
    assert f"move the 1 images directly in {tmp_path} into JPEGImages/" in str(caught.value)


def faulty(name: object, *corners: object) -> str:
    return f"<a>{box_xml(name, *corners)}</a>"


XML_FAULTS = {  # the XML, the kind of its finding, what it says
    "no bndbox": ("<a><object><name>cat</name></object></a>", "broken-object", "object 1 cat: no <bndbox>"),
    "no name": ("<a><object><bndbox/></object></a>", "broken-object", "object 1: no <name>"),
    "empty name": (faulty(" ", 1, 1, 5, 5), "broken-object", "object 1: no <name>"),
    "no xmax": (faulty("cat", 1, 1, 5, 5).replace("xmax", "xmx"), "broken-object", "object 1 cat: no <xmax>"),
    "no number": (
        faulty("cat", 1, "two", 5, 5),
        "broken-object",
        "object 1 cat: <ymin> is 'two', not a number",
    ),
    "nothing": (faulty("cat", 1, "", 5, 5), "broken-object", "object 1 cat: <ymin> is '', not a number"),
    "an underscore": (
        faulty("cat", 1, "1_0", 5, 20),
        "broken-object",
        "object 1 cat: <ymin> is '1_0', not a number",
    ),
    "another page": (
        "<html><body/></html>",
        "broken-annotation",
        "its root is <html>, not <annotation>, and it has no <object>",
    ),
    "NaN": (faulty("cat", 1, "NaN", 5, 5), "broken-object", "object 1 cat [1, nan, 5, 5]"),
    "infinite": (faulty("cat", 1, 1, "inf", 5), "broken-object", "object 1 cat [1, 1, inf, 5]"),
    "huge": (faulty("cat", 1, 1, 5, "1e308"), "broken-object", "object 1 cat [1, 1, 5, 1e+308]"),
    "overflow": (faulty("cat", "-1e999", 1, 5, 5), "broken-object", "object 1 cat [-inf, 1, 5, 5]"),
    "a point": (faulty("cat", 5, 5, 5, 5), "no-area", "object 1 cat [5, 5, 5, 5]"),
    "inside out": (faulty("cat", 5, 5, 1, 9), "no-area", "object 1 cat [5, 5, 1, 9]"),
    "broken XML": ("<annotation><object>", "broken-annotation", "not well-formed XML"),
    "empty XML": ("", "broken-annotation", "not well-formed XML"),
    "encoding": ('<?xml version="1.0" encoding="klingon"?><a/>', "broken-annotation", "not well-formed XML"),
    "entities": (
        '<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><a>&b;</a>',
        "broken-annotation",
        "not well-formed XML",
    ),
    "unknown class": (
        faulty("hrose", 1, 1, 5, 5),
        "unknown-class",
        "object 1 hrose [1, 1, 5, 5]; did you mean 'horse'?",
    ),
    "other class": (faulty("zzz", 1, 1, 5, 5), "unknown-class", "object 1 zzz [1, 1, 5, 5]"),
}


@pytest.mark.parametrize("fault", XML_FAULTS)
def test_each_fault_is_one_finding_and_nothing_else_is_lost(tmp_path, fault, caplog):
    text, kind, what = XML_FAULTS[fault]
    root = write_voc(tmp_path, {"a": "", "good": box_xml("cat", 2, 3, 5, 5)})
    (root / "Annotations/a.xml").write_text(text)
    arguments = {"root": root, "image_sets": ["train"], "class_names": ["horse", "cat"]}
    truths, (problem,) = scan_voc(**arguments)
    assert (problem.kind, problem.file, problem.image) == (
        kind,
        str(root / "Annotations/a.xml"),
        str(root / "JPEGImages/a.jpg"),
    )
    assert what in problem.what
    assert truths.image_ids == (("good",) if kind == "broken-annotation" else ("a", "good"))
    assert_array_equal(truths.boxes_original, [[1, 2, 5, 5]])
    assert_array_equal(truths.image, [len(truths) - 1])
    with pytest.raises(ValueError, match="data.on_error=skip") as caught:
        read_voc(**arguments)
    assert "Annotations/a.xml: " in str(caught.value) and what in str(caught.value)
    assert len(read_voc(**arguments, on_error="skip").labels) == 1 and what in caplog.text


def test_missing_files_are_findings(tmp_path):
    root = write_voc(tmp_path, dict.fromkeys(("a", "b", "c", "d"), box_xml("cat", 1, 1, 5, 5)))
    (root / "Annotations/a.xml").unlink()
    (root / "JPEGImages/b.jpg").unlink()
    (root / "JPEGImages/c.jpg").write_bytes(b"")
    (root / "Annotations/c.xml").write_text("<annotation/>")  # no size: the header is needed
    truths, problems = scan_voc(root=root, image_sets=["train"])
    split = root / "ImageSets/Main/train.txt"
    assert [problem.kind for problem in problems] == ["missing-annotation", "missing-image", "broken-image"]
    assert str(problems[0]) == f"{root / 'Annotations/a.xml'}: {split} lists a"
    assert str(problems[1]) == f"{root / 'JPEGImages/b.jpg'}: listed in {split}"
    assert truths.image_ids == ("d",)


@pytest.mark.parametrize("side", ["0", "-5", "nan", "inf", "1e400", "99999999999", "many", ""])
def test_a_senseless_size_comes_from_the_image(tmp_path, side):
    root = write_voc(
        tmp_path, {"a": ""}, size=(33, 47), size_xml=f"<size><width>{side}</width><height>33</height></size>"
    )
    truths, problems = scan_voc(root=root, image_sets=["train"])
    assert_array_equal(truths.sizes, [[33, 47]])
    assert not problems


def test_no_class_at_all(tmp_path):
    root = write_voc(tmp_path, {"a": ""})
    assert scan_voc(root=root, image_sets=["train"])[0].class_names == ()
    with pytest.raises(ValueError, match="no class at all"):
        read_voc(root=root, image_sets=["train"])


def test_a_devkit_asked_for_a_bare_split_says_what_to_write(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": box_xml("cat", 1, 1, 5, 5)})
    with pytest.raises(FileNotFoundError, match=r"write data\.image_sets=\[VOC2007/train\]"):
        read_voc(root=tmp_path, image_sets=["train"])


def test_overlapping_sets_and_bad_settings_are_refused(tmp_path):
    root = write_voc(tmp_path, DEGENERATE)
    with pytest.raises(ValueError, match="listed more than once"):
        read_voc(root=root, image_sets=["train", "train"], on_error="skip")
    with pytest.raises(ValueError, match="on_error='keep': choose stop or skip"):
        read_voc(root=root, image_sets=["train"], on_error="keep")
    with pytest.raises(ValueError, match="'cat' more than once"):
        read_voc(root=root, image_sets=["train"], class_names=["cat", "dog", "cat"])
    with pytest.raises(ValueError, match="data.image_sets is empty"):
        read_voc(root=root, image_sets=[])


@pytest.mark.data
def test_bccd(shared, caplog):
    """All 4888 boxes; exactly two have no area (PROVENANCE.md counts their objects from 0)."""
    arguments = {"root": shared / "data/bccd", "image_sets": ["trainval", "test"]}
    with pytest.raises(ValueError, match="boxes without area: 2") as caught:
        read_voc(**arguments)
    for fault in (
        "BloodImage_00338.xml: object 13 RBC [504, 337, 504, 337]",
        "BloodImage_00343.xml: object 4 RBC [181, 329, 181, 329]",
    ):
        assert fault in str(caught.value)
    truths = read_voc(**arguments, on_error="skip")
    assert "BloodImage_00338.xml" in caplog.text and "BloodImage_00343.xml" in caplog.text
    assert (len(truths), len(truths.labels)) == (364, 4888 - 2)
    counts = dict(zip(truths.class_names, np.bincount(truths.labels).tolist(), strict=True))
    assert counts == {"Platelets": 361, "RBC": 4155 - 2, "WBC": 372}
    assert np.diff(truths.offsets).max() == 30 and not truths.difficult.any()
    assert_array_equal(truths.sizes, [[480, 640]] * 364)


@pytest.mark.data
def test_voc2012_animals(shared):
    truths = read_voc(
        root=shared / "data/voc2012-animals/VOCdevkit",
        image_sets=["VOC2012/train", "VOC2012/val"],
        class_names=list(VOC_CLASSES),
    )
    assert (len(truths), len(truths.labels), truths.difficult.sum()) == (3426, 7168, 777)
    counts = dict(zip(VOC_CLASSES, np.bincount(truths.labels, minlength=20).tolist(), strict=True))
    assert (counts["cat"], counts["dog"], counts["sheep"], counts["person"]) == (1223, 1532, 994, 1149)
    assert (truths.boxes_original >= 0).all() and (
        truths.boxes_original[:, 2:] <= truths.sizes[truths.image][:, ::-1]
    ).all()


@pytest.mark.data
def test_every_real_oddity_at_once(shared, tmp_path):
    """xmax first, parts of pixels, depth 1, wrong <filename>s, boxes without area, broken images: two boxes are left out, nothing else."""
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
    truths, problems = scan_voc(root=root, image_sets=["train"])
    assert truths.image_ids == stems
    assert [str(problem) for problem in problems] == [
        f"{root}/Annotations/BloodImage_00338.xml: object 13 RBC [504, 337, 504, 337]",
        f"{root}/Annotations/BloodImage_00343.xml: object 4 RBC [181, 329, 181, 329]",
    ]
    written = [(root / f"Annotations/{stem}.xml").read_text().count("<bndbox>") for stem in stems]
    assert np.diff(truths.offsets).tolist() == [written[0] - 1, written[1] - 1, *written[2:]]
    expected = {
        "voc2012_2009_000001_xmax_first": [[148, 86, 338, 238], [32, 106, 184, 251]],
        "voc2012_2011_003353": [[129, 44.70000076293945, 375, 470]],
        "voc2012_2011_006777": [[0, 280.70000076293945, 218, 500]],
        "raccoon-150": [[79, 61, 187, 169]],
    }
    for stem, boxes in expected.items():
        assert_array_equal(truths.boxes_original[truths.rows(stems.index(stem))], boxes)
    assert_array_equal(truths.sizes[stems.index("raccoon-150")], [183, 275])
