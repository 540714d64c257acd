"""detectors cluster: YOLO9000's number on VOC2007, coordinate frames, printed results and error messages."""

from __future__ import annotations

import json
import shlex
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from detectors.commands.cluster.command import main
from detectors.config.check import check
from detectors.config.composing import composed
from tests.commands.cluster.test_kmeans import naive_iou
from tests.data.files import box_xml, write_voc

SHAPES = {"cat": [(20, 30), (24, 30), (10, 12)], "dog": [(50, 25), (40, 40), (60, 44)]}


@pytest.fixture
def voc(tmp_path):
    """Two images of 80 x 60 px with six distinct shapes, and two difficult objects of a seventh shape."""
    objects = {}
    for name, shapes in SHAPES.items():
        elements = [box_xml(name, 1, 1, w, h) for w, h in shapes]
        elements.append(box_xml(name, 1, 1, 70, 10, "<difficult>1</difficult>"))
        objects[name] = "".join(elements)
    return write_voc(tmp_path / "set", objects)


def run(capsys, tmp_path, *arguments: str) -> tuple[str, dict]:
    """What is printed, and the content of the JSON file."""
    main([*arguments, "--json", str(tmp_path / "out.json")])
    return capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())


def settings_of(voc, *overrides: str) -> list[str]:
    return ["data=voc", f"data.root={voc}", "data.val=[train]", *overrides]


def rounded_and_sorted(shapes) -> list[tuple[float, float]]:
    """An order that does not depend on the last digits of float32."""
    return sorted((round(w, 2), round(h, 2)) for w, h in shapes)


def all_shapes() -> list[tuple[float, float]]:
    return [shape for shapes in SHAPES.values() for shape in shapes]


def test_letterbox_keeps_the_aspect_and_stretch_does_not(voc, tmp_path, capsys):
    """80 x 60 -> 160 x 160: a letterbox doubles both sides, stretching multiplies the height by 8 / 3."""
    settings = settings_of(voc, "model=yolov2_160", "data.train_difficult=false")
    for resize, scale in (("letterbox", (2, 2)), ("stretch", (2, 160 / 60))):
        _, record = run(capsys, tmp_path, *settings, f"input.resize={resize}", "--k", "6")
        shapes = sorted(tuple(np.multiply(shape, scale)) for shape in all_shapes())
        assert_allclose(sorted(map(tuple, record["sets"][0]["wh"])), shapes, atol=16 * 1e-4)
        assert record["sets"][0]["mean_iou"] == pytest.approx(1, abs=1e-4)
        assert (record["boxes"], record["difficult"], record["too_small"]) == (6, 0, 0)


def test_results_with_and_without_difficult_objects(voc, tmp_path, capsys):
    printed, record = run(capsys, tmp_path, *settings_of(voc, "model=yolov2"), "--k", "3")
    assert (record["boxes"], record["difficult"]) == (8, 2)
    assert list(record["curve"]) == list("1234567")
    assert list(record["curve_not_difficult"]) == list("123456")
    assert record["curve_not_difficult"]["6"] == 1
    assert record["curve"]["6"] < 1
    assert "without difficult" in printed
    assert "2 of them difficult" in printed


def test_boxes_too_narrow_to_train_on_are_left_out(tmp_path, capsys):
    """2 px in an image 80 px wide are 0.8 px in an input of 32 px."""
    boxes = [(2, 50), (50, 40), (9, 9)]
    root = write_voc(tmp_path / "set", {"a": "".join(box_xml("cat", 1, 1, w, h) for w, h in boxes)})
    settings = settings_of(root, "model=yolov2_160", "input.size=[32,32]")
    printed, record = run(capsys, tmp_path, *settings, "--k", "2")
    assert (record["boxes"], record["too_small"]) == (2, 1)
    assert "1 narrower than 1 px left out" in printed


def test_results_by_group_equal_naive_loops(voc, tmp_path, capsys):
    settings = settings_of(
        voc, "model=yolov2_160", "data.train_difficult=false", "data.class_names=[dog,bird,cat]"
    )
    _, record = run(capsys, tmp_path, *settings, "--k", "2")
    boxes = [(name, (2 * w, 2 * h)) for name, shapes in SHAPES.items() for w, h in shapes]
    for index, anchors in enumerate(record["sets"][:2]):
        iou = {box: max(naive_iou(box[1], anchor) for anchor in anchors["wh"]) for box in boxes}
        groups = {
            "cat": [box for box in boxes if box[0] == "cat"],
            "small (COCO)": [box for box in boxes if box[1][0] * box[1][1] < 1024],
            "medium (COCO)": [box for box in boxes if 1024 <= box[1][0] * box[1][1] < 9216],
            "large (COCO)": [box for box in boxes if box[1][0] * box[1][1] >= 9216],
            "bird": [],
            "smallest third": sorted(boxes, key=lambda box: box[1][0] * box[1][1])[:2],
            "all": boxes,
        }
        rows = {row["name"]: row for row in record["groups"]}
        for name, members in groups.items():
            assert rows[name]["boxes"] == len(members)
            if members:
                mean_iou = np.mean([iou[box] for box in members])
                recall = np.mean([iou[box] >= 0.5 for box in members])
                assert rows[name]["mean_iou"][index] == pytest.approx(mean_iou)
                assert rows[name]["recall"][index] == pytest.approx(recall)
            else:
                assert rows[name]["recall"][index] is None
        assert anchors["mean_iou"] == pytest.approx(np.mean(list(iou.values())))
        assert anchors["recall"] == pytest.approx(np.mean([value >= 0.5 for value in iou.values()]))


@pytest.mark.parametrize(("model", "keyword"), [("yolov2_160", "anchors"), ("ssd300", "sizes")])
def test_the_last_line_is_a_valid_train_command(voc, tmp_path, capsys, model, keyword):
    """With its overrides, the configured anchors are the proposed ones."""
    printed, record = run(capsys, tmp_path, *settings_of(voc, f"model={model}"), "--k", "3")
    proposed, configured = record["sets"][:2]
    command = next(line for line in printed.splitlines() if line.startswith("python train.py "))
    overrides = shlex.split(command)[2:]
    config = check(composed(overrides))
    assert config.model[keyword] == record["proposed"][keyword]
    assert f"  {keyword}: {record['proposed'][keyword]} #" in printed
    _, new_record = run(capsys, tmp_path, *overrides, "--k", "3")
    new_configured = new_record["sets"][1]
    assert_allclose(rounded_and_sorted(new_configured["wh"]), rounded_and_sorted(proposed["wh"]), atol=1e-3)
    assert new_configured["mean_iou"] == pytest.approx(proposed["mean_iou"], abs=1e-6)
    assert proposed["mean_iou"] > configured["mean_iou"]


def test_published_anchors_are_scaled_to_the_input(voc, tmp_path, capsys):
    """Darknet's anchors are in cells of 1/13 of the input; SSD's smallest default box is 1/10 of it."""
    settings = settings_of(voc, "model=yolov2", "input.size=[832,832]")
    _, record = run(capsys, tmp_path, *settings, "--k", "3")
    wh = {anchors["name"]: anchors["wh"] for anchors in record["sets"]}
    assert_allclose(wh["Darknet's voc"][0], (1.3221 * 64, 1.73145 * 64))
    assert_allclose(wh["yolov2, as configured"][0], (1.3221 * 32, 1.73145 * 32), rtol=1e-6)
    assert [83.2, 83.2] in np.round(wh["SSD300's voc"], 6).tolist()


def test_the_plot_is_an_image(voc, tmp_path, capsys):
    for model in ("yolov2", "ssd160"):
        picture = tmp_path / "new" / f"{model}.png"
        main([*settings_of(voc, f"model={model}"), "--k", "3", "--plot", str(picture)])
        assert f"written: {picture}" in capsys.readouterr().out
        with Image.open(picture) as image:
            assert image.size == (1650, 572)
            assert len(image.convert("RGB").getcolors(1 << 20)) > 100


def test_error_messages(voc, tmp_path, capsys):
    def message(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        assert stop.value.code == 2
        return capsys.readouterr().err

    settings = settings_of(voc)
    assert "--k 0: must be 1 or more" in message(*settings, "--k", "0")
    assert "--restarts 0: must be 1 or more" in message(*settings, "--restarts", "0")
    assert "must end in .png" in message(*settings, "--plot", "anchors.txt")
    assert "data=voc08: there is no such choice; did you mean voc07?" in message("data=voc08")
    too_few = message(*settings, "model=yolov2", "input.resize=stretch", "--k", "9")
    assert "--k 9: voc has only 7 different shapes to cluster" in too_few
    empty = write_voc(tmp_path / "empty", {"a": "", "b": ""})
    assert "no boxes to cluster" in message(*settings_of(empty, "data.class_names=[cat]"))


@pytest.fixture(scope="module")
def voc2007(shared, tmp_path_factory):
    """The annotations of VOC2007, with empty image files: the sizes are in the XML files."""
    root = tmp_path_factory.mktemp("devkit")
    with tarfile.open(shared / "data/voc-annotations/VOC2007_annotations_splits.tar.xz") as archive:
        members = [
            member
            for member in archive
            if "/Annotations" in member.name or member.name.endswith("Main/trainval.txt")
        ]
        archive.extractall(root, members, filter="data")
    (root / "VOC2007/JPEGImages").mkdir()
    for line in (root / "VOC2007/ImageSets/Main/trainval.txt").read_text().split():
        (root / f"VOC2007/JPEGImages/{line}.jpg").touch()
    return root


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("resize", "expected"), [("stretch", 0.628), ("letterbox", 0.626)])
def test_voc2007_reaches_the_papers_mean_iou(voc2007, tmp_path, capsys, resize, expected):
    """YOLO9000, table 1: 61.0 with k = 5 on VOC 2007."""
    settings = [
        "data=voc07",
        f"data.root={voc2007}",
        "model=yolov2",
        f"input.resize={resize}",
        "data.train_difficult=false",
    ]
    printed, record = run(capsys, tmp_path, *settings)
    assert (record["images"], record["boxes"]) == (5011, 12608)
    row = next(line for line in printed.splitlines() if line.startswith("proposed here"))
    mean_iou = float(row.split()[-2])
    assert mean_iou >= 0.61
    assert mean_iou == pytest.approx(expected, abs=0.002)
    anchors = np.array(record["proposed"]["anchors"]) * 32
    assert naive_mean_iou_of_xml(voc2007, anchors, resize) == pytest.approx(mean_iou, abs=1e-4)


def naive_mean_iou_of_xml(root, anchors, resize) -> float:
    """Computed from the XML files, box by box, with no code of the package."""
    from xml.etree import ElementTree

    total = 0.0
    count = 0
    for stem in (root / "VOC2007/ImageSets/Main/trainval.txt").read_text().split():
        tree = ElementTree.parse(root / f"VOC2007/Annotations/{stem}.xml")
        width, height = (int(tree.findtext(f"size/{tag}")) for tag in ("width", "height"))
        scale = (416 / width, 416 / height) if resize == "stretch" else (min(416 / width, 416 / height),) * 2
        for element in tree.findall("object"):
            if element.findtext("difficult") == "1":
                continue
            xmin, ymin, xmax, ymax = (
                int(element.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")
            )
            shape = (xmax - xmin + 1) * scale[0], (ymax - ymin + 1) * scale[1]
            total += max(naive_iou(shape, anchor) for anchor in anchors)
            count += 1
    return total / count
