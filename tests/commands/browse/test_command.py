"""detectors browse: files, pixels, TensorBoard's copy, order and sizes of training, error messages."""

from __future__ import annotations

import re
from itertools import chain, islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detectors.commands.browse import command
from detectors.commands.browse.cells import anchor_cell, original_cell, sample_cell
from detectors.commands.browse.options import options
from detectors.commands.browse.sample_sources import SampleSource, open_sources
from detectors.drawing.drawn_boxes import class_colours
from detectors.drawing.framed_images import CAPTION
from detectors.training import assemble
from tests.data.files import box_xml, write_voc
from tests.test_configs import checked
from tests.training.initial.starts import stored

PAGES = {"samples_1", "samples_2", "epochs", "anchors_1", "anchors_2"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> list[str]:
    """Overrides for a small generated data set and a small network."""
    return [
        f"paths.cache={tmp_path_factory.mktemp('cache')}",
        "data.shapes.train=21",
        "data.shapes.val=3",
        "model=yolov2_160",
        "model.width=0.125",
    ]


@pytest.fixture(scope="module")
def browsed(shapes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browsed")
    command.main([*shapes, "--anchors", "--images", "18", "--width", "400", "--output", str(folder)])
    return folder


def sources_of(*arguments: str) -> list[SampleSource]:
    return list(open_sources(options(list(arguments))))


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def test_files_are_named_after_their_content_and_not_too_wide(browsed):
    assert {path.stem for path in browsed.glob("*.png")} == PAGES
    cell = (400 + 4) // 4 - 4
    assert read(browsed / "samples_1.png").shape == (4 * (cell + CAPTION + 4) - 4, 4 * (cell + 4) - 4, 3)
    assert read(browsed / "samples_2.png").shape == (cell + CAPTION, 2 * (cell + 4) - 4, 3)
    assert all(read(path).shape[1] <= 400 for path in browsed.glob("*.png"))


def test_tensorboard_has_the_same_pictures(browsed):
    events = EventAccumulator(str(browsed), size_guidance={"images": 0, "tensors": 0}).Reload()
    tags = {
        "samples_1": "samples/0",
        "samples_2": "samples/1",
        "epochs": "epochs/0",
        "anchors_1": "anchors/0",
        "anchors_2": "anchors/1",
    }
    assert set(events.Tags()["images"]) == {f"browse/{tag}" for tag in tags.values()}
    for name, tag in tags.items():
        (event,) = events.Images(f"browse/{tag}")
        encoded = np.frombuffer(event.encoded_image_string, np.uint8)
        assert_array_equal(cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1], read(browsed / f"{name}.png"))
    (text,) = events.Tensors("browse/about/text_summary")
    assert b"shapes train: 21 images" in text.tensor_proto.string_val[0]
    assert b"anchors each" in text.tensor_proto.string_val[0]


def test_a_second_run_writes_the_same_bytes_and_prints_the_paths(shapes, browsed, tmp_path, capsys):
    command.main([*shapes, "--anchors", "--images", "18", "--width", "400", "--output", str(tmp_path)])
    for name in PAGES:
        assert (tmp_path / f"{name}.png").read_bytes() == (browsed / f"{name}.png").read_bytes(), name
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("shapes train: 21 images, ")
    assert set(printed) >= {str(tmp_path / f"{name}.png") for name in PAGES}
    assert f"tensorboard --logdir {tmp_path}" in printed


def test_the_default_folder_is_named_after_time_and_model(shapes, tmp_path):
    options = ["--images", "1", "--epochs", "1", "--width", "400", "--format", "jpg"]
    command.main([*shapes, f"paths.output={tmp_path}", *options])
    (folder,) = (tmp_path / "browse").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_yolov2_160", folder.name)
    assert {path.name for path in folder.glob("*.jpg")} == {"samples.jpg", "epochs.jpg"}


SCALES = [
    "input.multi_scale={min: 96, max: 160, every: 1, final_steps: 1}",
    "trainer.batch_size=4",
    "trainer.accumulate=2",
]


@pytest.mark.parametrize("scales", [[], SCALES])
def test_shown_samples_are_those_of_training(shapes, scales):
    """From step 2 into the second epoch; with multi-scale training at the sizes of the steps."""
    (source,) = sources_of(*shapes, *scales, "--step", "2", "--images", "12")
    loader = assemble.train_loader(checked(*shapes, *scales), source.annotations, start_step=2)
    expected = []
    for batch in islice(iter(loader), 3):
        for image, info in zip(batch.images, batch.infos, strict=True):
            expected.append((image.permute(1, 2, 0), info.index))
    for shown, (image, index) in zip(source.shown, expected[:12], strict=True):
        assert_array_equal(shown.sample.image, image)
        assert shown.sample.info.index == index
    assert {shown.key.epoch for shown in source.shown} == {0, 1}
    assert len({shown.sample.image.shape for shown in source.shown}) == (2 if scales else 1)


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_is_shown_from_its_beginning(shapes, epoch):
    (source,) = sources_of(*shapes, *SCALES, "--epoch", str(epoch), "--images", "21")
    assert [shown.key.epoch for shown in source.shown] == [epoch] * 21
    assert sorted(shown.key.index for shown in source.shown) == list(range(21))


def test_other_epochs_have_the_keys_that_training_will_have(shapes):
    (source,) = sources_of(*shapes, *SCALES)
    keys = list(chain.from_iterable(islice(iter(source.sampler), 40)))
    for shown in source.shown:
        for epoch in range(4):
            assert source.in_epoch(shown.key, epoch) in keys
            assert source.in_epoch(shown.key, epoch)[:2] == (epoch, shown.key.index)
        assert source.in_epoch(shown.key, shown.key.epoch) == shown.key


@pytest.fixture
def rectangle(tmp_path) -> list[str]:
    """One black image of 100 x 200 pixels. A white rectangle from (40, 20) to (120, 80) is a dog.

    There is also a difficult cat on black.
    """
    difficult = box_xml("cat", 151, 31, 190, 70, "<difficult>1</difficult>")
    root = write_voc(tmp_path / "set", {"a": box_xml("dog", 41, 21, 120, 80) + difficult}, size=(100, 200))
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:80, 40:120] = 255
    cv2.imwrite(str(root / "JPEGImages/a.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return [
        "data=voc",
        f"data.root={root}",
        "data.val=[train]",
        "augment=none",
        "trainer.batch_size=1",
        "model.width=0.125",
    ]


def test_boxes_are_drawn_where_the_objects_are(rectangle):
    """At 400 pixels, the original is twice its size and the letterboxed sample (160 pixels) 2.5 times."""
    (source,) = sources_of(*rectangle, "data.train_difficult=false", "--images", "1")
    (shown,) = source.shown
    cat, dog = class_colours(2)
    original = original_cell(source.annotations, 0, source.dataset.reader.read(0).image, 400)[CAPTION:]
    sample = sample_cell(source, shown.key, shown.sample, 400)[CAPTION:]
    assert original.shape == (200, 400, 3) and sample.shape == (400, 400, 3)
    left = 80
    right = 239
    for picture, top in ((original, 40), (sample, 140)):  # the letterbox bars are 100 rows of the picture
        bottom = top + 119
        assert (picture[top, left + 60 : right] == dog).all()  # the class name hides the left
        assert (picture[bottom, left:right] == dog).all()
        assert (picture[top + 10 : bottom, left] == dog).all()
        assert (picture[top + 10 : bottom, right] == dog).all()
        assert (picture[top + 6 : bottom - 6, left + 6 : right - 6] > 245).all()  # white inside
        assert (picture[top + 6 : bottom - 6, right + 6 : 295] < 10).all()  # black outside
    assert (original[60:140, 300] == cat).all()  # the original shows boxes that are not trained on
    assert not (sample == cat).all(-1).any()


def test_anchors_are_drawn_in_the_colour_of_their_box(rectangle):
    """Each of the two boxes has one anchor, drawn fainter than the box."""
    (source,) = sources_of(*rectangle, "model=yolov2_160", "--anchors", "--images", "1")
    (shown,) = source.shown
    assert_array_equal(shown.anchors.counts, [1, 1])
    picture = anchor_cell(source, shown, 480)[CAPTION:]
    for colour, anchor in zip(class_colours(2), shown.anchors.anchors * 3, strict=True):
        x0, y0, x1, y1 = np.clip(anchor.round().astype(int), 0, 480)
        vertical = picture[y0:y1, [x0, x1 - 1]].reshape(-1, 3)
        horizontal = picture[[y0, y1 - 1], x0:x1].reshape(-1, 3)
        shares = [
            (np.abs(edge - (0.6 * colour + 0.4 * background)).max(1) < 6).mean()
            for edge in (vertical, horizontal)
            for background in (0, 127, 255)
        ]
        assert max(shares) > 0.25


def test_a_box_without_anchors_is_dashed(tmp_path):
    """Two boxes with one centre and one shape: in YOLOv2 the later one gets the anchor."""
    two = box_xml("dog", 41, 41, 100, 100) + box_xml("dog", 43, 43, 98, 98)
    root = write_voc(tmp_path, {"a": two}, size=(160, 160))
    (source,) = sources_of(
        "data=voc", f"data.root={root}", "data.val=[train]", "augment=none", "--anchors", "--images", "1"
    )
    (shown,) = source.shown
    assert_array_equal(shown.anchors.counts, [0, 1])
    picture = anchor_cell(source, shown, 480)[CAPTION:]
    # top edge of the first box, beside the class name of the second
    assert set(np.unique(picture[120, 200:300])) == {0, 255}
    # class name and 0 anchors of the first box, below it on white
    assert (picture[303:312, 122:148] == 255).all(-1).mean() > 0.3


def test_other_splits_are_shown_as_in_evaluation(shapes, tmp_path, capsys):
    command.main(
        [*shapes, "--split", "val", "--images", "9", "--anchors", "--width", "400", "--output", str(tmp_path)]
    )
    assert {path.name for path in tmp_path.glob("*.png")} == {"samples.png", "originals.png", "anchors.png"}
    printed = capsys.readouterr().out
    assert "shapes val: 3 images" in printed
    assert "; 3 shown\n" in printed
    (source,) = sources_of(*shapes, "--split", "val")
    (batch,) = assemble.eval_loader(source.config, source.annotations, batch_size=3)
    for shown, image in zip(source.shown, batch.images, strict=True):
        assert_array_equal(shown.sample.image, image.permute(1, 2, 0))


def test_compared_configurations_are_rows(shapes, tmp_path, capsys):
    models = ["model=yolov2_160,model.width=0.125", "model=ssd160,model.width=0.125,input.size=[160,160]"]
    options = ["--width", "300", "--output", str(tmp_path)]
    command.main([*shapes[:3], "--compare", *models, "--images", "3", "--anchors", *options])
    augments = ["augment=none", "augment=light"]
    command.main([*shapes, "--compare", *augments, "--epochs", "2", *options])
    assert {path.name for path in tmp_path.glob("*.png")} == {"compared_anchors.png", "compared_epochs.png"}
    assert read(tmp_path / "compared_anchors.png").shape == (2 * (97 + CAPTION) + 4, 3 * 97 + 8, 3)
    assert read(tmp_path / "compared_epochs.png").shape == (2 * (148 + CAPTION) + 4, 2 * 148 + 4, 3)
    printed = capsys.readouterr().out
    for title in ("model=yolov2_160", "model=ssd160", "augment=none", "augment=light"):
        assert f"{title}: shapes train: 21 images" in printed
    none, light = sources_of(*shapes, "--compare", *augments)
    assert [shown.key for shown in none.shown] == [shown.key for shown in light.shown]


def test_the_configuration_of_a_run(shapes, tmp_path):
    """Overrides change the run's configuration. Matchers that need predictions use its weights."""
    run = stored(
        checked(*shapes, "seed=3", "name=earlier"),
        tmp_path / "last.pt",
        ("cross", "disc", "ring", "square", "star", "triangle"),
    )
    (source,) = sources_of(
        "--checkpoint", str(run.path), "--anchors", "--images", "2", "trainer.batch_size=4"
    )
    assert (source.config.seed, source.config.name, source.config.trainer.batch_size) == (3, "earlier", 4)
    assert source.shown[0].anchors.counts.sum() == len(source.shown[0].anchors.box_rows)


def test_a_broken_image_is_named(rectangle, tmp_path, capsys):
    """It ends the command with data.on_error=stop, and is left out of val with data.on_error=skip."""
    root = Path(rectangle[1].partition("=")[2])
    write_voc(root, {"b": box_xml("dog", 1, 1, 9, 9)}, split="both")
    (root / "ImageSets/Main/both.txt").write_text("a\nb\n")
    (root / "JPEGImages/b.jpg").write_bytes(b"no image")
    arguments = [*rectangle, "data.val=[both]", "--split", "val", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        command.main([*arguments, "data.on_error=stop"])
    assert "JPEGImages/b.jpg: " in capsys.readouterr().err
    command.main([*arguments, "data.on_error=skip"])
    printed = capsys.readouterr()
    assert re.search(r"left out: \S+/JPEGImages/b\.jpg: ", printed.err)
    assert "voc val: 2 images, 3 boxes of 2 classes; 1 shown" in printed.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "0"], "--images 0: must be 1 or more"),
        (["--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["--step", "-1"], "--step -1: must be 0 or more"),
        (["--step", "1000"], "--step 1000: the run ends before it, trainer.steps=1000"),
        (["--epoch", "900"], r"--epoch 900 \(step 2362\): the run ends before it"),
        (["--split", "val", "--step", "1"], "--split val: evaluation has neither steps nor epochs"),
        (["--split", "test"], r"data\.test is empty: shapes has no such split"),
        (["--compare", "augment"], "augment: not of the form group.key=value"),
        (["model=ssd16"], "model=ssd16: there is no such choice; did you mean"),
        (["--checkpoint", "nowhere"], "nowhere"),
        (["runs/best.pt"], r"runs/best\.pt: a run is named by an option: --checkpoint runs/best\.pt"),
        (["latest"], "latest: a run is named by an option: --checkpoint latest"),
    ],
)
def test_wrong_arguments_give_one_message(shapes, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main([*shapes[:3], *arguments, f"paths.output={tmp_path}"])
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_a_split_without_images(rectangle, capsys):
    root = Path(rectangle[1].partition("=")[2])
    (root / "ImageSets/Main/none.txt").write_text("")
    with pytest.raises(SystemExit, match="2"):
        command.main([*rectangle, "data.train=[none]", "data.class_names=[cat,dog]"])
    error = capsys.readouterr().err
    assert "none.txt" in error


def test_samples_do_not_depend_on_the_global_generators(shapes):
    """Samples depend on the run's seed alone."""
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    (first,) = sources_of(*shapes, "--images", "2")
    (second,) = sources_of(*shapes, "--images", "2")
    for one, other in zip(first.shown, second.shown, strict=True):
        assert_array_equal(one.sample.image, other.sample.image)
