"""detectors convert data=...: what is written is read back the same, in each order of formats."""

from __future__ import annotations

import json
import os
import shlex
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from detectors.annotations import Annotations
from detectors.commands.convert.command import main
from detectors.commands.convert.dataset_files import FORMAT_WRITERS, image_names
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.training import ground_truth
from tests.data.files import box_xml, write_darknet, write_image, write_voc

SIZE = (60, 80)  # (height, width) of every image
NAMES = ["zebra", "a cat", "chien à poil", "no"]
FORMATS = sorted(FORMAT_WRITERS)


def convert(capsys, *arguments: object) -> list[str]:
    """The printed lines. The last is a command: its settings choose the written set."""
    main([*map(str, arguments), "data.cache=null"])
    return capsys.readouterr().out.splitlines()


def read(settings: list[str], split: str) -> Annotations:
    return ground_truth.read_annotations(check(composed([*settings, "data.cache=null"])).data, split)


def settings_of(lines: list[str]) -> list[str]:
    words = shlex.split(lines[-1])
    assert words[:2] == ["python", "train.py"]
    return words[2:]


def write_source(root: Path, seed: int) -> list[str]:
    """A set in COCO's format: two splits, subfolders, odd names, boxes with many digits, empty images."""
    rng = np.random.default_rng(seed)
    files = {
        "train": [
            "b.jpg",
            "sub dir/b.jpg",
            "a  b.jpg",
            "é.png",
            "sub dir/deeper/c.JPG",
            "1 1.jpg",
            "x.y.jpg",
        ],
        "val": ["b.jpg", "only val.jpg"],
    }
    for split, names in files.items():
        boxes = []
        for image in range(len(names)):
            write_image(root / split / names[image], SIZE, seed=100 * len(split) + image)
            for _ in range(0 if image == 2 else rng.integers(1, 5)):
                corner = rng.uniform(-5, 50, 2).round(rng.integers(0, 16))
                sides = rng.uniform(1.5, 40, 2).round(rng.integers(1, 16))
                label = int(rng.integers(len(NAMES)))
                boxes.append({"image_id": image, "category_id": label, "bbox": [*corner, *sides]})
        boxes += [{"image_id": 0, "category_id": label, "bbox": [1, 2, 3, 4]} for label in range(len(NAMES))]
        content = {
            "images": [
                {"id": n, "file_name": name, "height": 60, "width": 80} for n, name in enumerate(names)
            ],
            "annotations": boxes,
            "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
        }
        (root / "annotations").mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return ["data=coco", f"data.root={root}"]


def assert_same(ours: Annotations, theirs: Annotations) -> None:
    """Images by their content, in order; classes, labels, boxes."""
    assert [Path(path).read_bytes() for path in ours.paths] == [
        Path(path).read_bytes() for path in theirs.paths
    ]
    assert ours.class_names == theirs.class_names
    assert_array_equal(ours.offsets, theirs.offsets)
    assert_array_equal(ours.labels, theirs.labels)
    assert_array_equal(ours.sizes, theirs.sizes)
    assert_allclose(ours.boxes_original, theirs.boxes_original, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("seed", "steps"), list(enumerate(permutations(FORMATS, 2))))
def test_round_trips(seed, steps, tmp_path, capsys):
    """COCO -> first -> second -> COCO: the same images, classes and boxes after each step."""
    settings = write_source(tmp_path / "source", seed)
    expected = {split: read(settings, split) for split in ("train", "val")}
    for number, target in enumerate((*steps, "coco")):
        settings = settings_of(convert(capsys, *settings, "--to", target, tmp_path / f"{number} {target}"))
        for split in expected:
            assert_same(read(settings, split), expected[split])


def test_whole_numbers_stay_whole(tmp_path, capsys):
    """A box of VOC's pixels comes back from Darknet's fractions as the same text."""
    root = write_voc(
        tmp_path / "voc", {"a": box_xml("cat", 12, 7, 71, 58), "b": box_xml("cat", 1.5, 7, 71, 58)}
    )
    to_darknet = convert(
        capsys, "data=voc", f"data.root={root}", "data.val=[]", "--to", "darknet", tmp_path / "d"
    )
    convert(capsys, *settings_of(to_darknet), "--to", "voc", tmp_path / "v")
    corners = "<xmin>12</xmin><ymin>7</ymin><xmax>71</xmax><ymax>58</ymax>"
    assert corners in (tmp_path / "v/Annotations/a.xml").read_text()
    assert "<xmin>1.5</xmin>" in (tmp_path / "v/Annotations/b.xml").read_text()


def darknet_set(root: Path) -> list[str]:
    """a: two objects; b: none."""
    texts = {"images/train/a": "1 .5 .5 .25 .5\n0 .25 .25 .5 .5", "images/train/b": None}
    write_darknet(root, texts, labels="labels")
    (root / "x.names").write_text("zebra\ncat\n")
    return ["data=darknet", f"data.root={root}", "data.val=[]"]


def test_the_files_of_each_format(tmp_path, capsys):
    """Each worked out by hand from 30, 15, 50, 45 and 0, 0, 40, 30, of 80 x 60 pixels."""
    source = darknet_set(tmp_path / "source")
    voc, coco, darknet = tmp_path / "voc", tmp_path / "coco", tmp_path / "new/darknet"
    assert convert(capsys, *source, "--to", "voc", voc) == [
        "train: 2 images, 2 boxes",
        f"written: {voc} (voc)",
        f"python train.py data=voc data.root={voc} 'data.val=[]' 'data.class_names=[\"zebra\",\"cat\"]'",
    ]
    assert (voc / "Annotations/a.xml").read_text() == (
        "<annotation>\n  <filename>a.jpg</filename>\n"
        "  <size><width>80</width><height>60</height><depth>3</depth></size>\n"
        "  <object><name>cat</name><difficult>0</difficult><bndbox><xmin>31</xmin><ymin>16</ymin>"
        "<xmax>50</xmax><ymax>45</ymax></bndbox></object>\n"
        "  <object><name>zebra</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>40</xmax><ymax>30</ymax></bndbox></object>\n"
        "</annotation>\n"
    )
    assert (voc / "ImageSets/Main/train.txt").read_text() == "a\nb\n"
    convert(capsys, *source, "--to", "coco", coco)
    assert json.loads((coco / "annotations/train.json").read_text()) == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 80, "height": 60},
            {"id": 2, "file_name": "b.jpg", "width": 80, "height": 60},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [30, 15, 20, 30], "area": 600, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "zebra"}, {"id": 2, "name": "cat"}],
    }
    convert(capsys, *source, "--to", "darknet", darknet)
    files = {str(path.relative_to(darknet)) for path in darknet.rglob("*") if path.is_file()}
    texts = {name: (darknet / name).read_text() for name in files if not name.endswith(".jpg")}
    assert files - texts.keys() == {"images/train/a.jpg", "images/train/b.jpg"}
    assert texts == {
        "labels/train/a.txt": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n",
        "labels/train/b.txt": "",
        "train.txt": "./images/train/a.jpg\n./images/train/b.jpg\n",
        "data.yaml": "train: train.txt\nnames:\n  0: zebra\n  1: cat\n",
        "darknet.names": "zebra\ncat\n",
        "darknet.data": "classes = 2\ntrain = train.txt\nnames = darknet.names\nbackup = backup\n",
    }


def coco_with_flags(root: Path) -> list[str]:
    settings = write_source(root, 0)
    file = root / "annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= {"iscrowd": 1, "area": 3.5}
    file.write_text(json.dumps(content))
    return settings


def test_what_a_format_cannot_express(tmp_path, capsys):
    settings = coco_with_flags(tmp_path / "source")
    lost = "not kept, because the format cannot express it: "
    areas = "1 crowd (now ordinary boxes), 1 areas other than width * height"
    assert f"{lost}{areas}" in convert(capsys, *settings, "--to", "voc", tmp_path / "voc")
    assert f"{lost}{areas}" in convert(capsys, *settings, "--to", "darknet", tmp_path / "darknet")
    lines = convert(capsys, *settings, "--to", "coco", tmp_path / "coco")
    assert not any(line.startswith(lost) for line in lines)
    kept = read(settings_of(lines), "train")
    original = read(settings, "train")
    for name in ("crowd", "areas", "image_ids"):
        assert_array_equal(getattr(kept, name), getattr(original, name))
    content = json.loads((tmp_path / "source/annotations/val.json").read_text())
    content["annotations"] = [
        {"image_id": 0, "category_id": 1, "bbox": box}
        for box in ([5, 5, 20, 20], [5, 5, 1, 20], [5, 5, 20, 0.5], [300, 5, 20, 20])
    ]
    (tmp_path / "source/annotations/val.json").write_text(json.dumps(content))
    settings.append("data.train=[annotations/val.json]")
    settings += ["data.image_folders.train=val", "data.val=[]"]
    lines = convert(capsys, *settings, "--to", "voc", tmp_path / "voc 2")
    assert lines[:2] == [
        "train: 2 images, 2 boxes",
        f"{lost}2 boxes at most one pixel wide or high (left out)",
    ]
    assert len(read(settings_of(lines), "train").labels) == 2
    lines = convert(capsys, *settings, "--to", "darknet", tmp_path / "darknet 2")
    assert lines[1] == f"{lost}1 boxes that reach out of their image by more than its size (left out)"
    assert len(read(settings_of(lines), "train").labels) == 3
    flagged = box_xml("cat", 5, 5, 20, 20, extra="<difficult>1</difficult>")
    root = write_voc(tmp_path / "flagged", {"a": flagged})
    source = ["data=voc", f"data.root={root}", "data.val=[]"]
    assert f"{lost}1 difficult (now ordinary boxes)" in convert(
        capsys, *source, "--to", "coco", tmp_path / "c"
    )
    lines = convert(capsys, *source, "--to", "voc", tmp_path / "v")
    assert read(settings_of(lines), "train").difficult.tolist() == [True]


def test_images_of_two_splits_are_one_file_in_voc(tmp_path, capsys):
    root = write_voc(tmp_path / "source", {"a": box_xml("cat", 5, 5, 20, 20)})
    source = ["data=voc", f"data.root={root}", "data.val=[train]", "data.test=[train]"]
    for target in FORMATS:
        settings = settings_of(convert(capsys, *source, "--to", target, tmp_path / target))
        assert len(read(settings, "test")) == len(read(settings, "val")) == 1
    assert len(list((tmp_path / "voc/JPEGImages").iterdir())) == 1


@pytest.mark.parametrize("images", ["copy", "link", "none"])
def test_images(images, tmp_path, capsys):
    source = darknet_set(tmp_path / "source")
    convert(capsys, *source, "--to", "coco", tmp_path / "new", "--images", images)
    place = tmp_path / "new/train/a.jpg"
    assert place.exists() == (images != "none")
    if images != "none":
        same = os.path.samefile(place, tmp_path / "source/images/train/a.jpg")
        assert same == (images == "link")


def test_faults_are_left_out_or_stop(tmp_path, capsys):
    source = darknet_set(tmp_path / "source")
    (tmp_path / "source/labels/train/a.txt").write_text("0 .5 .5 0 .1\n1 .5 .5 .25 .5")
    with pytest.raises(SystemExit) as stop:
        convert(capsys, *source, "--to", "coco", tmp_path / "new")
    assert stop.value.code == 2 and "boxes without area: 1" in capsys.readouterr().err
    lines = convert(capsys, *source, "data.on_error=skip", "--to", "coco", tmp_path / "new")
    assert lines[0] == "train: 2 images, 1 boxes; 1 faults left out"


def test_names_that_lists_cannot_hold():
    names = ["/x/a.jpg", "/x/s/a.png", "/x/s/t/a.jpg", "/x/ b.jpg", "/x/c\nd.jpg", "/x/s_a.jpg"]
    assert list(image_names(names).values()) == [
        "a.jpg",
        "s_a_2.png",
        "s_t_a.jpg",
        "_b.jpg",
        "c_d.jpg",
        "s_a.jpg",
    ]
    assert image_names([]) == {}


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        convert(capsys, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.splitlines()[0]


def test_what_is_refused(tmp_path, capsys):
    source = darknet_set(tmp_path / "source")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    assert refused(capsys, *source, "--to", "voc", full) == (
        f"error: {full}: is not an empty folder; name a new one, so that nothing is overwritten"
    )
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert refused(capsys, *source, tmp_path / "x") == (
        "error: data sets are written as voc, coco, darknet: choose one with --to"
    )
    assert refused(capsys, *source, tmp_path / "x", tmp_path / "y", "--to", "voc").startswith(
        "error: name one folder to write the data set into, besides key=value (named: "
    )
    assert refused(capsys, "a.pt", "b.pt", "--to", "voc") == (
        "error: --to voc: is a format of data sets; choose the set with data=..., such as data=voc"
    )
    (tmp_path / "file").write_text("")
    assert refused(capsys, *source, "--to", "voc", tmp_path / "file/x").startswith(
        f"error: {tmp_path}/file/x: not written: "
    )
    (tmp_path / "file").unlink()
    (tmp_path / "source/x.names").write_text("ze  bra\ncat\n")
    assert refused(capsys, *source, "--to", "voc", tmp_path / "x").startswith(
        "error: the class name 'ze  bra' cannot be written: it has line breaks"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]  # no drafts stay


def test_voc_has_no_webp(tmp_path, capsys):
    source = darknet_set(tmp_path / "source")
    (tmp_path / "source/images/train/b.jpg").rename(tmp_path / "source/images/train/b.webp")
    (tmp_path / "source/images/train/b.webp").write_bytes(
        (tmp_path / "source/images/train/a.jpg").read_bytes()
    )
    assert refused(capsys, *source, "--to", "voc", tmp_path / "x") == (
        f"error: {tmp_path}/source/images/train/b.webp: VOC's format has images in "
        ".jpg, .jpeg, .png, .bmp, .tif, .tiff; save it as one of these"
    )
