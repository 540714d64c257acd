"""init.from with files of other programs, each made here by the other program's rules."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.testing import assert_close

from detectors.config.schema import Config
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.weights import convolutions, save_weights
from detectors.data.class_names import COCO_CLASSES, VOC_CLASSES
from detectors.models.darknet19 import darknet19
from detectors.training import assemble
from detectors.training.initial import parameter_names
from detectors.training.initial.initial_weights import initial_weights, start_from
from detectors.training.initial.weight_files import StateDict
from tests.test_configs import checked
from tests.training.initial.starts import configured, shifted, started

CFG = """[net]
width=160
height=160
channels=3
"""
LAYER = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=1\npad=1\nactivation=leaky\n"


@pytest.fixture(scope="module")
def yolo() -> Config:
    return configured(model="yolov2_160")


@pytest.fixture(scope="module")
def deep() -> Config:
    """On Darknet-19."""
    return configured("input.size=[64,64]", model="yolov2")


def filled(module: nn.Module) -> nn.Module:
    """Other numbers in all parameters and statistics, the same each time."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return module


def beginning(source: Path, target: Path, module: nn.Module, layers: int) -> Path:
    """The first `layers` convolutions of a .weights file, as `darknet partial` writes them."""
    count = sum(layer.count for layer in convolutions(module)[:layers])
    target.write_bytes(source.read_bytes()[: 20 + 4 * count])
    return target


def test_darknets_file_of_another_number_of_classes(yolo, tmp_path):
    """20 classes follow from its size, and are VOC's; their rows are kept by name."""
    source = filled(assemble.build_detector(yolo, 20))
    save_weights(source, tmp_path / "x.weights")
    before, after, text = started(yolo, tmp_path / "x.weights", ("dog", "unicorn"))
    theirs = source.state_dict()
    for name in after:
        if name.startswith("backbone.") and "batches" not in name:
            assert_close(after[name], theirs[name], rtol=0, atol=0)
    bias, old = after["head.conv.bias"].view(5, 7), theirs["head.conv.bias"].view(5, 25)
    assert bias[:, :5].equal(old[:, :5]) and bias[:, 5].equal(old[:, 5 + VOC_CLASSES.index("dog")])
    assert bias[:, 6].equal(before["head.conv.bias"].view(5, 7)[:, 6])
    assert "Darknet's weights of" in text and "1 of 2 classes by name: dog; initialised: unicorn" in text


def test_names_beside_darknets_file(yolo, tmp_path):
    save_weights(filled(assemble.build_detector(yolo, 3)), tmp_path / "x.weights")
    assert "its head fits by size alone" in started(yolo, tmp_path / "x.weights")[2]
    (tmp_path / "x.names").write_text("c\nb\na\n")
    assert "3 of 3 classes by name: a, b, c" in started(yolo, tmp_path / "x.weights")[2]
    (tmp_path / "x.names").write_text("c\nb\n")
    with pytest.raises(ValueError, match=r"x\.weights: has 3 classes, its \.names file 2"):
        started(yolo, tmp_path / "x.weights")


@pytest.mark.parametrize("kind", ["conv.18", "classifier", "cfg"])
def test_darknets_backbones(kind, deep, tmp_path):
    """The first 18 layers alone; a whole classifier of ImageNet; one whose cfg lies beside it."""
    classifier = filled(darknet19(num_classes=1000, width=0.125))
    path = tmp_path / "d.weights"
    save_weights(classifier, path)
    if kind == "conv.18":
        path = beginning(path, tmp_path / "d.conv.18", classifier, 18)
    elif kind == "cfg":  # the same first two layers; then it goes its own way
        first, second = (layer.conv.out_channels for layer in convolutions(classifier)[:2])
        (tmp_path / "d.cfg").write_text(CFG + "".join(map(LAYER.format, (first, second, 24))))
        network = filled(DarknetNetwork(tmp_path / "d.cfg"))
        save_weights(network, path)
    before, after, text = started(deep, path)
    if kind == "cfg":
        assert "in the file, but not used: convolutions 3 to 3 (the first is layers.2: 24 filters" in text
        blocks = {f"backbone.stages.{i}.0": network.layers[i].state_dict() for i in (0, 1)}
        theirs = {f"{block}.{name}": t for block, state in blocks.items() for name, t in state.items()}
    else:
        theirs = {name: t for name, t in classifier.state_dict().items() if name.startswith("backbone.")}
        assert len(theirs) == 18 * 6
    theirs = {name: torch.zeros_like(t) if "batches" in name else t for name, t in theirs.items()}
    for name, tensor in after.items():
        assert_close(tensor, theirs.get(name, before[name]), rtol=0, atol=0)


def test_darknets_file_of_another_network(yolo, tmp_path):
    save_weights(nn.Conv2d(3, 24, 3), tmp_path / "x.weights")
    with pytest.raises(ValueError, match=r"^init\.from: .*x\.weights: .*a cfg beside it, x\.cfg, would name"):
        started(yolo, tmp_path / "x.weights")


def test_a_classifier_becomes_the_reduced_vgg_as_in_caffe():
    """Every fourth output and input; fc6's window is that of tests/training/initial/test_ssd_ports.py."""
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in torchvision.models.vgg16(weights=None).state_dict().items()}
    rows = torch.arange(4096.0)[:, None]
    state = {name: torch.tensor(0.5).expand(shape) for name, shape in shapes.items()}
    state |= {name: rows.expand(shapes[name]) for name in ("classifier.0.weight", "classifier.3.weight")}
    config = checked("model=ssd300")
    detector = assemble.build_detector(config, 1)
    before = detector.head.offsets[0].weight.clone()
    text = "\n".join(start_from(detector, StateDict(Path("vgg.pth"), state), config, ("a",)))
    for layer, columns in ((detector.backbone.fc6, (512, 3, 3)), (detector.backbone.fc7, (1024, 1, 1))):
        expected = torch.arange(0, 4096.0, 4)[:, None, None, None].expand(1024, *columns)
        assert_close(layer.conv.weight.detach(), expected, rtol=0, atol=0)
    assert detector.backbone.stages.stage1.conv1_1.conv.weight.eq(0.5).all()
    assert detector.head.offsets[0].weight.equal(before)
    assert "torchvision's VGG-16 of vgg.pth" in text and "ImageNet's classes" in text
    assert "trained with pixel_std=[58.395, 57.12, 57.375], but model.pixel_std=[1, 1, 1] here" in text


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("model", ["yolov2_160", "ssd160", "classifier"])
def test_a_classifier_of_torchvision_below_any_network(model, wrapped, tmp_path):
    """The backbone's tensors are the file's, also within a training program's; the classes are left."""
    source = filled(torchvision.models.mobilenet_v3_small(num_classes=3, width_mult=0.25)).state_dict()
    content = {"state_dict": {f"module.{name}": t for name, t in source.items()}} if wrapped else source
    torch.save(content, tmp_path / "net.pth")
    settings = ("model.backbone=mobilenet_v3_small", "model.width=0.25")
    data = ("data.box_crops=0", "input.size=[64,64]") if model == "classifier" else ()
    config = checked(f"model={model}", *settings, *data, "trainer.memory_format=contiguous")
    _, after, text = started(config, tmp_path / "net.pth")
    copied = {name.removeprefix("backbone.body.") for name in after if name.startswith("backbone.body.")}
    assert len(copied) > 100
    for name in copied:
        assert after[f"backbone.body.{name}"].equal(source[name]), name
    assert re.search(r"state dict of a backbone of \S+net\.pth: \d+ of \d+ tensors loaded", text)
    assert "the detector has no such layer" in text


def test_a_detector_of_torchvision(tmp_path):
    """Its ten unused outputs are left out; COCO's names find their rows."""
    config = configured(model="ssd300")
    caffe = {parameter_names.ours(name): tensor for name, tensor in shifted(config, 90).items()}
    state = {theirs: caffe[layer] for theirs, layer in parameter_names.torchvision(6).items()}
    torch.save(state, tmp_path / "x.pth")
    _, after, text = started(config, tmp_path / "x.pth", ("zebra", "gnu"))
    columns = torchvision.models.detection.SSD300_VGG16_Weights.DEFAULT.meta["categories"]
    for level, anchors in enumerate((4, 6, 6, 6, 4, 4)):
        ours = after[f"head.class_logits.{level}.weight"].unflatten(0, (anchors, 3))
        theirs = caffe[parameter_names.ours(f"head.class_logits.{level}.weight")].unflatten(0, (anchors, 91))
        assert ours[:, 0].equal(theirs[:, 0]) and ours[:, 1].equal(theirs[:, columns.index("zebra")])
    assert "zebra" in COCO_CLASSES and "1 of 2 classes by name: zebra; initialised: gnu" in text


def test_a_state_dict_with_our_names_or_a_backbones(yolo, tmp_path):
    state = shifted(yolo, 3)
    torch.save({"state_dict": {f"module.{name}": t for name, t in state.items()}}, tmp_path / "ours.pth")
    _, after, text = started(yolo, tmp_path / "ours.pth")
    assert all(after[name].equal(t) for name, t in state.items())
    assert "its head fits by size alone" in text
    backbone = {n.removeprefix("backbone."): t for n, t in state.items() if n.startswith("backbone.")}
    torch.save(backbone | {"fc.weight": torch.ones(3)}, tmp_path / "backbone.pth")
    before, after, text = started(yolo, tmp_path / "backbone.pth")
    for name, tensor in after.items():
        assert tensor.equal(state[name] if name.startswith("backbone.") else before[name]), name
    assert "in the file, but not used: fc.weight (the detector has no such layer)" in text
    torch.save({"conv.weight": torch.ones(3), "x": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"^init\.from: .*other\.pth: a state dict of another network: its"):
        started(yolo, tmp_path / "other.pth")


def as_safetensors(path: Path, name: str, tensor: np.ndarray) -> None:
    """The format's own rule: the header's length, the header in JSON, the bytes."""
    tensor = tensor.astype("<f4")
    header = {name: {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [0, tensor.nbytes]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensor.tobytes())


def test_safetensors(yolo, tmp_path):
    pytest.importorskip("safetensors", reason="an optional package: pip install 'detectors[safetensors]'")
    name = "backbone.convs.0.conv.weight"
    numbers = np.arange(8 * 27).reshape(8, 3, 3, 3)
    as_safetensors(tmp_path / "x.safetensors", name, numbers)
    _, after, text = started(yolo, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(after[name], numbers)
    assert "1 of " in text
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 30)
    with pytest.raises(ValueError, match=r"^init\.from: .*x\.safetensors: not a file of safetensors"):
        initial_weights(str(tmp_path / "x.safetensors"))


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    as_safetensors(tmp_path / "x.safetensors", "a", np.ones(3))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ValueError, match=r"safetensors is not installed: pip install"):
        initial_weights(str(tmp_path / "x.safetensors"))
