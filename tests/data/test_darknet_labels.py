"""Darknet's labels: each layout, worked out by hand and against a naive parser, and every fault by name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from detectors.data.annotation_cache import cached
from detectors.data.darknet_labels import darknet_line, darknet_sources, read_darknet, scan_darknet
from tests.data.files import write_darknet, write_image

SIZE = (60, 80)  # (height, width) of every image
# cx = .5 of 80 px, w = .25 of 80 px; cy = .5 of 60 px, h = .5 of 60 px
CENTRE = [30, 15, 50, 45]
# the left upper quarter of the image
CORNER = [0, 0, 40, 30]


def read(root: Path, *image_sets: str, **options):
    return read_darknet(root=root, image_sets=list(image_sets or ["train"]), **options)


def faults(root: Path, **options) -> list[str]:
    """The problems of split train, without the folder's name."""
    _, problems = scan_darknet(root=root, image_sets=["train"], **options)
    return [f"{problem.kind}: {problem}".replace(f"{root}/", "") for problem in problems]


# --- layouts, each with the boxes worked out by hand ---
def darknet_layout(root: Path) -> dict:
    """A .data file in cfg/, a list of paths that count from the folder where Darknet runs."""
    write_darknet(root, {"data/obj/a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5\n", "data/obj/b": None})
    (root / "data/obj.names").write_text("cat\ndog\n")
    (root / "data/train.txt").write_text("data/obj/a.jpg\ndata/obj/b.jpg\n")
    (root / "cfg").mkdir()
    lines = "classes= 2\n# remark\ntrain  = data/train.txt\nvalid = data/train.txt\n"
    (root / "cfg/obj.data").write_text(f"{lines}names = data/obj.names\nbackup = backup/\n")
    return {"root": root, "file": root / "cfg/obj.data"}


def darknet_layout_in_data(root: Path) -> dict:
    """The same from the folder of the .data file: paths begin with data/, the folder itself."""
    places = darknet_layout(root)
    os.replace(places["file"], root / "data/obj.data")
    return {"root": root / "data", "file": root / "data/obj.data"}


def yaml_layout(root: Path) -> dict:
    """images/train and labels/train; names by id; a path that does not exist on this computer."""
    write_darknet(
        root,
        {"images/train/a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5", "images/train/b": ""},
        labels="labels",
    )
    (root / "data.yaml").write_text(
        "path: ../datasets/pets\ntrain: images/train\nval: images/train\nnc: 2\nnames:\n  1: dog\n  0: cat\n"
    )
    return {"root": root}


def labelling_service_layout(root: Path) -> dict:
    """train/images and train/labels, and paths in data.yaml that lead out of the folder of the file."""
    write_darknet(
        root,
        {"train/images/a": "1 0.5 0.5 0.25 0.5\r\n0 0.25 0.25 0.5 0.5\r\n", "train/images/b": None},
        labels="labels",
    )
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n"
    )
    return {"root": root}


def folders_only(root: Path) -> dict:
    """No data.yaml: classes.txt as a labelling program leaves it."""
    write_darknet(
        root,
        {"images/train/a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5", "images/train/sub dir/b": None},
        labels="labels",
    )
    (root / "labels/classes.txt").write_text("cat\ndog\n")
    return {"root": root}


def voc_layout(root: Path) -> dict:
    """scripts/voc_label.py: JPEGImages -> labels, absolute paths in a list; the polygon has CENTRE's box."""
    write_darknet(
        root,
        {
            "VOC2007/JPEGImages/a": "1 .375 .25 .625 .25 .5 .75\n0 0.25 0.25 0.5 0.5",
            "VOC2007/JPEGImages/b": None,
        },
        labels="labels",
    )
    (root / "voc.names").write_text("cat\ndog\n")
    (root / "train.txt").write_text(f"{root}/VOC2007/JPEGImages/a.jpg\n{root}/VOC2007/JPEGImages/b.jpg\n")
    return {"root": root}


def another_computer(root: Path) -> dict:
    """Absolute paths of another computer, with backslashes; a byte-order mark in each text file."""
    write_darknet(
        root,
        {"images/a": "\ufeff1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.5 0.5", "images/b": None},
        labels="labels",
    )
    (root / "set.names").write_text("\ufeffcat\ndog\n")
    paths = "".join(f"C:\\Users\\joe\\set\\images\\{name}.jpg\r\n" for name in "ab")
    (root / "train.txt").write_bytes(paths.encode("utf-16"))
    return {"root": root}


LAYOUTS = [
    darknet_layout,
    darknet_layout_in_data,
    yaml_layout,
    labelling_service_layout,
    folders_only,
    voc_layout,
    another_computer,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout(layout, tmp_path):
    annotations = read(**layout(tmp_path))
    assert annotations.class_names == ("cat", "dog")
    assert annotations.image_ids == ("a", "b")
    assert_array_equal(annotations.boxes_original, [CENTRE, CORNER])
    assert_array_equal(annotations.labels, [1, 0])
    assert_array_equal(annotations.offsets, [0, 2, 2])
    assert_array_equal(annotations.sizes, [SIZE, SIZE])
    assert_array_equal(annotations.areas, [600, 1200])
    assert not annotations.difficult.any() and not annotations.crowd.any()


def test_paths_of_another_computer_are_announced(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read(**another_computer(tmp_path))
    assert caplog.messages == [
        f"{tmp_path}/train.txt: paths that begin with C:/Users/joe/set/ are read below {tmp_path}"
    ]


def naive(text: str, size: tuple[int, int]) -> list[list[float]]:
    """Label and box of each line, as the format's description says it."""
    height, width = size
    objects = []
    for line in text.splitlines():
        identity, cx, cy, w, h = map(float, line.split())
        left, top = (cx - w / 2) * width, (cy - h / 2) * height
        objects.append([identity, left, top, left + w * width, top + h * height])
    return objects


def test_many_boxes_equal_a_naive_parser(tmp_path):
    rng = np.random.default_rng(0)
    texts = {}
    for name in range(20):
        rows = [
            f"{rng.integers(3)} " + " ".join(f"{value:.6f}" for value in rng.uniform(0.01, 0.9, 4))
            for _ in range(rng.integers(1, 9))
        ]
        texts[f"images/train/{name:02}"] = "\n".join(rows)
    write_darknet(tmp_path, texts, labels="labels")
    annotations = read(tmp_path, class_names=["x", "y", "z"])
    expected = np.array([row for text in texts.values() for row in naive(text, SIZE)])
    assert_array_equal(annotations.labels, expected[:, 0])
    assert_allclose(annotations.boxes_original, expected[:, 1:], rtol=0, atol=1e-10)
    assert [Path(path).stem for path in annotations.paths] == [Path(name).stem for name in texts]


def test_a_written_line_is_read_within_a_billionth_of_a_pixel(tmp_path):
    rng = np.random.default_rng(1)
    boxes = rng.uniform(-20, 60, (500, 4)).round(rng.integers(0, 12))
    boxes[:, 2:] = boxes[:, :2] + rng.uniform(0.1, 50, (500, 2))
    text = "\n".join(darknet_line(7, box, SIZE) for box in boxes)
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    annotations = read(tmp_path)
    assert_allclose(annotations.boxes_original, boxes, rtol=0, atol=1e-9)
    assert annotations.class_names == tuple("01234567") and set(annotations.labels.tolist()) == {7}


# --- where labels lie ---
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/x/images/a", "images/x/labels/a"),  # the last one
        ("images/x/a", "labels/x/a"),
        ("train_images/a", "train_labels/a"),  # Darknet replaces text, not folders
        ("pictures/a", "pictures/a"),
        ("images/a.b", "labels/a.b"),
        ("images/a", "images/a"),  # beside the image
    ],
)
def test_where_labels_lie(image, label, tmp_path):
    write_image(tmp_path / f"{image}.jpg", SIZE)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / f"{label}.txt").write_text("0 .5 .5 .25 .5")
    (tmp_path / "train.txt").write_text(f"./{image}.jpg\n")
    assert_array_equal(read(tmp_path).boxes_original, [CENTRE])


def test_a_label_file_with_a_suffix_in_capitals_is_read(tmp_path):
    """Where both exist, .txt is the one that counts."""
    folders_only(tmp_path)
    before = read(tmp_path, "train")
    label = tmp_path / "labels/train/a.txt"
    label.rename(label.with_suffix(".TXT"))
    assert len(before.labels) == 2
    assert_array_equal(read(tmp_path, "train").boxes_original, before.boxes_original)
    label.write_text("0 0.5 0.5 0.25 0.5\n")
    assert_array_equal(read(tmp_path, "train").boxes_original, [CENTRE])


def test_a_remark_ends_the_number_of_classes(tmp_path):
    places = darknet_layout(tmp_path)
    text = places["file"].read_text()
    places["file"].write_text(text.replace("classes= 2", "classes = 02 # as many"))
    assert read_darknet(image_sets=["train"], **places).class_names == ("cat", "dog")


def test_the_last_folder_named_images_counts(tmp_path):
    write_darknet(tmp_path, {"images/x/images/a": "1 .5 .5 .25 .5"})
    for place in ("images/x/labels", "labels/x/images"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "images/x/labels/a.txt").write_text("0 .5 .5 .25 .5")
    (tmp_path / "labels/x/images/a.txt").write_text("2 .5 .5 .25 .5")
    assert read(tmp_path, "images/x/images").labels.tolist() == [0]


def test_data_root_itself_is_never_renamed(tmp_path):
    root = tmp_path / "images"
    write_darknet(root, {"train/a": None})
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("0 .5 .5 .25 .5")
    with pytest.raises(FileNotFoundError, match="no label file for any of 1 images; looked for "):
        read(root)


def test_a_folder_above_data_file_is_never_renamed(tmp_path):
    """Images beside data.file, outside of data.root."""
    own = tmp_path / "images/cfg"
    write_darknet(own, {"images/a": None, "b": None})
    for place, identity in ((own / "labels/a.txt", 0), (tmp_path / "labels/cfg/b.txt", 1)):
        place.parent.mkdir(parents=True)
        place.write_text(f"{identity} .5 .5 .25 .5")
    (own / "train.txt").write_text("images/a.jpg\nb.jpg\n")
    (own / "x.data").write_text("train = train.txt")
    (tmp_path / "root").mkdir()
    annotations = read(tmp_path / "root", file=own / "x.data")
    assert annotations.image_ids == ("a", "b") and annotations.labels.tolist() == [0]


# --- classes ---
def three_classes(root: Path) -> Path:
    write_darknet(root, {"images/train/a": "0 .5 .5 .1 .1\n1 .5 .5 .2 .2\n2 .5 .5 .3 .3"}, labels="labels")
    (root / "data.yaml").write_text("train: images/train\nnames: [no, 1e3, good dog]\n")
    return root


def test_class_names_stay_the_text_that_was_written(tmp_path):
    assert read(three_classes(tmp_path)).class_names == ("no", "1e3", "good dog")


def test_class_names_select_and_order(tmp_path):
    annotations = read(three_classes(tmp_path), class_names=["good dog", "no"])
    assert annotations.labels.tolist() == [1, 0]
    assert_allclose(annotations.boxes_original[1], [28, 21, 52, 39])


def test_a_near_class_name_is_an_error(tmp_path):
    root = three_classes(tmp_path)
    with pytest.raises(ValueError) as caught:
        read(root, class_names=["no", "good dogs"])
    assert str(caught.value) == (
        f"{root}/data.yaml: no class 'good dogs'; did you mean 'good dog'?\n"
        "its classes: no, 1e3, good dog\ncorrect data.class_names"
    )


def test_without_names_the_ids_are_the_names(tmp_path):
    write_darknet(tmp_path, {"images/train/a": "2 .5 .5 .1 .1"}, labels="labels")
    assert read(tmp_path).class_names == ("0", "1", "2")
    assert read(tmp_path, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a, b]\nnc: 3", "{file}: says 3 classes, and {file} names 2; make them agree"),
        ("names: {{1: a, 2: b}}", "{file}: names has the id '2'; the ids are 0 to 1"),
        ("names: [a, a]", "{file}: names 'a' twice; write each class name once"),
        ("names: [[a], b]", "{file}: names is neither a list of class names nor id: name"),
        ("names: no.names", "{file}: names=no.names: no such file in {root}"),
        ("- a", "{file}: not a data.yaml, which has train:, val: and names:"),
        ("a: [", "{file}: not valid YAML (while parsing"),
        ("train: {{a: b}}", "{file}: train is neither a path nor a list of paths"),
        ("train: images/tarin", "{file}: train=images/tarin: no such list or folder; paths count from"),
        ("train: /etc", "{file}: train=/etc: lies outside of {root}; set data.root to a folder that"),
    ],
)
def test_faulty_descriptions(text, message, tmp_path):
    write_darknet(tmp_path, {"images/train/a": ""}, labels="labels")
    file = tmp_path / "data.yaml"
    file.write_text(text.format())
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(message.format(file=file, root=tmp_path))


def test_yaml_runs_nothing(tmp_path):
    write_darknet(tmp_path, {"images/train/a": "0 .5 .5 .1 .1"}, labels="labels")
    trap = tmp_path / "trap"
    (tmp_path / "data.yaml").write_text(
        f"train: images/train\ndownload: touch {trap}\nx: !!python/object/apply:os.mkdir ['{trap}']\n"
    )
    read(tmp_path)
    assert not trap.exists()


def test_an_empty_line_among_names_would_shift_ids(tmp_path):
    write_darknet(tmp_path, {"images/train/a": ""}, labels="labels")
    (tmp_path / "x.names").write_text("a\n\nb\n\n")
    with pytest.raises(ValueError, match=r"x.names: line 2 is empty; write one class name per line"):
        read(tmp_path)


# --- faults of label files ---
@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 0.5 0.5 0.1", "broken-object: {}: line 2: '0 0.5 0.5 0.1' has 4 columns, not the five of "
         "class cx cy w h"),
        ("0 .5 .5 .1 .1 .9", "broken-object: {}: line 2: '0 .5 .5 .1 .1 .9' has a sixth column; "
         "a confidence belongs to detections, remove it"),
        ("0 .5 .5 .1 .1 .9 .1 .2", "broken-object: {}: line 2: '0 .5 .5 .1 .1 .9 .1 .2' has 8 columns: "
         "neither class cx cy w h nor a polygon, class x1 y1 x2 y2 ..."),
        ("0,.5,.5,.1,.1", "broken-object: {}: line 2: '0,.5,.5,.1,.1' has commas; "
         "separate the numbers by spaces, and write fractions with a point"),
        ("dog .5 .5 .1 .1", "broken-object: {}: line 2: the class is 'dog', not an id: "
         "0 for the first class name, 1 for the second, ..."),
        ("1.5 .5 .5 .1 .1", "broken-object: {}: line 2: the class is '1.5', not an id: "
         "0 for the first class name, 1 for the second, ..."),
        ("0 .5 .5 .1 1_0", "broken-object: {}: line 2: '1_0' is not a number"),
        ("0 .5 nan .1 .1", "broken-object: {}: line 2: cat [0.5, nan, 0.1, 0.1]"),
        ("0 .5 .5 0 .1", "no-area: {}: line 2: cat [0.5, 0.5, 0, 0.1]"),
        ("0 .5 .5 -.1 .1", "no-area: {}: line 2: cat [0.5, 0.5, -0.1, 0.1]"),
        ("3 .5 .5 .1 .1", "unknown-class: {}: line 2: class 3 [0.5, 0.5, 0.1, 0.1]: ids are 0 to 1"),
        ("2 .5 .5 .1 .1", "unknown-class: {}: line 2: class 2 [0.5, 0.5, 0.1, 0.1]: ids are 0 to 1"),
        ("-1 .5 .5 .1 .1", "unknown-class: {}: line 2: class -1 [0.5, 0.5, 0.1, 0.1]: ids are 0 to 1"),
        ("1 30 20 10 10", "broken-object: {}: line 2: dog [30, 20, 10, 10]; "
         "the numbers are fractions of the image's width and height"),
    ],
)  # fmt: skip
def test_faulty_lines(line, fault, tmp_path):
    """The other objects of the file stay."""
    text = f"0 .5 .5 .25 .5\n{line}\n1 .25 .25 .5 .5\n"
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    assert faults(tmp_path, class_names=["cat", "dog"]) == [fault.format("labels/train/a.txt")]
    annotations = read(tmp_path, class_names=["cat", "dog"], on_error="skip")
    assert_array_equal(annotations.boxes_original, [CENTRE, CORNER])


def test_what_is_accepted(tmp_path):
    """Remarks, empty lines, tabs, a class as 1.0, CRLF; boxes that reach out of the image stay."""
    text = "# made by hand\n\n1.0\t.5 .5 .25 .5  # a dog\r\n0 .05 .5 .2 .5\r\n"
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    annotations = read(tmp_path)
    assert annotations.labels.tolist() == [1, 0]
    assert_allclose(annotations.boxes_original, [CENTRE, [-4, 15, 12, 45]], atol=1e-12)


def test_pixels_are_named(tmp_path):
    text = "0 40 30 20 30\n1 20 15 40 30\n0 .5 .5 .1 .1"
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    remark = "2 of 3 objects are like this: pixels must be divided by the image's width and height"
    assert faults(tmp_path, class_names=["cat", "dog"]) == [
        f"broken-object: labels/train/a.txt: line 1: cat [40, 30, 20, 30]; {remark}",
        f"broken-object: labels/train/a.txt: line 2: dog [20, 15, 40, 30]; {remark}",
    ]


@pytest.mark.parametrize("scale", [1, 80])
def test_corners_are_named(tmp_path, scale):
    corners = np.array([[0.4, 0.3, 0.9, 0.8], [0.1, 0.2, 0.6, 0.7], [0.5, 0.5, 0.75, 0.9]]) * scale
    text = "\n".join("0 " + " ".join(f"{value:g}" for value in row) for row in corners)
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    found = faults(tmp_path)
    remark = "; all boxes look like corners, xmin ymin xmax ymax, where cx cy w h is expected"
    assert len(found) == 3
    assert all(fault.startswith("broken-object") and remark in fault for fault in found)


def test_boxes_as_large_as_the_image_are_no_corners(tmp_path):
    """Rounding lets them reach out by a millionth."""
    text = "\n".join(["0 0.499999 0.499999 1.000000 1.000000"] * 4)
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    assert faults(tmp_path) == []


def test_large_boxes_inside_the_image_are_no_corners(tmp_path):
    """Each is wider and higher than its centre is far from the edge; one of them reaches out."""
    text = "\n".join(["0 0.4 0.4 0.6 0.6"] * 3 + ["0 0.1 0.4 0.6 0.6"])
    write_darknet(tmp_path, {"images/train/a": text}, labels="labels")
    assert faults(tmp_path) == []


def test_ids_that_start_at_one_are_named(tmp_path):
    write_darknet(tmp_path, {"images/train/a": "1 .5 .5 .1 .1\n2 .5 .5 .1 .2"}, labels="labels")
    assert faults(tmp_path, class_names=["cat", "dog"]) == [
        "unknown-class: labels/train/a.txt: line 2: class 2 [0.5, 0.5, 0.1, 0.2]: "
        "ids start at 0, not at 1; they are 0 to 1"
    ]


def test_keypoints_are_no_polygon(tmp_path):
    write_darknet(tmp_path, {"images/train/a": "0 .5 .5 .25 .5 .1 .1 2 .9 .9 2"}, labels="labels")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\nkpt_shape: [2, 3]\n")
    assert_array_equal(read(tmp_path).boxes_original, [CENTRE])


def test_faulty_label_files(tmp_path):
    write_darknet(tmp_path, {f"images/train/{name}": "0 .5 .5 .25 .5" for name in "abc"}, labels="labels")
    (tmp_path / "labels/train/a.txt").write_bytes(b"0 .5 .5 .25 .5\n\xff\xfe")
    (tmp_path / "labels/train/b.txt").unlink()
    os.mkfifo(tmp_path / "labels/train/b.txt")
    assert faults(tmp_path) == [
        "broken-annotation: labels/train/a.txt: the label file is not UTF-8 text "
        "(invalid start byte at byte 15); save it as UTF-8",
        "broken-annotation: labels/train/b.txt: the label file cannot be read (it is a FIFO, not a file)",
    ]
    assert read(tmp_path, on_error="skip").image_ids == ("c",)


# --- lists ---
def listed(root: Path, text: str) -> Path:
    write_darknet(root, {"images/a": "0 .5 .5 .25 .5", "images/b": ""}, labels="labels")
    (root / "train.txt").write_text(text)
    return root


def test_images_that_are_not_there(tmp_path):
    root = listed(tmp_path, "images/a.jpg\nimages/c.jpg\n\nimages/b.jpg\nimages/B.png\n")
    assert faults(root) == [
        "missing-image: images/c.jpg: listed in train.txt",
        "missing-image: images/B.png: listed in train.txt; "
        "there is 'images/b.jpg' (other capitals, another suffix)",
    ]
    (root / "images/b.jpg").write_bytes(b"no image")
    found = faults(root)
    assert found[2].startswith("broken-image: images/b.jpg: ")


@pytest.mark.parametrize("path", ["/other/images/x.jpg", "../other/images/x.jpg"])
def test_paths_that_leave_the_root_are_not_read(path, tmp_path):
    """A list that came with somebody else's data set may name any file."""
    write_darknet(tmp_path / "other", {"images/x": "0 .5 .5 .1 .1"}, labels="labels")
    path = path.replace("/other", f"{tmp_path}/other", 1) if path[0] == "/" else path
    root = listed(tmp_path / "set", f"images/a.jpg\n{path}\n")
    _, problems = scan_darknet(root=root, image_sets=["train"])
    assert [(problem.kind, str(problem)) for problem in problems] == [
        (
            "outside-folder",
            f"{root}/train.txt: {path} lies outside of {root}; set data.root to a folder that contains it",
        )
    ]


def test_a_list_may_mix_paths_of_this_and_of_another_computer(tmp_path):
    root = listed(tmp_path, "images/a.jpg\n/home/joe/set/images/b.jpg\n")
    assert read(root).image_ids == ("a", "b")


def test_links_to_the_root_are_the_root(tmp_path):
    root = listed(tmp_path / "set", f"{tmp_path}/set/images/a.jpg\n")
    (tmp_path / "link").symlink_to(root)
    assert len(read(tmp_path / "link")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n \n", "{root}/train.txt: the list of images is empty"),
        ("images/a.jpg\n./images/a.jpg", "{root}/images/a.jpg: listed more than once in [train] "
         "(1 such images); list each image once, in one of the splits"),
        ("a\nb", "{root}/train.txt: none of its 2 images is there, such as a; "
         "there is 'images/a.jpg' (in a subfolder, another suffix); paths count from data.root={root}, "
         "from the list's folder or from the working directory"),
    ],
)  # fmt: skip
def test_faulty_lists(text, message, tmp_path):
    root = listed(tmp_path, text)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read(root)
    assert str(caught.value) == message.format(root=root)


def test_no_such_split_folder_or_file(tmp_path):
    root = listed(tmp_path, "images/a.jpg")
    with pytest.raises(
        FileNotFoundError, match=r"no split 'val'; there is no val.txt, images/val or val/images"
    ):
        read(root, "val")
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder \(data.root\)"):
        read(root / "nowhere")
    with pytest.raises(ValueError, match=r"is a file; set data.file=.*, not data.root"):
        read(root / "train.txt")
    with pytest.raises(FileNotFoundError, match=r"x.data: no such description of a data set \(data.file\)"):
        read(root, file=root / "x.data")
    for name in "xy":
        (root / f"{name}.data").write_text("train = train.txt")
    with pytest.raises(ValueError, match=r"has several descriptions, x.data, y.data; choose one with"):
        read(root)
    (root / "x.data").write_text("train: train.txt")
    with pytest.raises(ValueError, match=r"x.data: line 1 is 'train: train.txt', not key = value"):
        read(root, file=root / "x.data")
    (root / "x.data").write_text("train = train.txt\n# more\ntrain=all.txt\n")
    with pytest.raises(ValueError) as error:
        read(root, file=root / "x.data")
    assert str(error.value) == (
        f"{root}/x.data: line 3 gives train again, after line 1, which Darknet takes; remove one of them"
    )


def test_the_header_says_the_size_without_the_orientation_tag(tmp_path):
    write_darknet(tmp_path, {"images/train/a": "0 .5 .5 .25 .5"}, labels="labels")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "images/train/a.jpg").save(tmp_path / "images/train/a.jpg", exif=exif)
    assert_array_equal(read(tmp_path).sizes, [SIZE])


# --- the cache ---
@pytest.mark.parametrize("change", ["label", "image", "new label", "list", "names", "new image"])
def test_the_cache_notices_every_change(change, tmp_path):
    root = listed(tmp_path / "set", "images/a.jpg\nimages/b.jpg\n")
    (root / "labels/b.txt").unlink()
    (root / "x.names").write_text("cat\n")
    write_darknet(root, {"more/images/c": None}, labels="labels")
    scans = []

    def scan(**options):
        scans.append(options)
        return scan_darknet(**options)

    def cached_read():
        places = {"root": root, "file": None, "image_sets": ["train", "more"]}
        return cached(scan, darknet_sources, folder=tmp_path / "cache", class_names=None, **places)

    first = cached_read()
    assert len(scans) == 1 and cached_read()[0].paths == first[0].paths and len(scans) == 1
    {
        "label": lambda: (root / "labels/a.txt").write_text("0 .5 .5 .25 .25"),
        "image": lambda: write_image(root / "images/a.jpg", (30, 40)),
        "new label": lambda: (root / "labels/b.txt").write_text("0 .5 .5 .25 .5"),
        "list": lambda: (root / "train.txt").write_text("images/a.jpg\n"),
        "names": lambda: (root / "x.names").write_text("a cat\n"),
        "new image": lambda: write_image(root / "more/images/d.jpg", SIZE),
    }[change]()
    assert cached_read()[0].paths is not None and len(scans) == 2
