"""Loading: the same bytes with any number of workers; broken files are named in one error or left out."""

from __future__ import annotations

import hashlib
import shutil
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.data.augment import transforms
from detectors.data.augment.mixing import Mixing
from detectors.data.augment.transforms import Transform
from detectors.data.coco import read_coco
from detectors.data.dataset import DetectionDataset
from detectors.data.images import ImageError, ImageReader
from detectors.data.loading import build_eval_loader, build_train_loader, collate
from detectors.data.sampling import Key, ResumableSampler
from detectors.data.voc import read_voc
from detectors.models.yolov2 import yolov2_tiny
from tests.data.files import box_xml, write_coco, write_image, write_voc

CLASSES = ["cat", "dog"]
ENLARGING = [
    ("none", "stretch"),
    ("light", "letterbox"),
    ("ssd", "stretch"),
    ("darknet", "letterbox"),
    ("darknet_2016", "stretch"),
    ("course", "letterbox"),
]


@pytest.fixture
def voc_large(tmp_path):
    return write_voc(
        tmp_path / "large",
        {"a": box_xml("cat", 100, 50, 400, 300), "b": box_xml("dog", 1, 1, 700, 500)},
        size=(501, 701),
    )


@pytest.fixture
def voc(tmp_path):
    """Five images with 0, 1, 2, 0 and 3 boxes, the last one difficult."""
    difficult = "<difficult>1</difficult>"
    objects = {
        "a": "",
        "b": box_xml("cat", 5, 5, 40, 40),
        "c": box_xml("dog", 1, 1, 80, 60) + box_xml("cat", 20, 20, 50, 50),
        "d": "",
        "e": box_xml("dog", 3, 3, 30, 30)
        + box_xml("dog", 33, 3, 70, 30)
        + box_xml("cat", 10, 10, 60, 60, difficult),
    }
    return write_voc(tmp_path / "voc", objects)


def transform_of(augment: str, **settings) -> Transform:
    return transforms.build_transform(augment=transforms.AUGMENTATIONS[augment](), **settings)


def dataset(
    root, *, train: bool = True, augment: str = "light", seed: int = 7, **settings
) -> DetectionDataset:
    annotations = read_voc(root=root, image_sets=["train"], class_names=CLASSES)
    transform = transform_of(augment, size=(48, 64), resize="letterbox", train=train)
    return DetectionDataset(annotations, transform, seed=seed, **settings)


def digest(batch) -> str:
    parts = (batch.images.contiguous(), batch.targets.boxes, batch.targets.labels, batch.targets.valid)
    data = b"".join(part.numpy().tobytes() for part in parts) + repr(batch.infos).encode()
    return hashlib.sha256(data).hexdigest()


def test_the_size_changes_only_the_scale_of_a_sample(voc):
    """The random mirror and crop are the same: at half the size, boxes are half as large."""
    data = dataset(voc)
    own = data[3, 2]
    half = data[Key(3, 2, (24, 32))]
    assert own.image.shape[:2] == (48, 64) and half.image.shape[:2] == (24, 32)
    assert half.info.scale_xy == tuple(scale / 2 for scale in own.info.scale_xy)
    assert_close(half.boxes * 2, own.boxes)
    assert_close(half.labels, own.labels)


def test_loaders_do_not_change_the_global_random_state(voc):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(build_train_loader(dataset(voc), batch_size=2, workers=0, steps=2))
    list(build_eval_loader(dataset(voc), batch_size=2, workers=0))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_evaluation_sees_each_image_once_in_order(voc):
    for workers in (0, 2):
        loader = build_eval_loader(dataset(voc, train=False), batch_size=2, workers=workers)
        batches = list(loader)
        assert len(loader) == len(batches) == 3 and batches[-1].images.shape == (1, 3, 48, 64)
        assert [info.index for batch in batches for info in batch.infos] == [0, 1, 2, 3, 4]
        second_evaluation = [digest(batch) for batch in loader]
        assert second_evaluation == [digest(batch) for batch in batches]


def test_a_sample_equals_the_files(voc):
    """Without augmentation: the file's pixels, and its boxes times the scale of `info`."""
    data = dataset(voc, augment="none", train=False)
    sample = data[0, 2]
    info = sample.info
    assert (info.index, info.image_id, info.size_original) == (2, "c", (60, 80))
    assert info.scale_xy == (0.8, 0.8) and info.shift_xy == (0.0, 0.0)
    image = cv2.imread(info.path)[..., ::-1]
    difference = np.abs(sample.image.numpy().astype(int) - cv2.resize(image, (64, 48)))
    assert difference.max() <= 2  # two JPEG decoders
    assert_close(sample.boxes, torch.tensor([[0.0, 0, 64, 48], [15.2, 15.2, 40, 40]]))
    assert sample.labels.tolist() == [1, 0]


def test_collate_pads(voc):
    data = dataset(voc, augment="none", train=False)
    batch = collate([data[0, index] for index in range(5)])
    assert batch.images.shape == (5, 3, 48, 64) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.boxes.shape == (5, 3, 4) and batch.targets.labels.dtype == torch.int64
    assert batch.targets.valid.tolist() == [
        [False] * 3,
        [True, False, False],
        [True, True, False],
        [False] * 3,
        [True] * 3,
    ]
    padding = ~batch.targets.valid
    assert not batch.targets.boxes[padding].any()
    assert not batch.targets.labels[padding].any()
    assert_close(batch.images[2].permute(1, 2, 0), data[0, 2].image)
    empty = collate([data[0, 0], data[0, 3]]).targets
    assert empty.boxes.shape == (2, 0, 4) and empty.labels.shape == empty.valid.shape == (2, 0)


def test_difficult_boxes_are_optional_and_crowd_boxes_are_never_used(voc, tmp_path):
    assert len(dataset(voc, augment="none")[0, 4].labels) == 3
    assert dataset(voc, augment="none", use_difficult=False)[0, 4].labels.tolist() == [1, 1]
    entries = [
        {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": crowd} for crowd in (1, 0, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": entries,
    }
    annotations = read_coco(**write_coco(tmp_path / "coco", content))
    assert len(annotations.labels) == 3
    transform = transform_of("none", size=(60, 80), resize="stretch", train=True)
    assert len(DetectionDataset(annotations, transform, seed=0)[0, 0].labels) == 1


def truncate(path: Path, keep: float) -> None:
    """Keep this fraction of the file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("keep", "reason"),
    [(0.6, "cannot be decoded (Image is incomplete or truncated)"), (0, "the file is empty")],
)
def test_a_broken_image_is_one_error_that_names_it(voc, workers, keep, reason):
    path = voc / "JPEGImages/c.jpg"
    truncate(path, keep)
    with pytest.raises(ImageError) as caught:
        list(build_eval_loader(dataset(voc), batch_size=2, workers=workers))
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message
    assert "Traceback" not in message and "worker" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_bytes_that_the_detector_normalises(voc, workers):
    """Images are uint8 up to the device, a quarter of float32's size; the detector converts them there."""
    batch = next(iter(build_train_loader(dataset(voc), batch_size=2, workers=workers, steps=1)))
    assert batch.images.dtype == torch.uint8
    inputs = []
    mean = torch.tensor([10.0, 20, 30])
    std = torch.tensor([2.0, 4, 5])
    detector = yolov2_tiny(num_classes=2, width=0.125)
    detector.pixel_mean.copy_(mean.view(3, 1, 1))
    detector.pixel_std.copy_(std.view(3, 1, 1))
    detector.backbone.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    images = batch.images[..., :32, :64]
    detector(images)
    expected = (images.permute(0, 2, 3, 1).float() - mean) / std
    assert_close(inputs[0].permute(0, 2, 3, 1), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_pinned(voc, workers):
    """So that they are copied while the device computes. The problems are still available."""
    break_images(voc, "c")
    loader = build_eval_loader(dataset(voc, on_error="leave_out"), batch_size=2, workers=workers)
    for batch in loader:
        for tensor in (batch.images, batch.targets.boxes, batch.targets.valid):
            assert tensor.is_pinned()
    assert len(loader.problems) == 1
    assert [info.index for batch in loader for info in batch.infos] == [0, 1, 3, 4]


def break_images(root: Path, *stems: str) -> list[str]:
    """Make images undecodable. Returns their paths."""
    paths = [root / f"JPEGImages/{stem}.jpg" for stem in stems]
    for path in paths:
        truncate(path, 0.6)
    return [str(path) for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
def test_other_images_replace_broken_ones(voc, caplog, workers):
    """Every batch is full, the other samples are unchanged, and each file is reported once and counted."""
    batches_of_keys = ResumableSampler(images=5, batch_size=2, seed=7, steps=10)
    keys = [key for batch in batches_of_keys for key in batch]
    before = [digest(collate([dataset(voc)[key]])) for key in keys]
    data = dataset(voc, on_error="replace")
    paths = break_images(voc, "c")
    (voc / "JPEGImages/a.jpg").unlink()
    paths.append(str(voc / "JPEGImages/a.jpg"))
    loader = build_train_loader(data, batch_size=2, workers=workers, steps=10)
    batches = list(loader)
    assert [len(batch.infos) for batch in batches] == [2] * 10
    infos = [info for batch in batches for info in batch.infos]
    for key, info, old in zip(keys, infos, before, strict=True):
        assert info.path not in paths
        assert data[key].info == info
        unchanged = digest(collate([data[key]])) == old
        assert unchanged == (key.index not in (0, 2))
    substitutes = [info.index for key, info in zip(keys, infos, strict=True) if key.index in (0, 2)]
    assert len(substitutes) == 8 and set(substitutes) <= {1, 3, 4}
    assert len(set(substitutes)) > 1  # not always the same image
    assert loader.problems.keys() == set(paths)
    assert {problem.kind for problem in loader.problems.values()} == {"broken-image", "missing-image"}
    messages = [record.getMessage() for record in caplog.records]
    assert [sum(path in message for message in messages) for path in paths] == [1, 1]
    assert all(message.endswith("; other images take its place") for message in messages)
    assert loader.summary() in (
        f"1 {a}, 1 {b}"
        for a, b in permutations(("images that cannot be decoded", "images that are not there"))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    ("spoil", "when"), [("annotation", "in its annotation"), ("transform", "after the augmentation")]
)
def test_a_box_that_is_not_finite_is_an_error_of_its_image(voc, spoil, when, value):
    data = dataset(voc)
    boxes = data.annotations.boxes_original
    row = int(data.annotations.offsets[1])  # the first box of the second image
    if spoil == "annotation":
        boxes[row, 2] = value
    else:
        original = data.transform

        def transform(*arguments):
            result = original(*arguments)
            result.boxes[0, 2] = value
            return result

        data.transform = transform
    with pytest.raises(ImageError) as caught:
        data[0, 1]
    path, what, kind = caught.value.args
    assert path == data.annotations.paths[1]
    assert what.startswith(f"a box with NaN or infinity {when}: [")
    assert kind == "broken-object"


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_broken_images(voc, caplog, workers):
    """One image of the second batch and all of the third. A second evaluation does not report them again."""
    paths = break_images(voc, "c", "e")
    loader = build_eval_loader(dataset(voc, train=False, on_error="leave_out"), batch_size=2, workers=workers)
    for _ in range(2):
        assert [[info.index for info in batch.infos] for batch in loader] == [[0, 1], [3]]
    assert loader.problems.keys() == set(paths)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for message in messages:
        assert "cannot be decoded" in message
        assert message.endswith("; it is left out, and its boxes count as missed")


@pytest.mark.parametrize("workers", [0, 2])
def test_training_without_any_usable_image_is_one_error(voc, workers):
    break_images(voc, *"abcde")
    message = (
        r"\.jpg: the image cannot be decoded .*None of the 50 images tried can be used; this is the last"
    )
    with pytest.raises(ImageError, match=message):
        list(build_train_loader(dataset(voc, on_error="replace"), batch_size=2, workers=workers, steps=2))
    assert list(build_eval_loader(dataset(voc, on_error="leave_out"), batch_size=2, workers=workers)) == []
    with pytest.raises(ValueError, match="on_error='ignore': choose one of stop, replace, leave_out"):
        dataset(voc, on_error="ignore")


def test_broken_images_of_a_mosaic_are_replaced(voc):
    """No pixel of a sample comes from a broken file, and the sample is the same each time."""
    (path,) = break_images(voc, "b")
    problems = set()
    for epoch in range(6):
        for index in (0, 2, 3, 4):
            settings = {"mixing": Mixing(mosaic=1.0, mixup=1.0), "on_error": "replace"}
            fetched = dataset(voc, **settings).__getitems__([Key(epoch, index)])
            problems |= {problem.file for problem in fetched.problems}
            assert fetched.error is None and fetched.samples[0].info.index == index
            assert fetched.samples[0].image.equal(dataset(voc, **settings)[epoch, index].image)
    assert problems == {path}


def test_each_sample_has_its_own_random_numbers_for_mixing(voc):
    draws = []
    data = dataset(voc, mixing=lambda sample, other, random: draws.append(random.random()) or sample)
    keys = [(epoch, index) for epoch in (0, 1) for index in range(5)]
    for key in (*keys, *keys):
        assert data[key].image.equal(dataset(voc)[key].image)
    assert draws[:10] == draws[10:] and len(set(draws)) == 10


def test_mixed_samples_have_the_boxes_of_all_images(voc):
    """Mixup appends the boxes of the other image; a mosaic is the same at another size."""
    plain = dataset(voc, augment="none")
    mixed = dataset(voc, augment="none", mixing=Mixing(mixup=1.0))
    for index in range(5):
        own = plain[0, index]
        both = mixed[0, index]
        assert both.boxes[: len(own.boxes)].equal(own.boxes)
        assert both.labels[: len(own.labels)].equal(own.labels)
        assert both.info == own.info
    assert not mixed[0, 0].image.equal(plain[0, 0].image)
    counts = {len(mixed[epoch, 0].labels) for epoch in range(20)}
    assert counts == {0, 1, 2, 3}  # any image may be the other one
    mosaic = dataset(voc, augment="none", mixing=Mixing(mosaic=1.0))
    for index in range(5):
        whole = mosaic[1, index]
        half = mosaic[Key(1, index, (24, 32))]
        assert abs(len(whole.boxes) - len(half.boxes)) <= 1
        small = cv2.resize(whole.image.numpy(), (32, 24), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(small - half.image.numpy()).mean() < 12


def test_reduced_decoding_moves_nothing(voc_large):
    """501 x 701 images for an input of 96 x 128: a quarter of the pixels is decoded, boxes do not move."""
    transform = transform_of("none", size=(96, 128), resize="letterbox", train=False)
    annotations = read_voc(root=voc_large, image_sets=["train"], class_names=CLASSES)
    whole = DetectionDataset(annotations, transform, seed=0)
    reduced = DetectionDataset(annotations, transform, seed=0, reader=ImageReader(annotations, reduced=True))
    for index in (0, 1):
        assert reduced.reader.read(index, (128, 128)).divisor == 2
        expected = whole[0, index]
        sample = reduced[0, index]
        assert expected.info.size_original == sample.info.size_original == (501, 701)
        assert_close(sample.boxes, expected.boxes, rtol=0.005, atol=0)
        shift = torch.tensor(sample.info.shift_xy)
        scale = torch.tensor(sample.info.scale_xy)
        corners = torch.tensor(annotations.boxes_original[index : index + 1, :2], dtype=torch.float32)
        assert_close((sample.boxes[:, :2] - shift) / scale, corners, rtol=1e-5, atol=1e-4)
        assert np.abs(expected.image.numpy().astype(int) - sample.image.numpy()).mean() < 2
    # Half the size is 251 x 351, but 320 pixels in both directions may be needed.
    transform.max_zoom = 2.5
    assert reduced[0, 1].image.equal(whole[0, 1].image)
    transform.max_zoom = 1.9
    assert not reduced[0, 1].image.equal(whole[0, 1].image)
    # A transform that does not say how much it enlarges gets the whole image.
    del transform.max_zoom
    assert reduced[0, 0].image.equal(whole[0, 0].image)


@pytest.mark.parametrize(("augment", "resize"), ENLARGING)
def test_no_augmentation_exceeds_its_max_zoom(augment, resize):
    """Reduced decoding relies on it. The largest zoom of boxes all over an image comes close to max_zoom.

    The image is twice as large as the input.
    """
    transform = transform_of(augment, size=(100, 100), resize=resize, train=True)
    image = np.zeros((200, 200, 3), np.uint8)
    places = np.arange(0, 200, 20)
    corners = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    boxes = np.concatenate(
        [np.concatenate([corners, np.minimum(corners + side, 200)], 1) for side in (4, 60)]
    )
    largest = 0
    for seed in range(150):
        sample = transform(image, boxes, np.zeros(len(boxes)), seed)
        unclipped = ((sample.boxes > 0) & (sample.boxes < 100)).all(1)
        before = boxes[sample.kept[unclipped]]
        after = sample.boxes[unclipped]
        zoom = (after[:, 2:] - after[:, :2]) / (before[:, 2:] - before[:, :2]) * 2
        largest = max(largest, zoom.max(initial=0))
    # 3 % more, because a crop in whole pixels may be a little narrower.
    assert 0.75 * transform.max_zoom < largest <= transform.max_zoom * 1.03


def test_a_size_that_differs_from_the_annotation_is_an_error(voc):
    write_image(voc / "JPEGImages/a.jpg", (61, 79))  # rounding
    data = dataset(voc)
    assert data[0, 0].info.size_original == (61, 79)
    write_image(voc / "JPEGImages/a.jpg", (60, 90))
    with pytest.raises(ImageError, match=r"a\.jpg: the image is 90 x 60 .*, its annotation says 80 x 60"):
        data[0, 0]
    write_image(voc / "JPEGImages/a.jpg", (80, 60))
    with pytest.raises(ImageError, match="swapped"):
        data[0, 0]


@pytest.mark.data
def test_a_real_zero_padded_image_is_a_sample(shared, tmp_path):
    root = write_voc(tmp_path, {"kangaroo_00053": ""})
    shutil.copyfile(shared / "bad-input/xml/kangaroo_00053.xml", root / "Annotations/kangaroo_00053.xml")
    shutil.copyfile(
        shared / "bad-input/images/kangaroo_00053_zero_padded_524288.jpg",
        root / "JPEGImages/kangaroo_00053.jpg",
    )
    annotations = read_voc(root=root, image_sets=["train"])
    transform = transform_of("light", size=(64, 64), resize="stretch", train=True)
    data = DetectionDataset(annotations, transform, seed=0)
    assert data[0, 0].boxes.shape[1] == 4


@pytest.mark.data
def test_real_images_form_a_batch(shared):
    """Every 100th image of the animals, every 10th of COCO: sizes match the annotations, boxes are inside."""
    folder = shared / "data/coco2017-mini"
    animals = read_voc(root=shared / "data/voc2012-animals/VOCdevkit", image_sets=["VOC2012/trainval"])
    coco = read_coco(
        annotation_file=folder / "annotations/instances_train2017_official.json",
        image_folder=folder / "train2017",
    )
    transform = transform_of("light", size=(96, 128), resize="letterbox", train=True)
    for split, stride in ((animals, 100), (coco, 10)):
        data = DetectionDataset(split, transform, seed=0)
        batch = collate([data[0, index] for index in range(0, len(data), stride)])
        boxes = batch.targets.boxes[batch.targets.valid]
        assert len(boxes) and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([128, 96, 128, 96])).all()
