"""The same bytes, hashed over two epochs: with 0, 1, 2 and 4 workers, after a resume in mid-epoch, in two processes, with images kept."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from dataclasses import replace

import pytest

from detectors.config.schema import CONF
from detectors.data.loading import DetectionDataset, build_train_loader
from detectors.data.sampling import MultiScale
from detectors.structures import Batch
from detectors.training import assemble
from tests.data.files import box_xml, write_voc
from tests.test_configs import checked

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create:UserWarning"
)  # four workers, on purpose, on any machine
IMAGES, BATCH, STEPS = (
    11,
    8,
    3,
)  # 24 samples: two epochs and a little more, so that batches reach over the epochs' ends
AUGMENTATIONS = sorted(path.stem for path in (CONF / "augment").glob("*.yaml"))
RESIZE = {"ssd": "stretch", "darknet_2016": "stretch"}
EVERYTHING = ("mixing.mosaic=0.5", "mixing.mixup=0.5", "data.on_error=skip", "data.train_difficult=false")
SCALES = MultiScale(range(32, 97, 32), every=1, final_steps=0, steps=STEPS, seed=0)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Eleven images with 0 to 3 boxes, some difficult; one of them cut short, for `data.on_error=skip`."""
    difficult = "<difficult>1</difficult>"
    boxes = [
        box_xml("cat", 5, 5, 40, 40),
        box_xml("dog", 20, 10, 80, 60),
        box_xml("cat", 50, 30, 70, 55, difficult),
    ]
    return write_voc(
        tmp_path_factory.mktemp("voc"), {f"image{n}": "".join(boxes[: n % 4]) for n in range(IMAGES)}
    )


@pytest.fixture(scope="module")
def broken(voc, tmp_path_factory):
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
    return assemble.train_dataset(config, assemble.read_annotations(config.data, "train"))


def digests(
    data: DetectionDataset,
    multi_scale: bool,
    *,
    workers: int = 0,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> list[list[str]]:
    """One for each sample of each batch: SHA-256 of its image, boxes, labels and name."""
    share = {"batch_size": BATCH // world_size, "rank": rank, "world_size": world_size}
    loader = build_train_loader(
        data, workers=workers, start_step=start, steps=STEPS, size_of=SCALES if multi_scale else None, **share
    )
    return [[digest(batch, place) for place in range(len(batch.infos))] for batch in loader]


def digest(batch: Batch, place: int) -> str:
    valid, info = batch.targets.valid[place], batch.infos[place]
    tensors = (
        batch.images[place].contiguous(),
        batch.targets.boxes[place][valid],
        batch.targets.labels[place][valid],
    )
    content = (
        b"".join(tensor.numpy().tobytes() for tensor in tensors)
        + repr((tuple(batch.images.shape[1:]), info)).encode()
    )
    return hashlib.sha256(content).hexdigest()


def two_processes(data: DetectionDataset, multi_scale: bool, method: str) -> list[list[str]]:
    """Each a rank with half of every batch, and with a copy of the data set that went through pickle."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        waiting = [
            pool.apply_async(digests, (data, multi_scale), {"rank": rank, "world_size": 2}) for rank in (0, 1)
        ]
        first, second = (result.get(timeout=60) for result in waiting)
    return [one + two for one, two in zip(first, second, strict=True)]


def assert_same_bytes(root, augment: str, multi_scale: bool, *overrides: str, method: str = "fork") -> None:
    data = dataset(root, augment, *overrides)
    whole = digests(data, multi_scale)
    assert (
        len({name for batch in whole for name in batch}) >= 2 * IMAGES
    )  # no two samples alike, of one image neither
    for workers in (1, 2, 4):
        assert digests(data, multi_scale, workers=workers) == whole
    assert digests(data, multi_scale, start=1) == whole[1:]
    assert digests(data, multi_scale, start=2, workers=1) == whole[2:]
    assert two_processes(data, multi_scale, method) == whole
    for kind in ("ram", "disk"):
        kept = dataset(root, augment, *overrides, f"data.image_cache={kind}")
        assert digests(kept, multi_scale, workers=2) == whole  # filled by two processes
        assert digests(kept, multi_scale) == whole  # read by a third
    assert digests(dataset(root, augment, *overrides, "seed=1"), multi_scale) != whole


def test_all_at_once(broken):
    """Augmentation, multi-scale, mosaic, mixup, a broken image that others replace, no difficult truths."""
    assert_same_bytes(broken, "light", True, *EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("multi_scale", [False, True])
@pytest.mark.parametrize("augment", [name for name in AUGMENTATIONS if name != "none"])
def test_every_augmentation(broken, voc, augment, multi_scale):
    assert_same_bytes(voc, augment, multi_scale)
    assert_same_bytes(broken, augment, multi_scale, *EVERYTHING)


@pytest.mark.slow
def test_processes_that_share_nothing(broken):
    """Spawned, as on systems without fork: data set, transforms and caches go through pickle."""
    assert_same_bytes(broken, "light", True, *EVERYTHING, method="spawn")


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_spawned_workers(broken, cache):
    data = dataset(broken, "light", *EVERYTHING, f"data.image_cache={cache}")
    loader = build_train_loader(data, batch_size=BATCH, workers=2, steps=STEPS)
    loader.multiprocessing_context = "spawn"
    assert [[digest(batch, place) for place in range(BATCH)] for batch in loader] == digests(data, False)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_a_data_set_survives_pickle(voc, augment):
    data = dataset(voc, augment, "mixing.mosaic=1.0", "mixing.mixup=1.0", "data.image_cache=disk")
    again = pickle.loads(pickle.dumps(data))
    for key in ((0, 3), (1, 7), (5, 3)):
        a, b = data[key], again[key]
        assert (
            a.image.equal(b.image),
            a.boxes.equal(b.boxes),
            a.labels.equal(b.labels),
            a.info == b.info,
        ) == (True,) * 4


def test_the_order_of_asking_does_not_matter(voc):
    """No sample leaves anything behind that the next one sees."""
    data = dataset(voc, "light", "mixing.mosaic=0.5")
    keys = [(epoch, index) for epoch in (0, 1) for index in range(IMAGES)]
    forth = {key: data[key] for key in keys}
    back = {key: data[key] for key in reversed(keys)}
    assert all(
        forth[key].image.equal(back[key].image) and forth[key].boxes.equal(back[key].boxes) for key in keys
    )


def test_a_finished_configuration_gives_its_loader_everything(voc):
    """parts.train_loader: batches of two to a step of one size, counted from the step that a run goes on from."""
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
    annotations = assemble.read_annotations(config.data, "train")
    loader = assemble.train_loader(config, annotations, start_step=0)
    assert (loader.num_workers, loader.prefetch_factor) == (2, 3)
    whole = [[digest(batch, place) for place in range(4)] for batch in loader]
    alone = assemble.train_loader(
        replace(config, data=replace(config.data, workers=0)), annotations, start_step=3
    )
    assert [[digest(batch, place) for place in range(4)] for batch in alone] == whole[6:]
    assert len(whole) == 10
