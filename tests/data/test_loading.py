"""Loading: the same bytes from any number of workers and after any interruption; broken files named in one error."""

from __future__ import annotations

import hashlib
import shutil

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.testing import assert_close

from detectors.data.coco import read_coco
from detectors.data.loading import (
    DetectionDataset,
    ImageError,
    Key,
    MultiScale,
    ResumableSampler,
    build_eval_loader,
    build_train_loader,
    collate,
    read_image,
)
from detectors.data.transforms import build_transform
from detectors.data.voc import read_voc
from tests.data.files import box_xml, write_coco, write_image, write_voc

CLASSES = ["cat", "dog"]


@pytest.fixture
def voc(tmp_path):
    """Five images with 0, 1, 2, 0 and 3 boxes, the last one difficult."""
    difficult = "<difficult>1</difficult>"
    objects = {
        "a": "",
        "b": box_xml("cat", 5, 5, 40, 40),
        "c": box_xml("dog", 1, 1, 80, 60) + box_xml("cat", 20, 20, 50, 50),
        "d": "",
        "e": box_xml("dog", 3, 3, 30, 30) + box_xml("dog", 33, 3, 70, 30) + box_xml("cat", 10, 10, 60, 60, difficult),
    }
    return write_voc(tmp_path / "voc", objects)


def dataset(root, *, train: bool = True, augment: str = "light", seed: int = 7, **settings) -> DetectionDataset:
    annotations = read_voc(root=root, image_sets=["train"], class_names=CLASSES)
    transform = build_transform(augment=augment, size=(48, 64), resize="letterbox", train=train)
    return DetectionDataset(annotations, transform, seed=seed, **settings)


def digest(batch) -> str:
    parts = (batch.images.contiguous(), batch.targets.boxes, batch.targets.labels, batch.targets.valid)
    data = b"".join(part.numpy().tobytes() for part in parts) + repr(batch.infos).encode()
    return hashlib.sha256(data).hexdigest()


def test_any_number_of_workers_and_any_resume_give_the_same_bytes(voc):
    """Pain 15 and 16: sample k of epoch e is a pure function of (seed, e, k). Step 3 is in the middle of the second epoch."""
    whole = [digest(batch) for batch in build_train_loader(dataset(voc), batch_size=2, workers=0, steps=7)]
    assert len(set(whole)) == 7
    for workers, start in ((0, 3), (1, 3), (2, 0)):
        loader = build_train_loader(dataset(voc), batch_size=2, workers=workers, start_step=start, steps=7)
        assert len(loader) == 7 - start
        assert [digest(batch) for batch in loader] == whole[start:]
    other = [digest(batch) for batch in build_train_loader(dataset(voc, seed=8), batch_size=2, workers=0, steps=7)]
    assert not set(other) & set(whole)


def test_multi_scale_changes_nothing_about_workers_and_resumes(voc):
    """Two batches make an optimiser step, two steps a block of one size; batch 3 is the second half of a step."""
    scales = MultiScale(range(32, 97, 32), every=2, final_steps=2, steps=8, seed=3)

    def loader(workers: int, start: int = 0):
        size_of = {"size_of": lambda batch: scales(batch // 2)}
        return build_train_loader(dataset(voc), batch_size=2, workers=workers, start_step=start, steps=16, **size_of)

    batches = list(loader(0))
    sizes = [tuple(batch.images.shape[2:]) for batch in batches]
    assert sizes == [scales(batch // 2) for batch in range(16)]
    assert sizes[0::2] == sizes[1::2]
    assert len(set(sizes)) > 1 and set(sizes[12:]) == {(96, 96)}
    for batch in batches:
        limit = torch.tensor([batch.images.shape[3], batch.images.shape[2]] * 2)
        assert (batch.targets.boxes <= limit).all()
    whole = [digest(batch) for batch in batches]
    for workers, start in ((0, 3), (1, 7), (2, 0)):
        assert [digest(batch) for batch in loader(workers, start)] == whole[start:]


def test_a_size_changes_the_scale_of_a_sample_and_nothing_else(voc):
    """Mirror and crop are the same draws: boxes of half the size are half as large."""
    data = dataset(voc)
    own, half = data[3, 2], data[Key(3, 2, (24, 32))]
    assert own.image.shape[:2] == (48, 64) and half.image.shape[:2] == (24, 32)
    assert half.info.scale_xy == tuple(scale / 2 for scale in own.info.scale_xy)
    assert_close(half.boxes * 2, own.boxes)
    assert_close(half.labels, own.labels)


def test_multi_scale_is_darknets_rule():
    """yolov2-voc.cfg, random=1: rand() % 10 + 10 times 32 every 10 iterations, 608 in the last 200."""
    scales = MultiScale(range(320, 609, 32), every=10, final_steps=200, steps=80200, seed=0)
    sides = np.array([scales(step)[0] for step in range(0, 80000, 10)])
    names, counts = np.unique(sides, return_counts=True)
    assert names.tolist() == [320, 352, 384, 416, 448, 480, 512, 544, 576, 608]
    assert ((counts - 800) ** 2 / 800).sum() < 27.9  # chi-square of 9 degrees of freedom, p = .001
    assert abs(np.corrcoef(sides[:-1], sides[1:])[0, 1]) < 0.04  # no memory from block to block
    assert all(scales(step) == scales(step // 10 * 10) for step in range(500))
    assert {scales(step) for step in range(80000, 80200)} == {(608, 608)}
    assert scales(79999) == scales(79990) != (608, 608)
    assert [scales(10 * k)[0] for k in range(6)] == [576, 512, 512, 576, 352, 320]  # so that old runs can be repeated
    other = MultiScale(range(320, 609, 32), every=10, final_steps=200, steps=80200, seed=1)
    assert [other(10 * k) for k in range(20)] != [scales(10 * k) for k in range(20)]


def test_loaders_leave_the_global_random_state_alone(voc):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(build_train_loader(dataset(voc), batch_size=2, workers=0, steps=2))
    list(build_eval_loader(dataset(voc), batch_size=2, workers=0))
    assert_close(torch.get_rng_state(), before, rtol=0, atol=0)


def test_an_epoch_holds_each_image_once():
    sampler = ResumableSampler(images=10, batch_size=4, seed=1, steps=10)
    keys = [key for batch in sampler for key in batch]
    assert [key.epoch for key in keys] == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 10
    orders = [tuple(key.index for key in keys if key.epoch == wanted) for wanted in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(orders)) == 4


def test_the_sampler_is_endless_and_resumable():
    endless = iter(ResumableSampler(images=3, batch_size=8, seed=1))  # fewer images than a batch holds
    batches = [next(endless) for _ in range(50)]
    assert all(len(batch) == 8 for batch in batches)
    for start in (1, 17, 49):
        assert next(iter(ResumableSampler(images=3, batch_size=8, seed=1, start_step=start))) == batches[start]
    assert list(ResumableSampler(images=3, batch_size=8, seed=1, start_step=5, steps=5)) == []
    with pytest.raises(ValueError, match="0 images in batches of 8"):
        ResumableSampler(images=0, batch_size=8, seed=1)


def test_evaluation_sees_each_image_once_in_order(voc):
    for workers in (0, 2):
        loader = build_eval_loader(dataset(voc, train=False), batch_size=2, workers=workers)
        batches = list(loader)
        assert len(loader) == len(batches) == 3 and batches[-1].images.shape == (1, 3, 48, 64)
        assert [info.index for batch in batches for info in batch.infos] == [0, 1, 2, 3, 4]
        assert [digest(batch) for batch in loader] == [digest(batch) for batch in batches]  # a second evaluation


def test_a_sample_is_what_the_files_say(voc):
    """Without augmentation: pixels of the file, boxes times the scale, in the place that the info tells."""
    data = dataset(voc, augment="none", train=False)
    sample = data[0, 2]
    info = sample.info
    assert (info.index, info.image_id, info.size_original) == (2, "c", (60, 80))
    assert info.scale_xy == (0.8, 0.8) and info.shift_xy == (0.0, 0.0)
    image = cv2.imread(info.path)[..., ::-1]
    assert np.abs(sample.image.numpy().astype(int) - cv2.resize(image, (64, 48))).max() <= 2  # two JPEG decoders
    assert_close(sample.boxes, torch.tensor([[0.0, 0, 64, 48], [15.2, 15.2, 40, 40]]))
    assert sample.labels.tolist() == [1, 0]


def test_collate_pads(voc):
    data = dataset(voc, augment="none", train=False)
    batch = collate([data[0, index] for index in range(5)])
    assert batch.images.shape == (5, 3, 48, 64) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.boxes.shape == (5, 3, 4) and batch.targets.labels.dtype == torch.int64
    assert batch.targets.valid.tolist() == [[False] * 3, [True, False, False], [True, True, False], [False] * 3, [True] * 3]
    assert not batch.targets.boxes[~batch.targets.valid].any() and not batch.targets.labels[~batch.targets.valid].any()
    assert_close(batch.images[2].permute(1, 2, 0), data[0, 2].image)
    empty = collate([data[0, 0], data[0, 3]]).targets
    assert empty.boxes.shape == (2, 0, 4) and empty.labels.shape == empty.valid.shape == (2, 0)


def test_difficult_truths_are_a_choice_and_crowds_are_never_trained_on(voc, tmp_path):
    assert len(dataset(voc, augment="none")[0, 4].labels) == 3
    assert dataset(voc, augment="none", use_difficult=False)[0, 4].labels.tolist() == [1, 1]
    truths = [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "iscrowd": crowd} for crowd in (1, 0, 1)]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [{"id": 1, "name": "cat"}], "annotations": truths}
    annotations = read_coco(**write_coco(tmp_path / "coco", content))
    assert len(annotations.labels) == 3
    data = DetectionDataset(annotations, build_transform(augment="none", size=(60, 80), resize="stretch", train=True), seed=0)
    assert len(data[0, 0].labels) == 1


def truncate(path, keep: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("keep", "reason"), [(0.6, "cannot be decoded (Image is incomplete or truncated)"), (0, "the file is empty")])
def test_a_broken_image_is_one_error_that_names_it(voc, workers, keep, reason):
    path = voc / "JPEGImages/c.jpg"
    truncate(path, keep)
    with pytest.raises(ImageError) as caught:
        list(build_eval_loader(dataset(voc), batch_size=2, workers=workers))
    message = str(caught.value)
    assert message.startswith(str(path)) and reason in message
    assert "Traceback" not in message and "worker" not in message


def test_a_missing_or_foreign_file_is_named(voc, tmp_path):
    data = dataset(voc)
    (voc / "JPEGImages/b.jpg").unlink()
    with pytest.raises(ImageError, match=r"b\.jpg: the image cannot be read \(No such file"):
        data[0, 1]
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ImageError, match=r"text\.jpg: the image cannot be decoded \(Unsupported image file"):
        read_image(str(tmp_path / "text.jpg"))


def test_a_size_that_disagrees_is_an_error(voc):
    write_image(voc / "JPEGImages/a.jpg", (61, 79))  # rounding
    data = dataset(voc)
    assert data[0, 0].info.size_original == (61, 79)
    write_image(voc / "JPEGImages/a.jpg", (60, 90))
    with pytest.raises(ImageError, match=r"a\.jpg: the image is 90 x 60 .*, its annotation says 80 x 60"):
        data[0, 0]
    write_image(voc / "JPEGImages/a.jpg", (80, 60))
    with pytest.raises(ImageError, match="swapped"):
        data[0, 0]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_grey_images_get_three_channels(tmp_path, suffix):
    grey = cv2.resize(np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8), (30, 20))
    cv2.imwrite(str(tmp_path / f"grey{suffix}"), grey)
    image = read_image(str(tmp_path / f"grey{suffix}"))
    assert image.shape == (20, 30, 3) and image.dtype == np.uint8
    assert_array_equal(image[..., 0], image[..., 2])
    assert np.abs(image[..., 1].astype(int) - grey).max() <= 8


def test_png_kinds(tmp_path):
    """Transparent and 16-bit PNG arrive as 8-bit RGB."""
    values = np.random.default_rng(0).integers(0, 256, (9, 11, 4), dtype=np.uint8)
    values[..., 3] = 255
    cv2.imwrite(str(tmp_path / "alpha.png"), values)
    assert_array_equal(read_image(str(tmp_path / "alpha.png")), values[..., 2::-1])
    cv2.imwrite(str(tmp_path / "deep.png"), values[..., :3].astype(np.uint16) * 256 + 7)
    assert_array_equal(read_image(str(tmp_path / "deep.png")), values[..., 2::-1])


def test_the_orientation_tag_is_ignored(tmp_path):
    """Boxes refer to the pixels as stored: <size> of such files does."""
    write_image(tmp_path / "plain.jpg", (20, 30))
    data = (tmp_path / "plain.jpg").read_bytes()
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6: turn by 90 degrees
    (tmp_path / "turned.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + data[2:])
    assert_array_equal(read_image(str(tmp_path / "turned.jpg")), read_image(str(tmp_path / "plain.jpg")))


@pytest.mark.data
def test_real_broken_and_awkward_files(shared, tmp_path):
    """Truncated JPEG refused; zero padding after the end, grey images and one without boxes accepted."""
    images = shared / "bad-input/images"
    with pytest.raises(ImageError, match=r"kangaroo_00090_truncated\.jpg: .*truncated"):
        read_image(str(images / "kangaroo_00090_truncated.jpg"))
    assert read_image(str(images / "kangaroo_00053_zero_padded_524288.jpg")).shape == (655, 1000, 3)
    for name in ("raccoon-150", "raccoon-152", "raccoon-161", "coco_000000000086_grayscale"):
        image = read_image(str(images / f"{name}.jpg"))
        assert image.shape[2] == 3 and (image[..., 0] == image[..., 1]).all()
    assert read_image(str(images / "coco_000000226111_no_annotations.jpg")).shape == (640, 480, 3)
    root = write_voc(tmp_path, {"kangaroo_00053": ""})
    shutil.copyfile(shared / "bad-input/xml/kangaroo_00053.xml", root / "Annotations/kangaroo_00053.xml")
    shutil.copyfile(images / "kangaroo_00053_zero_padded_524288.jpg", root / "JPEGImages/kangaroo_00053.jpg")
    data = DetectionDataset(
        read_voc(root=root, image_sets=["train"]), build_transform(augment="light", size=(64, 64), resize="stretch", train=True), seed=0
    )
    assert data[0, 0].boxes.shape[1] == 4


@pytest.mark.data
def test_real_images_batch_up(shared):
    """Every hundredth image of the animals and all kinds of COCO: sizes agree with the annotations, boxes lie inside."""
    folder = shared / "data/coco2017-mini"
    animals = read_voc(root=shared / "data/voc2012-animals/VOCdevkit", image_sets=["VOC2012/trainval"])
    coco = read_coco(annotation_file=folder / "annotations/instances_train2017_official.json", image_folder=folder / "train2017")
    for truths, every in ((animals, 100), (coco, 10)):
        data = DetectionDataset(truths, build_transform(augment="light", size=(96, 128), resize="letterbox", train=True), seed=0)
        batch = collate([data[0, index] for index in range(0, len(data), every)])
        boxes = batch.targets.boxes[batch.targets.valid]
        assert len(boxes) and (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes <= torch.tensor([128, 96, 128, 96])).all()
