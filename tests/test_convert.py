"""python -m detectors.convert: what it makes is used by predict and evaluate, the way back is exact, and every refusal says why."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import ssd300_vgg16

from detectors import checkpoint as ckpt
from detectors import convert, engine, parts, predict
from detectors.checking import check
from detectors.config import merged
from detectors.conversion.checkpoints import read_names
from detectors.darknet_detector import darknet_detector
from detectors.data.coco import COCO_CLASSES
from detectors.data.voc import VOC_CLASSES
from detectors.metrics.report import report
from detectors.models.ssd import ssd300, ssd512
from detectors.models.yolov2 import yolov2
from detectors.weights import names, ssd
from detectors.weights.darknet import Header, convolutions, load_weights, save_weights
from tests.weights import cfgs

NARROW = 0.125


def run(*arguments: str | Path) -> None:
    convert.main([str(argument) for argument in arguments])


def refused(capsys, *arguments: str | Path) -> str:
    """The one message of a conversion that must fail."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def renamed(detector: nn.Module, rule) -> dict[str, Tensor]:
    """Our weights under another program's names, in any width."""
    caffe = {names.ours(name): tensor for name, tensor in detector.state_dict().items()}
    return {name: caffe[layer] for name, layer in rule(len(detector.head.offsets)).items()}


def shaken(detector: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in detector.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2 - 0.1)
    return detector


@pytest.fixture
def narrow(tmp_path) -> Path:
    """A file with torchvision's names and 91 outputs, an eighth of its width."""
    path = tmp_path / "tv.pth"
    torch.save(renamed(ssd300(num_classes=90, width=NARROW), names.torchvision), path)
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    torchvision.io.write_png(torch.randint(0, 256, (3, 90, 120), generator=torch.Generator().manual_seed(0), dtype=torch.uint8), str(path))
    return path


def test_torchvisions_file_becomes_a_checkpoint_and_comes_back(tmp_path, image, capsys):
    """In full size, all 91 outputs: the same bits; and predict takes what lies between."""
    with torch.device("meta"):
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.empty_like(tensor).uniform_(-0.02, 0.02, generator=generator) for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "tv.pth")
    run(tmp_path / "tv.pth", tmp_path / "ours.pt", "--keep-91")
    assert "71 of 71 tensors loaded" in capsys.readouterr().out
    run(tmp_path / "ours.pt", tmp_path / "back.pth")
    assert "ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91) takes it" in capsys.readouterr().out
    back = ckpt.read_tensors(tmp_path / "back.pth")
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    predict.main([str(tmp_path / "ours.pt"), str(image), "--score", "0.01", "--output", str(tmp_path / "drawn"), "--device", "cpu"])
    assert (tmp_path / "drawn/image.png").is_file()


def test_91_outputs_become_cocos_80_classes(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "ours.pt", f"model.width={NARROW}")
    told = capsys.readouterr().out
    assert "of 91 outputs 81 are kept" in told
    stored = ckpt.load(tmp_path / "ours.pt")
    assert stored.class_names == COCO_CLASSES
    model = stored.config["model"]
    assert (model["sizes"], model["clip_default_boxes"], model["pixel_mean"]) == ("coco", "wh", [122.99925, 116.9991, 103.9992])
    assert stored.config["data"]["name"] == "coco2017"
    theirs = ckpt.read_tensors(narrow)["head.classification_head.module_list.1.bias"].view(-1, 91)
    assert torch.equal(stored.model["head.class_logits.1.bias"].view(-1, 81), theirs[:, ssd.used_coco_columns()])
    run(narrow, tmp_path / "all.pt", f"model.width={NARROW}", "--keep-91")
    stored = ckpt.load(tmp_path / "all.pt")
    assert [name for name in stored.class_names if not name.startswith("unused")] == list(COCO_CLASSES)
    assert [number for number, name in enumerate(stored.class_names, 1) if name.startswith("unused")] == list(ssd.COCO_UNUSED)


def test_a_converted_checkpoint_is_evaluated(tmp_path, narrow):
    """The path of evaluate.py: its detector finds what torchvision's weights say, on data with classes of its own."""
    run(
        narrow,
        tmp_path / "ours.pt",
        f"model.width={NARROW}",
        "data=shapes",
        f"paths.cache={tmp_path}",
        "data.shapes.train=1",
        "data.shapes.val=2",
    )
    stored = ckpt.load(tmp_path / "ours.pt")
    detector, config = parts.load_detector(stored, torch.device("cpu"))
    annotations = parts.read_annotations(config.data, "val")
    detections, _ = engine.detect(detector, parts.eval_loader(config, annotations, batch_size=2), torch.device("cpu"), progress=False)
    assert len(detections.scores) == 2 * 200  # random weights: as many as are kept
    assert detections.labels.max() < 80
    detections = type(detections)(detections.image, detections.boxes, detections.scores, detections.labels % len(annotations.class_names))
    assert report(annotations, detections).scalars["AP"] is not None


@pytest.mark.parametrize(
    ("build", "outputs", "model", "sizes"),
    [(ssd300, 21, "ssd300", "voc"), (ssd300, 4, "ssd300_coco", "coco"), (ssd512, 21, "ssd512", "voc")],
)
def test_ssd_pytorch_chooses_its_default_boxes_by_the_number_of_classes(tmp_path, build, outputs, model, sizes):
    (tmp_path / "abc.names").write_text("a\nb\nc\n")
    torch.save(renamed(build(num_classes=outputs - 1, width=NARROW), names.ssd_pytorch), tmp_path / "x.pth")
    chosen = [] if outputs == 21 else ["--names", tmp_path / "abc.names"]
    run(tmp_path / "x.pth", tmp_path / "ours.pt", *chosen, f"model.width={NARROW}")
    stored = ckpt.load(tmp_path / "ours.pt")
    assert (stored.config["name"], stored.config["model"]["sizes"], stored.config["model"]["clip_default_boxes"]) == (
        model,
        sizes,
        "cxcywh",
    )
    assert stored.class_names == (VOC_CLASSES if outputs == 21 else ("a", "b", "c"))
    assert stored.config["input"]["size"] == ([512, 512] if build is ssd512 else [300, 300])


def test_other_classes_start_new_heads_and_say_so(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "ours.pt", "--names", "voc", f"model.width={NARROW}", "--report")
    told = capsys.readouterr().out.splitlines()
    fresh = [line.split()[0] for line in told if "initialised: its size depends on the number of classes" in line]
    assert fresh == [f"head.class_logits.{level}.{part}" for level in range(6) for part in ("weight", "bias")]
    assert sum(" from " in line for line in told) == 71 - 12
    stored = ckpt.load(tmp_path / "ours.pt")
    assert stored.class_names == VOC_CLASSES
    parts.load_detector(stored, torch.device("cpu"))


def test_our_own_checkpoint_for_other_classes(tmp_path, narrow, capsys):
    """What fits is kept; evaluate.py finds the new names in it."""
    run(narrow, tmp_path / "coco.pt", f"model.width={NARROW}")
    (tmp_path / "two.names").write_text("cat\ndog\n")
    capsys.readouterr()
    run(tmp_path / "coco.pt", tmp_path / "two.pt", "--names", tmp_path / "two.names")
    assert "59 of 71 tensors loaded" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"two.pt: holds weights alone.*trainer.init_from"):
        engine.restore(None, ckpt.load(tmp_path / "two.pt"))
    before, after = ckpt.load(tmp_path / "coco.pt"), ckpt.load(tmp_path / "two.pt")
    assert after.class_names == ("cat", "dog")
    assert after.config["data"]["class_names"] == ["cat", "dog"]
    assert torch.equal(after.model["head.offsets.3.weight"], before.model["head.offsets.3.weight"])
    assert after.model["head.class_logits.3.bias"].shape == (6 * 3,)


def test_a_smaller_ssd_starts_a_larger_one(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "coco.pt", f"model.width={NARROW}")
    message = refused(capsys, tmp_path / "coco.pt", tmp_path / "x.pt", "--model", "ssd512_coco", f"model.width={NARROW}")
    assert "is" in message and "--partial" in message
    run(tmp_path / "coco.pt", tmp_path / "x.pt", "--model", "ssd512_coco", "--partial", f"model.width={NARROW}")
    told = capsys.readouterr().out
    assert "(not in the file)" in told and "(the file's has another size)" in told
    assert ckpt.load(tmp_path / "x.pt").config["model"]["pixel_mean"] == [122.99925, 116.9991, 103.9992]


def classifier(path: Path, *, width: int = 64) -> None:
    """VGG-16's state dict with little memory: fc6 and fc7 are views of one row."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in torchvision.models.vgg16(weights=None).state_dict().items()}
    torch.save({name: torch.full((1,), 0.25).expand(shape) for name, shape in shapes.items()}, path)


def test_a_classifier_becomes_the_backbone(tmp_path, capsys):
    classifier(tmp_path / "vgg16.pth")
    assert "a backbone knows no classes; name them with --names" in refused(capsys, tmp_path / "vgg16.pth", tmp_path / "x.pt")
    run(tmp_path / "vgg16.pth", tmp_path / "x.pt", "--names", "voc")
    told = capsys.readouterr().out
    assert "30 of 71 tensors loaded" in told
    assert "in the file, but not used: classifier.6.weight, classifier.6.bias (ImageNet's classes)" in told
    stored = ckpt.load(tmp_path / "x.pt")
    assert stored.config["name"] == "ssd300"
    assert stored.config["model"]["pixel_std"] == [58.395, 57.12, 57.375]
    assert (stored.model["backbone.fc7.conv.weight"] == 0.25).all()
    assert not (stored.model["neck.levels.0.conv6_1.conv.weight"] == 0.25).any()


def test_pixels_can_be_set_by_hand(tmp_path, narrow):
    run(narrow, tmp_path / "x.pt", f"model.width={NARROW}", "model.channel_order=bgr", "model.pixel_mean=[104,117,123]")
    model = ckpt.load(tmp_path / "x.pt").config["model"]
    assert (model["channel_order"], model["pixel_mean"]) == ("bgr", [104, 117, 123])


def version(path: Path) -> bytes:
    return path.read_bytes()[:12]


@pytest.mark.parametrize("header", [Header(0, 1, 0, 77), Header(0, 2, 5, 2**33 + 1)])
@pytest.mark.parametrize("named", [False, True])
def test_darknets_weights_come_back_byte_for_byte(tmp_path, header, named):
    """16 and 20 bytes of header; as the cfg's network, and as the builder of the same layers."""
    cfg = cfgs.write(tmp_path, cfgs.yolov2(NARROW, 20))
    save_weights(shaken(yolov2(num_classes=20, width=NARROW)), tmp_path / "in.weights", header=header)
    chosen = ["--model", "yolov2", f"model.width={NARROW}"] if named else []
    run(tmp_path / "in.weights", tmp_path / "ours.pt", "--cfg", cfg, *chosen)
    run(tmp_path / "ours.pt", tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()
    stored = ckpt.load(tmp_path / "ours.pt")
    assert stored.class_names == VOC_CLASSES
    assert stored.config["input"]["size"] == [64, 64]
    assert stored.config["model"]["_target_"].endswith("yolov2.yolov2" if named else "darknet_detector.darknet_detector")


def test_a_cfgs_detector_and_the_builders_agree(tmp_path):
    """Outputs, grid and detections of one .weights file, through the cfg and through yolov2()."""
    ours = shaken(yolov2(num_classes=20, width=NARROW)).eval()
    save_weights(ours, tmp_path / "x.weights")
    theirs = darknet_detector(num_classes=20, cfg=cfgs.yolov2(NARROW, 20)).eval()
    load_weights(theirs, tmp_path / "x.weights")
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        found, expected = theirs(images), ours(images)
    for name in ("offsets", "class_logits", "objectness"):
        assert_close(getattr(found, name), getattr(expected, name), atol=1e-4, rtol=1e-4)
    assert_close(theirs.grid((96, 64)).boxes_cxcywh, ours.grid((96, 64)).boxes_cxcywh)
    assert_close(theirs.loss.state_dict(), ours.loss.state_dict())


def test_settings_of_the_cfg_are_taken_over(tmp_path):
    text = (
        cfgs.tiny(NARROW, 3).replace("object_scale=5", "object_scale=7").replace("thresh=.6", "thresh=.3").replace("softmax=1", "softmax=0")
    )
    text = text.replace("width=64", "width=96")
    save_weights(darknet_detector(num_classes=3, cfg=text), tmp_path / "x.weights")
    (tmp_path / "abc.names").write_text("a\n b \n\nc\n")
    run(
        tmp_path / "x.weights",
        tmp_path / "x.pt",
        "--cfg",
        cfgs.write(tmp_path, text),
        "--names",
        tmp_path / "abc.names",
        "model.nms_iou=0.6",
    )
    config = ckpt.load(tmp_path / "x.pt").config
    assert config["input"]["size"] == [64, 96]
    assert (config["loss"]["object_scale"], config["loss"]["ignore_iou"], config["loss"]["class_activation"]) == (7, 0.3, "logistic")
    assert config["model"]["nms_iou"] == 0.6
    detector, _ = parts.load_detector(ckpt.load(tmp_path / "x.pt"), torch.device("cpu"))
    assert detector.postprocess.score_rule.__name__ == "yolo_logistic_scores"
    assert detector.postprocess.nms_iou == 0.6


def test_other_classes_for_darknets_weights(tmp_path, capsys):
    cfg = cfgs.write(tmp_path, cfgs.tiny(NARROW, 20))
    save_weights(shaken(darknet_detector(num_classes=20, cfg=cfg.read_text())), tmp_path / "x.weights")
    (tmp_path / "two.names").write_text("cat\ndog\n")
    run(tmp_path / "x.weights", tmp_path / "x.pt", "--cfg", cfg, "--names", tmp_path / "two.names")
    assert "its size depends on the number of classes" in capsys.readouterr().out
    detector, _ = parts.load_detector(ckpt.load(tmp_path / "x.pt"), torch.device("cpu"))
    assert detector(torch.zeros(1, 3, 64, 64)).class_logits.shape == (1, 2 * 2 * 5, 2)
    # The configuration of another data set leaves the class names open while it is checked.
    check(merged(ckpt.load(tmp_path / "x.pt").config, ["data.class_names=null"]))


def test_a_partial_file_is_a_backbone(tmp_path, capsys):
    whole = shaken(yolov2(num_classes=20, width=NARROW))
    save_weights(whole, tmp_path / "x.weights")
    count = sum(layer.count for layer in convolutions(whole.backbone))
    (tmp_path / "darknet19_448.conv.23").write_bytes((tmp_path / "x.weights").read_bytes()[: 20 + 4 * count])
    run(tmp_path / "darknet19_448.conv.23", tmp_path / "x.pt", "--model", "yolov2", "--names", "voc", f"model.width={NARROW}")
    told = capsys.readouterr().out
    assert "18 convolutions loaded, 5 left as they were" in told
    assert "initialised anew: neck.deep.0.conv.weight" in told
    state = ckpt.load(tmp_path / "x.pt").model
    for name, tensor in whole.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(state[name], tensor) == name.startswith("backbone."), name
    (tmp_path / "cut.weights").write_bytes((tmp_path / "darknet19_448.conv.23").read_bytes())
    message = refused(capsys, tmp_path / "cut.weights", tmp_path / "y.pt", "--model", "yolov2", "--names", "voc", f"model.width={NARROW}")
    assert "too few" in message and not (tmp_path / "y.pt").exists()


def test_a_model_that_is_not_the_cfgs_network_is_refused(tmp_path, capsys):
    """All sizes agree, but the cfg has another activation, which the numbers cannot show."""
    text = cfgs.tiny(NARROW, 20).replace("activation=leaky", "activation=relu", 1)
    save_weights(shaken(darknet_detector(num_classes=20, cfg=text)), tmp_path / "x.weights")
    chosen = ["--cfg", cfgs.write(tmp_path, text), f"model.width={NARROW}"]
    message = refused(capsys, tmp_path / "x.weights", tmp_path / "x.pt", "--model", "yolov2_tiny", *chosen)
    assert "yolov2_tiny is not the network of" in message


@pytest.mark.data
@pytest.mark.parametrize(
    ("weights", "cfg", "record"),
    [("tiny-yolov2-trial3", "tiny-yolov2-trial3", "voc_bn"), ("coco_trial6_653550", "coco_trial6", "coco_nobn")],
)
def test_real_weights_through_a_checkpoint(tmp_path, shared, weights, cfg, record, capsys):
    """YOLO-LITE: the bytes come back, and the checkpoint's detector gives what Darknet recorded for dog.jpg, within 2e-3 (its CPU build
    computes batch norm in another way)."""
    folder = shared / "weights/yolo-lite"
    run(folder / f"weights/{weights}.weights", tmp_path / "x.pt", "--cfg", folder / f"cfg/{cfg}.cfg")
    run(tmp_path / "x.pt", tmp_path / "x.weights")
    assert (tmp_path / "x.weights").read_bytes() == (folder / f"weights/{weights}.weights").read_bytes()
    detector, _ = parts.load_detector(ckpt.load(tmp_path / "x.pt"), torch.device("cpu"))
    recorded = np.load(folder / "oracle/darknet_dog_224.npz")
    raw = torch.from_numpy(recorded[f"{record}__letterbox__raw"]).view(1, 5, -1, 7, 7).permute(0, 3, 4, 1, 2).flatten(1, 3)  # (1, A, 5 + C)
    with torch.no_grad():
        found = detector(torch.from_numpy(recorded["x__letterbox"])[None] * 255)
    tolerance = {"atol": 2e-3 if record == "voc_bn" else 5e-5, "rtol": 0}
    assert_close(found.class_logits, raw[..., 5:], **tolerance)
    assert_close(found.objectness, raw[..., 4], **tolerance)
    predict.main([str(tmp_path / "x.pt"), str(folder / "oracle/dog.jpg"), "--output", str(tmp_path / "drawn"), "--device", "cpu"])
    assert "dog.jpg: dog " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("cfg", "model", "classes"),
    [
        ("yolov2", "yolov2_coco", 80),
        ("yolov2-voc", "yolov2", 20),
        ("yolov2-tiny", "yolov2_tiny_coco", 80),
        ("yolov2-tiny-voc", "yolov2_tiny", 20),
    ],
)
def test_the_original_cfgs_are_our_models(tmp_path, shared, cfg, model, classes):
    """In full size: convert itself compares the outputs, and the bytes come back."""
    path = shared / f"oracles/darknet/cfg-full/{cfg}.cfg"
    save_weights(darknet_detector(num_classes=classes, cfg=path.read_text()), tmp_path / "in.weights", header=Header(0, 1, 0, 5))
    run(tmp_path / "in.weights", tmp_path / "ours.pt", "--cfg", path, "--model", model)
    run(tmp_path / "ours.pt", tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_what_cannot_be_converted_is_refused(tmp_path, narrow, capsys):
    target = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    told = refused(capsys, tmp_path / "a.pth", target)
    assert "a.pth: refused, because it is no plain file of tensors (it asks for argparse.Namespace" in told
    torch.save({"a": Harmful()}, tmp_path / "b.pth")
    assert "b.pth: refused" in refused(capsys, tmp_path / "b.pth", target)
    (tmp_path / "c.pth").write_bytes(narrow.read_bytes()[:-1000])
    assert "c.pth: cannot be read as a checkpoint, it may be truncated" in refused(capsys, tmp_path / "c.pth", target)
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "d.pth")
    assert "d.pth: no network that is known here, its first parameter being conv.weight" in refused(capsys, tmp_path / "d.pth", target)
    assert "nothing.pth" in refused(capsys, tmp_path / "nothing.pth", target)
    assert "the same file" in refused(capsys, narrow, narrow)
    assert "this suffix stands for no kind" in refused(capsys, narrow, tmp_path / "x.onnx")
    assert "torchvision's SSD has no backbone.stages.0.0.conv.weight, which yolov2 needs" in refused(
        capsys, narrow, target, "--model", "yolov2"
    )
    assert "64x3x3x3 here and 8x3x3x3 in the file" in refused(capsys, narrow, target)
    assert "Darknet's weights do not say" in refused(capsys, narrow, target, "--from", "darknet")
    assert "ssd30" in refused(capsys, narrow, target, "--model", "ssd30")
    assert "there is no such setting; did you mean trainer.steps" in refused(capsys, narrow, target, "trainer.stpes=3")
    assert not target.exists()


def test_what_cannot_be_written_is_refused(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "x.pt", f"model.width={NARROW}")
    capsys.readouterr()
    assert "its width is not 1" in refused(capsys, tmp_path / "x.pt", tmp_path / "x.pth")
    assert "is no network of Darknet's" in refused(capsys, tmp_path / "x.pt", tmp_path / "x.weights")
    assert not (tmp_path / "x.pth").exists() and not (tmp_path / "x.weights").exists()


def test_names_files(tmp_path):
    path = tmp_path / "x.names"
    path.write_text("a\r\nb c\n\n")
    assert read_names(path) == ("a", "b c")
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="x.names: names 'a' twice"):
        read_names(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="x.names: is empty"):
        read_names(path)
    with pytest.raises(FileNotFoundError, match="nothing.names"):
        read_names(tmp_path / "nothing.names")


@pytest.mark.data
def test_a_truncated_file_from_the_wild(tmp_path, shared, capsys):
    path = shared / "bad-input/checkpoints/vgg16_reducedfc_truncated_196608.pth"
    message = refused(capsys, path, tmp_path / "x.pt", "--names", "voc")
    assert f"{path.name}: cannot be read as a checkpoint, it may be truncated" in message
