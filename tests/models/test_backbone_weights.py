"""model.backbone_weights: files of torchvision's and others' classifiers."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.testing import assert_close
from torchvision import models

from detectors.models.backbone_weights import load_backbone_weights
from detectors.models.backbones import build_backbone
from detectors.models.yolov2 import yolov2_tiny

NAME = "mobilenet_v3_small"


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(5)
    return models.get_model(NAME, weights=None, num_classes=3, width_mult=0.25)


def backbone(**keywords):
    return build_backbone(NAME, strides=(16, 32), width=0.25, **keywords)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}}]
)
def test_a_classifiers_weights_are_loaded(classifier, wrap, tmp_path):
    torch.save(wrap(classifier.state_dict()), tmp_path / "net.pth")
    loaded = backbone(weights=str(tmp_path / "net.pth"))
    expected = {n: t for n, t in classifier.state_dict().items() if n.startswith("features.")}
    assert_close(dict(loaded.body.state_dict()), expected, rtol=0, atol=0)
    count = sum(not name.endswith("num_batches_tracked") for name in expected)
    first, second = loaded.loaded
    assert first.endswith(f"net.pth: {count} of {count} tensors loaded")
    assert second.startswith("in the file, but not used: classifier.0.weight, classifier.0.bias")


def test_weights_of_the_papers_own_backbone(tmp_path):
    torch.manual_seed(7)
    source = build_backbone("darknet19", strides=(16, 32), width=0.05)
    torch.save(source.state_dict(), tmp_path / "d.pt")
    loaded = build_backbone("darknet19", strides=(16, 32), width=0.05, weights=str(tmp_path / "d.pt"))
    assert_close(loaded.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_nothing_is_read_on_the_meta_device():
    """A configuration is checked there, also a stored one whose file is gone."""
    with torch.device("meta"):
        assert backbone(weights="gone.pth").loaded == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", r"not a state dict of PyTorch"),
        ({"a": 1}, r"not a state dict, which holds tensors by their names"),
        (
            {"conv1.weight": torch.zeros(1)},
            r"of the backbone's \d+ tensors are not in it, such as features\.0",
        ),
        ("wide", r"features\.0\.0\.weight is \(16, 3, 3, 3\) in it and \(8, 3, 3, 3\) here"),
    ],
)
def test_a_file_that_does_not_fit_is_named(content, message, tmp_path):
    file = tmp_path / "x.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        if content == "wide":
            content = models.get_model(NAME, weights=None).state_dict()
        torch.save(content, file)
    with pytest.raises(ValueError, match=rf"^model\.backbone_weights=\S*x\.pth: .*{message}"):
        load_backbone_weights(backbone(), str(file))


def test_a_missing_file_is_named():
    with pytest.raises(ValueError, match="there is no such file; nothing is downloaded"):
        yolov2_tiny(num_classes=1, backbone_weights="gone.pth", width=0.05)


def test_safetensors_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="safetensors is not installed: pip install .detectors.safetensors"):
        load_backbone_weights(backbone(), str(tmp_path / "x.safetensors"))
