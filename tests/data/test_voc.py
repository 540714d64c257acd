"""The VOC reader: coordinates, order, flags, and one clear error for each fault that data sets have."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detectors.data.voc import VOC_CLASSES, read_voc
from tests.data.files import box_xml, write_image, write_voc


def test_boxes_are_read_by_name_with_continuous_edges(tmp_path):
    """VOC's 1-based inclusive corners; VOC2012 writes xmax first; a <part> has a box and a name of its own; <filename> lies."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    swapped = "<bndbox><xmax>40</xmax><xmin>11.5</xmin><ymax>30</ymax><ymin>1</ymin></bndbox>"
    odd = f"<object><part><name>x</name></part>{part}<name> person </name><difficult>1</difficult>{swapped}</object>"
    root = write_voc(tmp_path, {"b": odd + box_xml("dog", 1, 1, 80, 60), "empty": "", "a": box_xml("cat", 5, 6, 7, 8)})
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
    assert_array_equal(read_voc(root=root, image_sets=["train"], class_names=["dog", "cow", "cat"]).labels, [2, 0])


def test_years_are_joined_in_order_and_equal_stems_stay_apart(tmp_path):
    for year, stems in (("VOC2007", "ab"), ("VOC2012", "bc")):
        write_voc(tmp_path / year, {stem: box_xml("cat", 1, 1, 5, 5) for stem in stems})
    truths = read_voc(root=tmp_path, image_sets=["VOC2012/train", "VOC2007/train"])
    assert truths.image_ids == ("VOC2012/b", "VOC2012/c", "VOC2007/a", "VOC2007/b")
    assert_array_equal(truths.image, [0, 1, 2, 3])


@pytest.mark.parametrize("size_xml", ["", "<size><width>0</width><height>0</height></size>", "<size><depth>3</depth></size>"])
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
    assert "3 boxes without area" in message and "data.on_degenerate=drop" in message
    for fault in ("flat.xml object 2 dog [50, 33, 50, 33]", "flat.xml object 3 dog [9, 9, 8, 20]", "nan.xml object 1 cat [nan, 1, 5, 5]"):
        assert fault in message
    assert "good" not in message


def test_degenerate_boxes_are_dropped_with_a_warning(tmp_path, caplog):
    truths = read_voc(root=write_voc(tmp_path, DEGENERATE), image_sets=["train"], on_degenerate="drop")
    assert "left out 3 boxes" in caplog.text and "flat.xml object 2" in caplog.text and "nan.xml" in caplog.text
    assert_array_equal(truths.offsets, [0, 1, 2, 2])  # the image that lost its only box stays
    assert_array_equal(truths.boxes_original, [[0, 0, 5, 5]] * 2)
    assert len(truths.labels) == len(truths.difficult) == len(truths.crowd) == len(truths.areas) == 2


def break_xml(root: Path, text: str) -> None:
    (root / "Annotations/a.xml").write_text(text)


FAULTS = {  # what breaks the folder, the error, what its message holds
    "no folder": (lambda root: shutil.rmtree(root), FileNotFoundError, ["voc: no such folder (data.root)"]),
    "no Annotations": (lambda root: shutil.rmtree(root / "Annotations"), FileNotFoundError, ["voc: not a VOC folder", "lacks Annotations"]),
    "no split": (
        lambda root: (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trian.txt"),
        FileNotFoundError,
        ["Main/train.txt: no such split list; did you mean 'trian'"],
    ),
    "empty split": (lambda root: (root / "ImageSets/Main/train.txt").write_text("\n"), ValueError, ["train.txt: the split list is empty"]),
    "no XML": (
        lambda root: (root / "Annotations/a.xml").unlink(),
        FileNotFoundError,
        ["Annotations/a.xml: no such annotation", "train.txt lists a"],
    ),
    "no image": (lambda root: (root / "JPEGImages/a.jpg").unlink(), FileNotFoundError, ["JPEGImages/a.jpg: no such image", "train.txt"]),
}
XML_FAULTS = {  # the XML, what the message holds
    "no bndbox": ("<a><object><name>cat</name></object></a>", ["a.xml object 1 cat: no <bndbox>"]),
    "no name": ("<a><object><bndbox/></object></a>", ["a.xml object 1: no <name>"]),
    "no xmax": (f"<a>{box_xml('cat', 1, 1, 5, 5)}</a>".replace("xmax", "xmx"), ["a.xml object 1 cat: no <xmax>"]),
    "no number": (f"<a>{box_xml('cat', 1, 'two', 5, 5)}</a>", ["a.xml object 1 cat: <ymin> is 'two', not a number"]),
    "broken XML": ("<annotation><object>", ["a.xml: not well-formed XML"]),
    "unknown class": (
        f"<a>{box_xml('hrose', 1, 1, 5, 5)}</a>",
        ["a.xml: unknown class 'hrose'", "did you mean 'horse'?", "known classes: horse, cat", "data.class_names"],
    ),
}
FAULTS |= {name: (lambda root, text=text: break_xml(root, text), ValueError, parts) for name, (text, parts) in XML_FAULTS.items()}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_error_that_names_the_file(tmp_path, fault):
    breaks, kind, parts = FAULTS[fault]
    root = write_voc(tmp_path / "voc", {"a": box_xml("cat", 1, 1, 5, 5)})
    breaks(root)
    with pytest.raises(kind) as caught:
        read_voc(root=root, image_sets=["train"], class_names=["horse", "cat"])
    for part in parts:
        assert part in str(caught.value)


def test_a_devkit_asked_for_a_bare_split_says_what_to_write(tmp_path):
    write_voc(tmp_path / "VOC2007", {"a": box_xml("cat", 1, 1, 5, 5)})
    with pytest.raises(FileNotFoundError, match=r"write data\.image_sets=\[VOC2007/train\]"):
        read_voc(root=tmp_path, image_sets=["train"])


def test_overlapping_sets_and_bad_settings_are_refused(tmp_path):
    root = write_voc(tmp_path, DEGENERATE)
    with pytest.raises(ValueError, match="listed more than once"):
        read_voc(root=root, image_sets=["train", "train"], on_degenerate="drop")
    with pytest.raises(ValueError, match="on_degenerate='keep': choose error or drop"):
        read_voc(root=root, image_sets=["train"], on_degenerate="keep")
    with pytest.raises(ValueError, match="'cat' more than once"):
        read_voc(root=root, image_sets=["train"], class_names=["cat", "dog", "cat"])
    with pytest.raises(ValueError, match="data.image_sets is empty"):
        read_voc(root=root, image_sets=[])


@pytest.mark.data
def test_bccd(shared, caplog):
    """All 4888 boxes; exactly two have no area (PROVENANCE.md counts their objects from 0)."""
    arguments = {"root": shared / "data/bccd", "image_sets": ["trainval", "test"]}
    with pytest.raises(ValueError, match="2 boxes without area") as caught:
        read_voc(**arguments)
    for fault in ("BloodImage_00338.xml object 13 RBC [504, 337, 504, 337]", "BloodImage_00343.xml object 4 RBC [181, 329, 181, 329]"):
        assert fault in str(caught.value)
    truths = read_voc(**arguments, on_degenerate="drop")
    assert "BloodImage_00338.xml" in caplog.text and "BloodImage_00343.xml" in caplog.text
    assert (len(truths), len(truths.labels)) == (364, 4888 - 2)
    counts = dict(zip(truths.class_names, np.bincount(truths.labels).tolist(), strict=True))
    assert counts == {"Platelets": 361, "RBC": 4155 - 2, "WBC": 372}
    assert np.diff(truths.offsets).max() == 30 and not truths.difficult.any()
    assert_array_equal(truths.sizes, [[480, 640]] * 364)


@pytest.mark.data
def test_voc2012_animals(shared):
    truths = read_voc(
        root=shared / "data/voc2012-animals/VOCdevkit", image_sets=["VOC2012/train", "VOC2012/val"], class_names=list(VOC_CLASSES)
    )
    assert (len(truths), len(truths.labels), truths.difficult.sum()) == (3426, 7168, 777)
    counts = dict(zip(VOC_CLASSES, np.bincount(truths.labels, minlength=20).tolist(), strict=True))
    assert (counts["cat"], counts["dog"], counts["sheep"], counts["person"]) == (1223, 1532, 994, 1149)
    assert (truths.boxes_original >= 0).all() and (truths.boxes_original[:, 2:] <= truths.sizes[truths.image][:, ::-1]).all()


@pytest.mark.data
def test_real_oddities(shared, tmp_path):
    """xmax first, a float ymin, XML of grayscale images (depth 1)."""
    expected = {
        "voc2012_2009_000001_xmax_first": [[148, 86, 338, 238], [32, 106, 184, 251]],
        "voc2012_2011_003353": [[129, 44.70000076293945, 375, 470]],
        "raccoon-150": None,
    }
    root = write_voc(tmp_path, dict.fromkeys(expected, ""))
    for stem in expected:
        shutil.copyfile(shared / f"bad-input/xml/{stem}.xml", root / f"Annotations/{stem}.xml")
    truths = read_voc(root=root, image_sets=["train"])
    for row, boxes in enumerate(expected.values()):
        if boxes:
            assert_array_equal(truths.boxes_original[truths.rows(row)], boxes)
    assert_array_equal(truths.sizes[2], [183, 275])


@pytest.mark.data
@pytest.mark.slow
def test_07_plus_12_counts_equal_the_published_tables(shared, tmp_path):
    for year in ("VOC2007", "VOC2012"):
        with tarfile.open(shared / f"data/voc-annotations/{year}_annotations_splits.tar.xz") as archive:
            archive.extractall(tmp_path, filter="data")
    for year in (path.parent for path in tmp_path.rglob("Annotations")):
        (year / "JPEGImages").mkdir()
        for stem in (year / "ImageSets/Main/trainval.txt").read_text().split():
            (year / f"JPEGImages/{stem}.jpg").touch()
    devkit = next(tmp_path.rglob("VOC2007")).parent
    truths = read_voc(root=devkit, image_sets=["VOC2007/trainval", "VOC2012/trainval"], class_names=list(VOC_CLASSES))
    assert (len(truths), len(truths.labels)) == (5011 + 11540, 15662 + 31561)
    assert (~truths.difficult).sum() == 12608 + 27450
    assert len(set(truths.image_ids)) == len(truths) and truths.image_ids[0] == "000005"
