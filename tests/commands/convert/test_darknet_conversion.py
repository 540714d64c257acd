"""Darknet's weights to checkpoints and back: exact bytes, any cfg, other classes, backbones, real weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.commands.predict import command
from detectors.config.check import check
from detectors.config.composing import merged
from detectors.config.schema import to_plain
from detectors.darknet.cfg_detector import darknet_detector
from detectors.darknet.weights import Header, convolutions, load_weights, save_weights
from detectors.data.class_names import VOC_CLASSES
from detectors.models.darknet19 import darknet19
from detectors.models.yolov2 import yolov2
from detectors.training import assemble
from detectors.training import checkpoint as ckpt
from tests.commands.convert.commands import NARROW, randomized, refused, run
from tests.darknet import cfgs
from tests.test_configs import checked


@pytest.mark.parametrize("header", [Header(0, 1, 0, 77), Header(0, 2, 5, 2**33 + 1)])
@pytest.mark.parametrize("named", [False, True])
def test_weights_are_written_back_byte_for_byte(tmp_path, header, named):
    """With headers of 16 and 20 bytes; through the cfg's network, and through our builder."""
    cfg = cfgs.write(tmp_path, cfgs.yolov2(NARROW, 20))
    save_weights(randomized(yolov2(num_classes=20, width=NARROW)), tmp_path / "in.weights", header=header)
    model = ["--model", "yolov2", f"model.width={NARROW}"] if named else []
    run(tmp_path / "in.weights", tmp_path / "ours.pt", "--cfg", cfg, *model)
    run(tmp_path / "ours.pt", tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    assert stored.class_names == VOC_CLASSES
    assert stored.config["input"]["size"] == [64, 64]
    builder = "yolov2.yolov2" if named else "cfg_detector.darknet_detector"
    assert stored.config["model"]["_target_"].endswith(builder)


def test_a_classifier_is_written_and_read_byte_for_byte(tmp_path):
    """The builder darknet19's weights, as a checkpoint of a set with labels, and back."""
    save_weights(randomized(darknet19(num_classes=3, width=0.05)), tmp_path / "in.weights")
    (tmp_path / "abc.names").write_text("a\nb\nc\n")
    model = ("--model", "darknet19_classifier", "--names", tmp_path / "abc.names")
    settings = ("model.width=0.05", "data=imagefolder", f"data.root={tmp_path}")
    run(tmp_path / "in.weights", tmp_path / "ours.pt", *model, *settings)
    run(tmp_path / "ours.pt", tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    assert (stored.config["task"], stored.class_names) == ("classification", ("a", "b", "c"))


@pytest.mark.parametrize("model", ["yolov2_160", "classifier"])
def test_a_backbone_that_darknet_does_not_have_is_refused(model, tmp_path, capsys):
    """ResNet-18 has convolutions and batch norms alone, but its blocks are no cfg's."""
    data = ("data.box_crops=0",) if model == "classifier" else ()
    config = checked(f"model={model}", "model.backbone=resnet18", "model.width=1", *data)
    with torch.device("meta"):
        state = assemble.build_detector(config, 3).state_dict()
    state = {name: torch.zeros_like(tensor, device="cpu") for name, tensor in state.items()}
    ckpt.save_checkpoint(
        ckpt.Checkpoint(tmp_path / "x.pt", 1, to_plain(config), ("a", "b", "c"), state, {}, {}, {})
    )
    assert "is not a Darknet network" in refused(capsys, tmp_path / "x.pt", tmp_path / "x.weights")


def test_the_cfgs_detector_equals_the_builders(tmp_path):
    """Outputs, grid and loss with one .weights file, in the cfg's detector and in yolov2()."""
    ours = randomized(yolov2(num_classes=20, width=NARROW)).eval()
    save_weights(ours, tmp_path / "x.weights")
    cfg_detector = darknet_detector(num_classes=20, cfg=cfgs.yolov2(NARROW, 20)).eval()
    load_weights(cfg_detector, tmp_path / "x.weights")
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        outputs = cfg_detector(images)
        expected = ours(images)
    for name in ("offsets", "class_logits", "objectness"):
        assert_close(getattr(outputs, name), getattr(expected, name), atol=1e-4, rtol=1e-4)
    assert_close(cfg_detector.grid((96, 64)).boxes_cxcywh, ours.grid((96, 64)).boxes_cxcywh)
    assert_close(cfg_detector.loss.state_dict(), ours.loss.state_dict())


def test_the_checkpoint_has_the_cfgs_settings(tmp_path):
    text = cfgs.tiny(NARROW, 3)
    text = text.replace("object_scale=5", "object_scale=7").replace("thresh=.6", "thresh=.3")
    text = text.replace("softmax=1", "softmax=0").replace("width=64", "width=96")
    cfg = cfgs.write(tmp_path, text)
    save_weights(darknet_detector(num_classes=3, cfg=text), tmp_path / "x.weights")
    names = tmp_path / "abc.names"
    names.write_text("a\n b \n\nc\n")
    run(tmp_path / "x.weights", tmp_path / "x.pt", "--cfg", cfg, "--names", names, "model.nms_iou=0.6")
    config = ckpt.load_checkpoint(tmp_path / "x.pt").config
    assert config["input"]["size"] == [64, 96]
    assert config["loss"]["object_scale"] == 7
    assert config["loss"]["ignore_iou"] == 0.3
    assert config["loss"]["class_activation"] == "logistic"
    assert config["model"]["nms_iou"] == 0.6
    detector, _ = assemble.load_detector(ckpt.load_checkpoint(tmp_path / "x.pt"), torch.device("cpu"))
    assert detector.postprocess.score_rule.__name__ == "yolo_logistic_scores"
    assert detector.postprocess.nms_iou == 0.6


def test_other_classes_for_darknets_weights(tmp_path, capsys):
    cfg = cfgs.write(tmp_path, cfgs.tiny(NARROW, 20))
    save_weights(randomized(darknet_detector(num_classes=20, cfg=cfg.read_text())), tmp_path / "x.weights")
    (tmp_path / "two.names").write_text("cat\ndog\n")
    run(tmp_path / "x.weights", tmp_path / "x.pt", "--cfg", cfg, "--names", tmp_path / "two.names")
    assert "its size depends on the number of classes" in capsys.readouterr().out
    detector, _ = assemble.load_detector(ckpt.load_checkpoint(tmp_path / "x.pt"), torch.device("cpu"))
    assert detector(torch.zeros(1, 3, 64, 64)).class_logits.shape == (1, 2 * 2 * 5, 2)
    # Must pass the check without class names, too: evaluation on another data set replaces them.
    check(merged(ckpt.load_checkpoint(tmp_path / "x.pt").config, ["data.class_names=null"]))


def test_a_partial_file_is_a_backbone(tmp_path, capsys):
    whole = randomized(yolov2(num_classes=20, width=NARROW))
    save_weights(whole, tmp_path / "x.weights")
    count = sum(layer.count for layer in convolutions(whole.backbone))
    (tmp_path / "darknet19_448.conv.23").write_bytes((tmp_path / "x.weights").read_bytes()[: 20 + 4 * count])
    options = ["--model", "yolov2", "--names", "voc", f"model.width={NARROW}"]
    run(tmp_path / "darknet19_448.conv.23", tmp_path / "x.pt", *options)
    output = capsys.readouterr().out
    assert "18 convolutions loaded, 5 unchanged" in output
    assert "initialised anew: neck.deep.0.conv.weight" in output
    state = ckpt.load_checkpoint(tmp_path / "x.pt").model
    for name, tensor in whole.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(state[name], tensor) == name.startswith("backbone."), name
    (tmp_path / "cut.weights").write_bytes((tmp_path / "darknet19_448.conv.23").read_bytes())
    message = refused(capsys, tmp_path / "cut.weights", tmp_path / "y.pt", *options)
    assert "too few" in message and not (tmp_path / "y.pt").exists()


def test_a_model_that_is_not_the_cfgs_network_is_refused(tmp_path, capsys):
    """All sizes match, but the cfg has another activation, which only the outputs show."""
    text = cfgs.tiny(NARROW, 20).replace("activation=leaky", "activation=relu", 1)
    save_weights(randomized(darknet_detector(num_classes=20, cfg=text)), tmp_path / "x.weights")
    options = ["--model", "yolov2_tiny", "--cfg", cfgs.write(tmp_path, text), f"model.width={NARROW}"]
    message = refused(capsys, tmp_path / "x.weights", tmp_path / "x.pt", *options)
    assert "yolov2_tiny is not the network of" in message


@pytest.mark.data
@pytest.mark.parametrize(
    ("weights", "cfg", "record"),
    [
        ("tiny-yolov2-trial3", "tiny-yolov2-trial3", "voc_bn"),
        ("coco_trial6_653550", "coco_trial6", "coco_nobn"),
    ],
)
def test_real_weights_through_a_checkpoint(tmp_path, shared, weights, cfg, record, capsys):
    """YOLO-LITE: an exact round trip, and the checkpoint's outputs are Darknet's for dog.jpg, within 2e-3.

    The recording is of Darknet's CPU build, which computes batch norm differently.
    """
    folder = shared / "weights/yolo-lite"
    run(folder / f"weights/{weights}.weights", tmp_path / "x.pt", "--cfg", folder / f"cfg/{cfg}.cfg")
    run(tmp_path / "x.pt", tmp_path / "x.weights")
    assert (tmp_path / "x.weights").read_bytes() == (folder / f"weights/{weights}.weights").read_bytes()
    detector, _ = assemble.load_detector(ckpt.load_checkpoint(tmp_path / "x.pt"), torch.device("cpu"))
    recorded = np.load(folder / "oracle/darknet_dog_224.npz")
    raw = torch.from_numpy(recorded[f"{record}__letterbox__raw"]).view(1, 5, -1, 7, 7)
    raw = raw.permute(0, 3, 4, 1, 2).flatten(1, 3)  # (1, A, 5 + C)
    with torch.no_grad():
        outputs = detector(torch.from_numpy(recorded["x__letterbox"])[None] * 255)
    tolerance = 2e-3 if record == "voc_bn" else 5e-5
    assert_close(outputs.class_logits, raw[..., 5:], atol=tolerance, rtol=0)
    assert_close(outputs.objectness, raw[..., 4], atol=tolerance, rtol=0)
    options = ["--output", str(tmp_path / "drawn"), "--device", "cpu"]
    command.main([str(tmp_path / "x.pt"), str(folder / "oracle/dog.jpg"), *options])
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
def test_our_models_equal_the_original_cfgs(tmp_path, shared, cfg, model, classes):
    """In full size: an exact round trip, in which the command itself compares the outputs."""
    path = shared / f"oracles/darknet/cfg-full/{cfg}.cfg"
    save_weights(
        darknet_detector(num_classes=classes, cfg=path.read_text()),
        tmp_path / "in.weights",
        header=Header(0, 1, 0, 5),
    )
    run(tmp_path / "in.weights", tmp_path / "ours.pt", "--cfg", path, "--model", model)
    run(tmp_path / "ours.pt", tmp_path / "out.weights")
    assert (tmp_path / "out.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()


def test_values_that_darknet_reads_otherwise_are_reported(tmp_path, capsys):
    cfg = cfgs.write(tmp_path, cfgs.yolov2(NARROW, 20).replace("activation=linear", "activation=linear # x"))
    save_weights(randomized(yolov2(num_classes=20, width=NARROW)), tmp_path / "in.weights")
    run(tmp_path / "in.weights", tmp_path / "ours.pt", "--cfg", cfg)
    assert "activation=linear#x: Darknet compares the whole text" in capsys.readouterr().err
    message = refused(
        capsys,
        tmp_path / "in.weights",
        tmp_path / "x.pt",
        "--cfg",
        cfg,
        "--model",
        "yolov2",
        f"model.width={NARROW}",
    )
    assert "yolov2 is not the network of" in message
