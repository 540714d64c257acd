"""detectors.load and Predictor.predict: every kind of input, batches, refusals, and the pictures' names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detectors
from detectors.commands.predict.checkpoint_model import CheckpointModel
from detectors.commands.predict.command import main
from detectors.commands.predict.picture_files import picture_paths
from detectors.config.check import check
from detectors.config.composing import composed
from detectors.config.schema import to_plain
from detectors.training import assemble
from detectors.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The checkpoint of an untrained detector, in a run folder."""
    folder = tmp_path_factory.mktemp("run")
    config = check(composed(["model=yolov2_160", "model.width=0.125", "model.score_threshold=0.0"]))
    names = ("cat", "dog")
    state = assemble.build_detector(config, len(names)).state_dict()
    save_checkpoint(Checkpoint(folder / "best.pt", 0, to_plain(config), names, state, {}, {}, {}))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of three images of different sizes, and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.jpg", (200, 90)), ("c.png", (33, 47))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_kind_of_input_gives_the_same_predictions(run, images):
    detector = detectors.load(run)
    paths = [images / name for name in ("a.png", "b.jpg", "c.png")]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in (paths[0], paths[2])]
    whole = detector.predict(images, score=0.1, batch_size=1)
    assert [Path(found.path).name for found in whole] == ["a.png", "b.jpg", "c.png"]
    assert [found.size for found in whole] == [(60, 80), (200, 90), (33, 47)]
    assert detector.class_names == ("cat", "dog") and whole[0].class_names == ("cat", "dog")
    same(detector.predict([str(path) for path in paths], score=0.1), whole)
    same(detector.predict(iter(paths), score=0.1, batch_size=2), whole)
    same(detector.predict(arrays[0], score=0.1), whole[:1])
    same(detector.predict([Image.fromarray(arrays[0]), arrays[1]], score=0.1), [whole[0], whole[2]])
    same(detectors.load(run / "best.pt").predict(paths[1], score=0.1), whole[1:2])


def test_max_pixels_is_that_of_the_run(run, images):
    checkpoint = load_checkpoint(run / "best.pt")
    checkpoint.config["data"]["max_pixels"] = 60 * 80 - 1
    model = CheckpointModel(checkpoint, torch.device("cpu"))
    assert model.read(str(images / "c.png")).shape == (33, 47, 3)
    with pytest.raises(ValueError, match=r"a\.png: the image has 80 x 60 pixels, more than"):
        model.read(str(images / "a.png"))


def same(predictions: list, expected: list) -> None:
    """Equal up to what a batch of another size rounds differently."""
    assert len(predictions) == len(expected)
    for one, other in zip(predictions, expected, strict=True):
        assert one.size == other.size and len(one) == len(other) > 0
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(np.sort(one.boxes_xyxy, 0), np.sort(other.boxes_xyxy, 0), atol=1e-2)


def test_a_prediction_is_sorted_clipped_and_named(run, images):
    (found,) = detectors.load(run).predict(images / "b.jpg", score=0.2)
    assert (np.diff(found.scores) <= 0).all() and (found.scores >= 0.2).all()
    assert found.boxes_xyxy.min() >= 0 and (found.boxes_xyxy <= [90, 200, 90, 200]).all()
    assert found.names == [found.class_names[label] for label in found.labels]


def test_the_score_drops_the_weaker_ones(run, images):
    detector = detectors.load(run)
    (many,) = detector.predict(images / "a.png", score=0.1)
    limit = float(np.median(many.scores))
    (few,) = detector.predict(images / "a.png", score=limit)
    assert len(few) == (many.scores >= limit).sum()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("absent.png", "absent.png: no such image or folder"),
        (np.zeros((4, 4)), r"an array of shape \(4, 4\) and type float64: an image is \(h, w, 3\) uint8 RGB"),
        (3, "images of type int: give a path"),
    ],
)
def test_what_cannot_be_used_is_named(run, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detectors.load(run).predict(given)


def test_one_unusable_image_does_not_stop_the_others(run, images, tmp_path, capsys):
    given = [str(images / name) for name in ("a.png", "notes.txt", "c.png")]
    with pytest.raises(SystemExit) as ended:
        main([str(run), *given, "--score", "0", "--output", str(tmp_path / "drawn")])
    assert ended.value.code == 2
    output, error = capsys.readouterr()
    predicted = dict.fromkeys(line.split(": ")[0] for line in output.splitlines()[:-1])
    assert list(predicted) == [given[0], given[2]]
    assert error.startswith(f"error: {given[1]}: ") and "left out, see above: 1" in error
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "c.png"]


EXTREMES = {"dot": (1, 1), "line": (1, 9000), "strip": (9000, 3), "pair": (2, 2), "usual": (60, 80)}


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
def test_extreme_images_are_predicted_if_the_input_has_room_for_them(tmp_path, capsys, model, resize):
    """Those of which a letterbox would leave no pixel are named and left out; the others are predicted."""
    run = tmp_path / "run"
    settings = [f"model={model}", f"input.resize={resize}", "model.width=0.125", "model.score_threshold=0.0"]
    config = check(composed(settings))
    state = assemble.build_detector(config, 2).state_dict()
    save_checkpoint(Checkpoint(run / "best.pt", 0, to_plain(config), ("cat", "dog"), state, {}, {}, {}))
    for name, size in EXTREMES.items():
        Image.fromarray(np.full((*size, 3), 99, np.uint8)).save(tmp_path / f"{name}.png")
    arguments = [
        str(run),
        str(tmp_path),
        "--score",
        "0",
        "--output",
        str(tmp_path / "drawn"),
        "--device",
        "cpu",
    ]
    vanishing = {"line", "strip"} if resize == "letterbox" else set()
    if vanishing:
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        errors = capsys.readouterr().err
        room = "has no room in a letterbox of 160 x 160; crop it\n"
        assert f"error: {tmp_path}/strip.png: an image of 3 x 9000 pixels {room}" in errors
        assert f"error: {tmp_path}/line.png: an image of 9000 x 1 pixels {room}" in errors
    else:
        main(arguments)
    assert {path.stem for path in (tmp_path / "drawn").iterdir()} == EXTREMES.keys() - vanishing


def test_what_only_has_the_name_of_an_image_is_left_out(run, images, tmp_path, capsysbinary):
    """Folders, FIFOs, devices, links to nowhere and to themselves, empty files, images of too many pixels.

    Names that are not UTF-8 are printed.
    """
    folder = tmp_path / "images"
    (folder / "folder.jpg").mkdir(parents=True)
    (folder / "empty.jpg").touch()
    (folder / "nowhere.jpg").symlink_to("absent")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    latin = os.fsencode(folder) + b"/caf\xe9.png"
    shutil.copy(images / "a.png", latin)
    with pytest.raises(SystemExit, match="2"):
        main([str(run), str(folder), "--score", "0", "--output", str(tmp_path / "drawn")])
    output, error = capsysbinary.readouterr()
    assert output.startswith(latin + b": ")
    for name in ("device", "empty", "folder", "itself", "nowhere", "pipe"):
        assert f"error: {folder / name}.jpg: the image cannot be ".encode() in error
    assert f"error: {folder / 'huge.png'}: the image has 20000 x 20000 pixels, more than".encode() in error
    assert b"left out, see above: 7" in error
    assert os.listdir(os.fsencode(tmp_path / "drawn")) == [b"caf\xe9.png"]


def test_what_is_no_file_among_the_places_is_left_out(run, images, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to("absent")
    with pytest.raises(SystemExit, match="2"):
        main([str(run), str(pipe), str(link), str(images / "a.png"), "--output", str(tmp_path / "drawn")])
    error = capsys.readouterr().err
    assert f"error: {pipe}: the image cannot be read (it is a FIFO, not a file)" in error
    assert f"error: {link}: the image cannot be read (No such file or directory)" in error
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["a.png"]


@pytest.mark.parametrize("suffix", ["bmp", "BMP", "tif", "tiff", "webp", "gif", "PNG"])
def test_other_formats_are_predicted_as_the_png(run, images, tmp_path, suffix):
    Image.open(images / "a.png").quantize(64).convert("RGB").save(tmp_path / "a.png")
    path = tmp_path / "other" / f"a.{suffix}"
    path.parent.mkdir()
    Image.open(tmp_path / "a.png").save(path, **({"lossless": True} if suffix == "webp" else {}))
    detector = detectors.load(run)
    place = path if suffix == "gif" else path.parent  # a folder's GIFs are no images
    same(detector.predict(place, score=0.1), detector.predict(tmp_path / "a.png", score=0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x.weights",), "x.weights: a weights file alone; give its cfg first"),
        (("x.cfg",), "x.cfg: a cfg alone; give its weights too"),
        (("x.pt", "x.weights"), "weights and names belong to a .cfg file"),
        (("nowhere",), "nowhere: no such run folder or checkpoint"),
    ],
)
def test_load_says_what_is_missing(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        detectors.load(*arguments)


def test_the_module_is_an_ordinary_network(run):
    module = detectors.load(run).module
    assert isinstance(module, detectors.Detector) and not module.training
    assert module(torch.zeros(1, 3, 160, 160)).class_logits.shape == (1, 500, 2)


def test_no_two_pictures_share_a_name():
    paths = [Path(name) for name in ("x.jpg", "x.png", "a/x.jpg", "b/x.jpg", "y.jpg", "a/z.jpg")]
    pictures = picture_paths(paths, Path("out"))
    assert len(set(pictures.values())) == len(paths)
    assert pictures[Path("y.jpg")] == Path("out/y.png")
    assert pictures[Path("a/z.jpg")] == Path("out/z.png")
    assert pictures[Path("x.png")] == Path("out/x.png.png")
    assert pictures[Path("b/x.jpg")] == Path("out/b/x.png")


def test_no_two_pictures_share_a_file_where_capitals_make_no_difference():
    pictures = picture_paths([Path("a/x.jpg"), Path("b/X.jpg")], Path("out"))
    assert pictures == {Path("a/x.jpg"): Path("out/a/x.png"), Path("b/X.jpg"): Path("out/b/X.png")}


def test_every_image_has_a_picture():
    """One file in two spellings, and names that clash on every level."""
    here = [Path("a.jpg"), Path.cwd() / "a.jpg"]
    clashing = [Path(name) for name in ("/nx/x.jpg", "x.png", "x.jpg.png", "b/x.jpg.png")]
    for paths in (here, clashing, [*here, *clashing]):
        pictures = picture_paths(paths, Path("out"))
        assert pictures.keys() == set(paths)
        assert len(set(pictures.values())) == len(paths)
