"""Images with one label each: folders, torchvision's files, crops of boxes, shares; and what is told."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import MNIST, ImageFolder

from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import ARRAY_FORMATS, Config
from detectors.data.augment.transforms import build_transform, no_augmentation
from detectors.data.image_folder import scan_image_folder
from detectors.data.image_subsets import shared_out
from detectors.data.labelled_dataset import LabelledDataset
from detectors.data.labelled_sets import box_crops
from detectors.data.sampling import Key
from detectors.data.torchvision_sets import ARRAY_SETS, PLACES_BELOW_ROOT
from detectors.data.voc import read_voc
from detectors.training import assemble, ground_truth
from tests.data.labelled import write_folder, write_idx

SHAPES = ("model=darknet19_classifier", "data.box_crops=0.1", "data.shapes.train=6", "data.shapes.size=64")


def folder_config(root, *overrides: str) -> Config:
    return check(
        composed(
            ["model=first_network", "data=imagefolder", "data.cache=null", f"data.root={root}", *overrides]
        )
    )


def test_the_two_lists_of_array_sets_are_one():
    assert set(ARRAY_FORMATS) == set(ARRAY_SETS) == set(PLACES_BELOW_ROOT)


def test_folders_are_torchvisions(tmp_path):
    write_folder(tmp_path / "train", {"dog": 3, "cat": 2})
    annotations, problems = scan_image_folder(root=tmp_path, image_sets=["train"])
    theirs = ImageFolder(tmp_path / "train")
    assert (list(annotations.class_names), problems) == (theirs.classes, [])
    assert list(zip(annotations.paths, annotations.labels.tolist(), strict=True)) == theirs.samples
    assert annotations.sizes.tolist() == 5 * [[20, 30]]
    assert annotations.boxes_original.tolist() == 5 * [[0, 0, 30, 20]]


def test_digits_are_torchvisions(tmp_path):
    write_idx(tmp_path)
    config = check(composed(["model=first_network", "data=mnist", f"data.root={tmp_path}"]))
    for split, train in (("train", True), ("val", False)):
        annotations = ground_truth.read_annotations(config.data, split)
        theirs = MNIST(tmp_path, train=train)
        assert annotations.labels.tolist() == theirs.targets.tolist()
        assert annotations.class_names[7] == "seven"
        loader = assemble.eval_loader(config, annotations, batch_size=3)
        images = np.concatenate([batch.images.numpy() for batch in loader])
        for channel in range(3):
            np.testing.assert_array_equal(images[:, channel], theirs.data.numpy())


def test_chosen_digits_keep_their_pixels(tmp_path):
    write_idx(tmp_path)
    settings = [f"data.root={tmp_path}", "data.class_names=[three,one]"]
    config = check(composed(["model=first_network", "data=mnist", *settings]))
    annotations = ground_truth.read_annotations(config.data, "val")
    assert (annotations.class_names, annotations.labels.tolist()) == (("three", "one"), [1, 0])
    (batch,) = assemble.eval_loader(config, annotations, batch_size=8)
    pixels = MNIST(tmp_path, train=False).data[[1, 3]].numpy()
    np.testing.assert_array_equal(batch.images[:, 0].numpy(), pixels)
    assert batch.targets.labels.tolist() == [[1], [0]]


def test_a_crop_is_its_box_with_the_margin(tmp_path):
    config = check(composed([*SHAPES, f"paths.cache={tmp_path}", "augment=none"]))
    boxes = read_voc(root=_written(config), image_sets=["train"])
    crops = ground_truth.read_annotations(config.data, "train")
    assert len(crops) == len(boxes.labels)
    np.testing.assert_array_equal(crops.labels, boxes.labels)
    wh = boxes.boxes_original[:, 2:] - boxes.boxes_original[:, :2]
    low = np.floor(np.maximum(boxes.boxes_original[:, :2] - 0.1 * wh, 0))
    high = np.ceil(np.minimum(boxes.boxes_original[:, 2:] + 0.1 * wh, 64))
    np.testing.assert_array_equal(crops.boxes_original, np.concatenate([low, high], 1))
    dataset = assemble.train_dataset(config, crops)
    left, top, right, bottom = crops.boxes_original[0].astype(int)
    whole = dataset.reader.read(0).image
    transform = build_transform(augment=no_augmentation(), size=(224, 224), resize="crop", train=False)
    alone = transform(whole[top:bottom, left:right].copy(), np.zeros((0, 4)), np.zeros(0, int), 0)
    np.testing.assert_array_equal(dataset[Key(0, 0)].image.numpy(), alone.image)
    assert dataset[Key(0, 0)].boxes.tolist() == [[0, 0, 224, 224]]


def _written(config: Config):
    ground_truth.read_annotations(config.data, "train")
    return next(Path(config.data.root).glob("shapes*"))


def test_crowds_are_left_out_and_difficult_ones_as_told(tmp_path):
    config = check(composed([*SHAPES, f"paths.cache={tmp_path}"]))
    boxes = read_voc(root=_written(config), image_sets=["train"])
    flags = np.arange(len(boxes.labels))
    marked = dataclasses.replace(boxes, crowd=flags == 0, difficult=flags == 1)
    assert len(box_crops(marked, 0.0)) == len(flags) - 1
    assert len(box_crops(marked, 0.0, use_difficult=False)) == len(flags) - 2


def test_a_share_of_the_images_is_the_val_split(tmp_path):
    write_folder(tmp_path, {"dog": 12, "cat": 8})
    config = folder_config(tmp_path, "data.train=[.]", "data.val=[.]", "data.val_share=0.25")
    train, val = (ground_truth.read_annotations(config.data, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5)
    assert set(train.paths) | set(val.paths) == {str(path) for path in tmp_path.glob("*/*.png")}
    assert list(shared_out(train, 0.2, 3, val=True).paths) == list(shared_out(train, 0.2, 3, val=True).paths)
    assert list(shared_out(train, 0.2, 3, val=True).paths) != list(shared_out(train, 0.2, 4, val=True).paths)


def test_a_label_stays_whatever_the_augmentation_does_to_boxes(tmp_path):
    write_folder(tmp_path / "train", {"dog": 1, "cat": 1})
    annotations, _ = scan_image_folder(root=tmp_path, image_sets=["train"])

    def without_boxes(image, boxes, labels, seed, size):
        transform = build_transform(augment=no_augmentation(), size=(8, 8), resize="stretch", train=False)
        return transform(image, boxes[:0], labels[:0], seed, size)

    sample = LabelledDataset(annotations, without_boxes, seed=0)[Key(0, 1)]
    assert (sample.labels.tolist(), sample.boxes.tolist()) == ([1], [[0, 0, 8, 8]])


def test_broken_files_are_told_or_left_out(tmp_path, caplog):
    write_folder(tmp_path / "train", {"dog": 2, "cat": 2})
    (tmp_path / "train/dog/9.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"(?s)images that cannot be decoded: 1.*9\.png.*on_error=skip"):
        ground_truth.read_annotations(folder_config(tmp_path, "data.val=[]").data, "train")
    caplog.set_level(logging.WARNING)
    config = folder_config(tmp_path, "data.val=[]", "data.on_error=skip")
    assert len(ground_truth.read_annotations(config.data, "train")) == 4
    assert "9.png" in caplog.text


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ({}, FileNotFoundError, r"absent: no such folder \(data\.root\)"),
        ({"trian/dog": 1}, FileNotFoundError, r"train: no such folder; did you mean 'trian'\?"),
        (
            {"dog": 1, "cat": 1},
            FileNotFoundError,
            r"it has cat, dog; if these are the classes: .*val_share=0\.1",
        ),
        ({"train": 1}, ValueError, r"no image of a class in it \(split train\); a split is a folder"),
    ],
)
def test_folders_that_are_no_set(names, error, message, tmp_path):
    root = write_folder(tmp_path, names) if names else tmp_path / "absent"
    with pytest.raises(error, match=message):
        ground_truth.read_annotations(folder_config(root, "data.val=[]").data, "train")


def test_digits_that_are_not_there_or_broken(tmp_path):
    config = check(composed(["model=first_network", "data=mnist", f"data.root={tmp_path}/absent"]))
    with pytest.raises(FileNotFoundError, match=r"MNIST/raw: the files of data=mnist are not there"):
        ground_truth.read_annotations(config.data, "train")
    write_idx(tmp_path)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").write_bytes(b"\0" * 20)
    config = check(composed(["model=first_network", "data=mnist", f"data.root={tmp_path}"]))
    with pytest.raises(ValueError, match=r"the train files of data=mnist cannot be read"):
        ground_truth.read_annotations(config.data, "train")
