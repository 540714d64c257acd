"""The ground truth of a split, and its classes, from the settings of the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal

from detectors.commands import train as script
from detectors.config.schema import Config
from detectors.data.class_names import COCO_CLASSES, VOC_CLASSES
from detectors.training import ground_truth
from tests.data.files import box_xml, write_coco, write_darknet, write_voc
from tests.test_configs import checked


def configured(*overrides: str, model: str = "ssd160") -> Config:
    return checked(f"model={model}", "model.width=0.125", *overrides)


def own_voc(tmp_path: Path, *overrides: str) -> Config:
    """Three splits; zebra is in val only, ant in test only."""
    root, classes = (
        tmp_path / "voc",
        {"train": ["horse", "dog"], "val": ["dog", "zebra"], "test": ["ant", "horse"]},
    )
    for split, names in classes.items():
        write_voc(root, {f"{split}0": "".join(box_xml(name, 1, 1, 9, 9) for name in names)}, split=split)
    return configured(
        "data=voc", f"data.root={root}", "data.test=[test]", f"paths.cache={tmp_path / 'cache'}", *overrides
    )


def test_classes_of_a_voc_set_are_those_of_all_its_splits(tmp_path, caplog):
    data = own_voc(tmp_path).data
    train = ground_truth.read_annotations(data, "train")
    assert train.class_names == ("ant", "dog", "horse", "zebra")
    assert_array_equal(train.labels, [2, 1])
    for split, labels in {"val": [1, 3], "test": [0, 2]}.items():
        for truths in (
            ground_truth.read_annotations(data, split),
            ground_truth.read_annotations(data, split, train.class_names),
        ):
            assert truths.class_names == train.class_names
            assert_array_equal(truths.labels, labels)
    assert "classes that data.train does not have, so that they cannot be learned: ant; zebra" in caplog.text


def test_class_names_that_are_given_are_taken(tmp_path):
    data = own_voc(tmp_path, "data.class_names=[zebra,horse,dog,ant]").data
    assert_array_equal(ground_truth.read_annotations(data, "val").labels, [2, 0])
    assert_array_equal(
        ground_truth.read_annotations(data, "val", ["dog", "zebra"]).labels, [0, 1]
    )  # a checkpoint's
    data = own_voc(tmp_path, "data.class_names=[horse,dog]").data
    assert len(ground_truth.read_annotations(data, "train").labels) == 2
    with pytest.raises(ValueError, match=r"val0\.xml: object 2 zebra \[1, 1, 9, 9\]"):
        ground_truth.read_annotations(data, "val")
    data.on_error = "skip"
    assert_array_equal(ground_truth.read_annotations(data, "val").labels, [1])
    assert [problem.kind for problem in ground_truth.scan_annotations(data, "val")[1]] == ["unknown-class"]


def test_classes_of_a_coco_set_are_in_the_order_of_their_ids(tmp_path):
    """The split's own lists of categories differ; a misspelt one is asked about."""
    categories = {"train": [(7, "horse"), (3, "zebra")], "val": [(5, "dog"), (3, "zebra")]}
    settings = ["data=coco", f"data.root={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    for split, pairs in categories.items():
        content = {
            "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}],
            "categories": [{"id": i, "name": name} for i, name in pairs],
            "annotations": [{"image_id": 1, "category_id": i, "bbox": [1, 2, 3, 4]} for i, _ in pairs],
        }
        write_coco(tmp_path / split, content)
        settings += [f"data.{split}=[{split}/instances.json]", f"data.image_folders.{split}={split}/images"]
    data = configured(*settings).data
    train, val = ground_truth.read_annotations(data, "train"), ground_truth.read_annotations(data, "val")
    assert train.class_names == val.class_names == ("zebra", "dog", "horse")
    assert_array_equal(train.labels, [2, 0])
    assert_array_equal(val.labels, [1, 0])
    assert [train.category_ids[i] for i in (0, 2)] == [3, 7] and val.category_ids[:2] == (3, 5)
    with pytest.raises(ValueError, match="no category 'hose'; did you mean 'horse'"):
        ground_truth.read_annotations(data, "train", ["hose", "zebra"])


def own_coco(tmp_path: Path, *overrides: str) -> Config:
    """Boxes of `good dog` and cat; the category bird has none."""
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 60, "width": 80}],
        "categories": [{"id": i, "name": name} for i, name in ((1, "good dog"), (2, "cat"), (3, "bird"))],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": [1, 2, 30, 40], "area": 9, "iscrowd": 0}
            for i in (1, 2)
        ],
    }
    write_coco(tmp_path / "coco", content)
    return configured(
        "data=coco",
        f"data.root={tmp_path / 'coco'}",
        "data.train=[instances.json]",
        "data.val=[]",
        "data.image_folders.train=images",
        f"paths.cache={tmp_path / 'cache'}",
        *overrides,
    )


def test_a_class_without_a_box_is_refused_before_the_first_step(tmp_path, caplog):
    config = own_coco(tmp_path, "data.class_names=[dog,cat,bird]")
    message = (
        "classes of data.class_names without a box in data.train=['instances.json']:\n"
        "  'dog'; did you mean 'good dog'?\n"
        "  'bird'\n"
        "correct or remove the names; data.allow_empty_classes=true trains although they cannot be learned"
    )
    with pytest.raises(ValueError) as error:
        script.read_data(config)
    assert str(error.value) == message
    script.read_data(config, config.data.class_names)  # a resumed run keeps its classes
    config.data.allow_empty_classes = True
    script.read_data(config)
    assert "without a box in data.train=['instances.json']: 'dog', 'bird'" in caplog.text


def test_a_class_of_voc_without_a_box_is_refused(tmp_path):
    config = own_voc(tmp_path, "data.class_names=[horse,dog,zebra,Horses]", "data.on_error=skip")
    with pytest.raises(ValueError, match=r"data.train=\['train'\]:\n  'zebra'\n  'Horses'\ncorrect"):
        script.read_data(config)
    script.read_data(own_voc(tmp_path, "data.class_names=[horse,dog]", "data.on_error=skip"))
    script.read_data(own_voc(tmp_path))  # all classes that occur: zebra is in val only, and a warning


def test_a_split_without_a_single_box_is_one_warning(tmp_path, caplog):
    config = own_coco(tmp_path, "data.val=[empty.json]", "data.image_folders.val=images")
    root = Path(config.data.root)
    content = json.loads((root / "instances.json").read_text())
    (root / "empty.json").write_text(json.dumps(content | {"annotations": []}))
    caplog.set_level("WARNING")
    script.read_data(config)
    line = "data.{split}=['empty.json']: 1 images without a single box: {effect}"
    assert caplog.messages == [line.format(split="val", effect="it measures nothing")]
    caplog.clear()
    config.data.train, config.data.val = ["empty.json"], []
    script.read_data(config)
    assert caplog.messages == [line.format(split="train", effect="nothing can be learned from it")]


def test_the_official_sets_name_their_classes():
    """So that one split can be read without the others."""
    assert configured("data=coco2017", model="ssd160").data.class_names == list(COCO_CLASSES)
    assert configured("data=voc0712", model="ssd160").data.class_names == list(VOC_CLASSES)


def test_annotations_are_kept_below_the_cache_folder(tmp_path, monkeypatch):
    data = own_voc(tmp_path).data
    assert data.cache == str(tmp_path / "cache/annotations")
    first = ground_truth.read_annotations(data, "train")

    def scan_voc(**_):
        pytest.fail("parsed again")

    monkeypatch.setattr(ground_truth, "scan_voc", scan_voc)
    assert ground_truth.read_annotations(data, "train").paths == first.paths
    assert (
        sorted(path.suffix for path in Path(data.cache).iterdir()) == [".annotations"] * 4
    )  # three splits, and train with all classes
    assert json.dumps(list(first.image_ids)) == '["train0"]'


def test_darknet_sets_without_names_share_the_ids_of_all_splits(tmp_path):
    """The folder of data.file is data.root; ids are names, up to the highest of any split."""
    texts = {"images/train/a": "0 .5 .5 .25 .5\n1 .5 .5 .5 .5", "images/val/b": "3 .5 .5 .25 .5"}
    write_darknet(tmp_path, texts, labels="labels")
    (tmp_path / "x.data").write_text("train = images/train\nvalid = images/val\n")
    config = checked("data=darknet", f"data.file={tmp_path}/x.data", "data.cache=null")
    assert config.data.root == str(tmp_path)
    for split, labels in (("train", [0, 1]), ("val", [3])):
        annotations = ground_truth.read_annotations(config.data, split)
        assert annotations.class_names == ("0", "1", "2", "3")
        assert annotations.labels.tolist() == labels
    trained = ground_truth.read_annotations(config.data, "val", ("cat", "dog", "cow", "hen"))
    assert trained.class_names == ("cat", "dog", "cow", "hen") and trained.labels.tolist() == [3]
