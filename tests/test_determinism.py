"""Samples are the same bytes whatever the circumstances, hashed over two epochs.

With 0, 1, 2 and 4 workers, after a resume in mid-epoch, in two processes, with image caches.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from dataclasses import replace

import pytest

from detectors.config.schema import CONF
from detectors.data.dataset import DetectionDataset
from detectors.data.loading import build_train_loader
from detectors.data.sampling import MultiScale
from detectors.structures import Batch
from detectors.training import assemble, ground_truth
from tests.data.files import box_xml, write_voc
from tests.test_configs import checked

# four workers on any machine, on purpose
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
# 24 samples: two epochs and a little more, so that batches reach across the end of an epoch
IMAGES = 11
BATCH = 8
STEPS = 3
FOR_CLASSIFIERS = {"darknet_classifier", "digits", "small_images"}
AUGMENTATIONS = sorted({path.stem for path in (CONF / "augment").glob("*.yaml")} - FOR_CLASSIFIERS)
RESIZE = {"ssd": "stretch", "darknet_2016": "stretch"}
EVERYTHING = ("mixing.mosaic=0.5", "mixing.mixup=0.5", "data.on_error=skip", "data.train_difficult=false")
SCALES = MultiScale(range(32, 97, 32), every=1, final_steps=0, steps=STEPS, seed=0)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Eleven images with 0 to 3 boxes, some of them difficult."""
    difficult = "<difficult>1</difficult>"
    boxes = [
        box_xml("cat", 5, 5, 40, 40),
        box_xml("dog", 20, 10, 80, 60),
        box_xml("cat", 50, 30, 70, 55, difficult),
    ]
    objects = {f"image{n}": "".join(boxes[: n % 4]) for n in range(IMAGES)}
    return write_voc(tmp_path_factory.mktemp("voc"), objects)


@pytest.fixture(scope="module")
def broken(voc, tmp_path_factory):
    """The same data set with one truncated image, for data.on_error=skip."""
    root = write_voc(
        tmp_path_factory.mktemp("broken"),
        {path.stem: path.read_text() for path in (voc / "Annotations").iterdir()},
    )
    for path in (voc / "Annotations").iterdir():
        (root / "Annotations" / path.name).write_text(path.read_text())
    path = root / "JPEGImages/image3.jpg"
    path.write_bytes(path.read_bytes()[:400])
    return root


def dataset(root, augment: str, *overrides: str) -> DetectionDataset:
    voc = ("data=voc", f"data.root={root}", "data.val=[train]", f"augment={augment}", f"paths.cache={root}")
    size = ("input.size=[64,64]", f"input.resize={RESIZE.get(augment, 'letterbox')}")
    config = checked("model=yolov2_160", *size, *voc, *overrides)
    return assemble.train_dataset(config, ground_truth.read_annotations(config.data, "train"))


def digests(
    data: DetectionDataset,
    multi_scale: bool,
    *,
    workers: int = 0,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[list[str]]:
    """Of each batch, the digest of each sample."""
    loader = build_train_loader(
        data,
        batch_size=BATCH // world_size,
        workers=workers,
        start_step=start,
        steps=STEPS,
        size_of=SCALES if multi_scale else None,
        rank=rank,
        world_size=world_size,
    )
    return [[digest(batch, row) for row in range(len(batch.infos))] for batch in loader]


def digest(batch: Batch, row: int) -> str:
    """SHA-256 of a sample's image, boxes, labels and info."""
    valid = batch.targets.valid[row]
    boxes = batch.targets.boxes[row][valid]
    labels = batch.targets.labels[row][valid]
    tensors = (batch.images[row].contiguous(), boxes, labels)
    content = b"".join(tensor.numpy().tobytes() for tensor in tensors)
    content += repr((tuple(batch.images.shape[1:]), batch.infos[row])).encode()
    return hashlib.sha256(content).hexdigest()


def digests_of_two_processes(data: DetectionDataset, multi_scale: bool, method: str) -> list[list[str]]:
    """Each process is a rank: it has half of every batch and an unpickled copy of the data set."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = [
            pool.apply_async(digests, (data, multi_scale), {"rank": rank, "world_size": 2}) for rank in (0, 1)
        ]
        first, second = (result.get(timeout=60) for result in results)
    return [one + two for one, two in zip(first, second, strict=True)]


def assert_same_bytes(root, augment: str, multi_scale: bool, *overrides: str, method: str = "fork") -> None:
    data = dataset(root, augment, *overrides)
    expected = digests(data, multi_scale)
    different = {sample for batch in expected for sample in batch}
    assert len(different) >= 2 * IMAGES  # no two samples are equal, not even of the same image
    for workers in (1, 2, 4):
        assert digests(data, multi_scale, workers=workers) == expected
    assert digests(data, multi_scale, start=1) == expected[1:]
    assert digests(data, multi_scale, start=2, workers=1) == expected[2:]
    assert digests_of_two_processes(data, multi_scale, method) == expected
    for cache in ("ram", "disk"):
        cached = dataset(root, augment, *overrides, f"data.image_cache={cache}")
        assert digests(cached, multi_scale, workers=2) == expected  # filled by two processes
        assert digests(cached, multi_scale) == expected  # read by a third
    assert digests(dataset(root, augment, *overrides, "seed=1"), multi_scale) != expected


def test_everything_at_once(broken):
    """Augmentation, multi-scale, mosaic, mixup, a broken image that is replaced, no difficult boxes."""
    assert_same_bytes(broken, "light", True, *EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("augment", [name for name in AUGMENTATIONS if name != "none"])
def test_every_augmentation(broken, voc, augment, multi_scale):
    assert_same_bytes(voc, augment, multi_scale)
    assert_same_bytes(broken, augment, multi_scale, *EVERYTHING)


@pytest.mark.slow
def test_processes_that_share_nothing(broken):
    """Spawned, as on systems without fork: data set, transforms and caches are pickled."""
    assert_same_bytes(broken, "light", True, *EVERYTHING, method="spawn")


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_spawned_workers(broken, cache):
    data = dataset(broken, "light", *EVERYTHING, f"data.image_cache={cache}")
    loader = build_train_loader(data, batch_size=BATCH, workers=2, steps=STEPS)
    loader.multiprocessing_context = "spawn"
    assert [[digest(batch, row) for row in range(BATCH)] for batch in loader] == digests(data, False)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_an_unpickled_data_set_gives_the_same_samples(voc, augment):
    data = dataset(voc, augment, "mixing.mosaic=1.0", "mixing.mixup=1.0", "data.image_cache=disk")
    unpickled = pickle.loads(pickle.dumps(data))
    for key in ((0, 3), (1, 7), (5, 3)):
        sample = data[key]
        other = unpickled[key]
        assert sample.image.equal(other.image)
        assert sample.boxes.equal(other.boxes)
        assert sample.labels.equal(other.labels)
        assert sample.info == other.info


def test_samples_do_not_depend_on_their_order(voc):
    """No sample leaves state behind for the next one."""
    data = dataset(voc, "light", "mixing.mosaic=0.5")
    keys = [(epoch, index) for epoch in (0, 1) for index in range(IMAGES)]
    forwards = {key: data[key] for key in keys}
    backwards = {key: data[key] for key in reversed(keys)}
    for key in keys:
        assert forwards[key].image.equal(backwards[key].image)
        assert forwards[key].boxes.equal(backwards[key].boxes)


def test_the_train_loader_follows_the_configuration(voc):
    """assemble.train_loader: two batches of one size per step; a resumed run continues at its step."""
    scales = "input.multi_scale={min: 32, max: 96, step: 32, every: 1, final_steps: 0}"
    overrides = (
        "trainer.steps=5",
        "trainer.batch_size=4",
        "trainer.accumulate=2",
        "schedule.warmup_steps=0",
        scales,
    )
    data = (
        "data=voc",
        f"data.root={voc}",
        "data.val=[train]",
        "data.workers=2",
        "data.prefetch=3",
        "input.size=[64,64]",
        f"paths.cache={voc}",
    )
    config = checked("model=yolov2_160", *data, *overrides)
    annotations = ground_truth.read_annotations(config.data, "train")
    loader = assemble.train_loader(config, annotations, start_step=0)
    assert (loader.num_workers, loader.prefetch_factor) == (2, 3)
    expected = [[digest(batch, row) for row in range(4)] for batch in loader]
    assert len(expected) == 10
    no_workers = replace(config, data=replace(config.data, workers=0))
    resumed = assemble.train_loader(no_workers, annotations, start_step=3)
    assert [[digest(batch, row) for row in range(4)] for batch in resumed] == expected[6:]
