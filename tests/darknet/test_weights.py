"""Darknet's .weights files: round trips, our builders, partial files, errors that name layer and counts."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.darknet.network import DarknetNetwork
from detectors.darknet.weights import Header, convolutions, load_weights, read_header, save_weights
from detectors.models.darknet19 import Darknet19, darknet19
from detectors.models.yolov2 import yolov2, yolov2_tiny
from tests.darknet import cfgs, streams

NARROW = 0.0625
# Builder, and the cfg text of the same network.
BUILDERS = {
    "yolov2 voc": (lambda: yolov2(num_classes=20, width=NARROW), cfgs.yolov2(NARROW, 20)),
    "yolov2 coco": (
        lambda: yolov2(num_classes=80, width=NARROW, anchors="coco"),
        cfgs.yolov2(NARROW, 80, "coco"),
    ),
    "tiny voc": (lambda: yolov2_tiny(num_classes=20, width=NARROW), cfgs.tiny(NARROW, 20)),
    "tiny coco": (
        lambda: yolov2_tiny(num_classes=80, width=NARROW, anchors="coco", last_channels=512),
        cfgs.tiny(NARROW, 80, anchors="coco", last=512),
    ),
    "darknet19": (lambda: darknet19(num_classes=10, width=NARROW), cfgs.darknet19(NARROW, 10)),
}


def shapes(module: torch.nn.Module) -> list[list[int]]:
    """Filters, channels, kernel size, batch norm or not of each convolution: the recordings' `convs`."""
    return [
        [
            layer.conv.out_channels,
            layer.conv.in_channels,
            layer.conv.kernel_size[0],
            int(layer.norm is not None),
        ]
        for layer in convolutions(module)
    ]


@pytest.mark.parametrize("name", ["nano-train.hdr1.weights", "nano-train.hdr2.weights"])
def test_recorded_files_are_written_back_byte_for_byte(name, fixtures, tmp_path):
    recorded = json.loads((fixtures / "darknet/weights.json").read_text())[name]
    source = tmp_path / name
    target = tmp_path / "again.weights"
    streams.write(
        source, recorded["convs"], recorded["weight_seed"], version=recorded["header"], seen=recorded["seen"]
    )
    assert source.stat().st_size == recorded["bytes"]
    body = source.read_bytes()[recorded["header_bytes"] :]
    assert hashlib.sha256(body).hexdigest() == recorded["stream_sha256"]
    if "sha256" in recorded:
        assert hashlib.sha256(source.read_bytes()).hexdigest() == recorded["sha256"]
    network = DarknetNetwork(fixtures / "darknet" / recorded["cfg"])
    report = load_weights(network, source)
    assert report.header == Header(*recorded["header"], recorded["seen"])
    assert network.images_seen == recorded["seen"]
    save_weights(network, target, header=report.header)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0), (0, 2, 7), (1, 0, 0), (0, 0, 3)])
@pytest.mark.parametrize("builder", BUILDERS)
def test_round_trips_through_all_builders(builder, version, tmp_path):
    source = tmp_path / "a.weights"
    target = tmp_path / "b.weights"
    module = BUILDERS[builder][0]()
    streams.write(source, shapes(module), 7, version=version, seen=64000)
    report = load_weights(module, source)
    assert report.header == (*version, 64000)
    save_weights(module, target, header=report.header)
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("builder", BUILDERS)
@torch.no_grad()
def test_builders_compute_what_the_cfg_computes(builder, tmp_path):
    """Both load the same file: our modules are in the cfg's order, including the passthrough."""
    build, text = BUILDERS[builder]
    ours = build().eval()
    network = DarknetNetwork(cfgs.write(tmp_path, text)).eval()
    assert shapes(ours) == shapes(network)
    path = streams.write(tmp_path / "a.weights", shapes(ours), 3, seen=12)
    load_weights(ours, path)
    load_weights(network, path)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=generator)
    if builder == "darknet19":
        assert_close(ours(pixels).softmax(-1), network(pixels / 255))
        return
    assert ours.loss.images_seen == 12
    outputs = ours(pixels)
    expected = network.head_outputs(pixels / 255)
    for field in ("offsets", "class_logits", "objectness"):
        assert_close(getattr(outputs, field), getattr(expected, field), atol=2e-5, rtol=1e-5)


def test_default_header_has_version_0_2_and_the_modules_count(tmp_path):
    module = yolov2_tiny(num_classes=2, width=NARROW)
    module.loss.images_seen.fill_(5_000_000_000)
    save_weights(module, tmp_path / "a.weights")
    assert read_header(tmp_path / "a.weights") == Header(0, 2, 0, 5_000_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["a.weights"]


def test_a_backbone_file_fills_the_first_layers(tmp_path):
    """Like darknet19_448.conv.23: the first 18 convolutions of darknet19 into YOLOv2."""
    classifier = darknet19(num_classes=10, width=NARROW)
    detector = yolov2(num_classes=3, width=NARROW)
    whole = streams.write(tmp_path / "whole.weights", shapes(classifier), 5, version=(0, 1, 0), seen=0)
    part = tmp_path / "darknet19.conv.23"
    count = sum(layer.count for layer in convolutions(Darknet19(NARROW)))
    part.write_bytes(whole.read_bytes()[: 16 + 4 * count])
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    message = r"convolution 19 of 23 \(neck.deep.0: .*the file has 0 left; it ends between two layers"
    with pytest.raises(ValueError, match=message):
        load_weights(detector, part)

    report = load_weights(detector, part, partial=True)
    assert len(report.loaded) == 18
    unchanged = [layer.name for layer in report.unchanged]
    assert unchanged == ["neck.deep.0", "neck.deep.1", "neck.passthrough", "neck.fuse", "head"]
    load_weights(classifier, whole)
    for name, value in detector.state_dict().items():
        expected = before[name]
        if name.startswith("backbone."):
            expected = classifier.state_dict().get(name, expected)
        assert_close(value, expected, atol=0, rtol=0, msg=name)

    lines = list(report.lines())
    first_layer = "  loaded: backbone.stages.0.0: 8 filters of 3 x 3 on 3 channels, batch norm: 248 numbers"
    assert "version 0.1.0, header of 16 bytes, 0 training images seen" in lines[0]
    assert lines[1] == first_layer
    assert lines[-1].startswith("  unchanged: head: 40 filters of 1 x 1 on 64 channels, bias: ")

    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"convolution 18 of 23 \(backbone.stages.5.4: .* has 18687 left"):
        load_weights(detector, part, partial=True)


@pytest.fixture
def detector_and_file(tmp_path):
    """A detector and a weights file that fits it."""
    module = yolov2_tiny(num_classes=3, width=NARROW)
    return module, streams.write(tmp_path / "x.weights", shapes(module), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "0 bytes are too few for the header"),
        (lambda data: data[:15], "15 bytes are too few"),
        (lambda data: data[:19], "19 bytes are too few"),
        (lambda data: data[:20], "nothing follows the header"),
        (lambda data: data[:-3], "not a multiple of 4"),
        (
            lambda data: data[:-4],
            "1 too few; convolution 9 of 9 (head: 40 filters of 1 x 1 on 64 channels, bias) "
            "needs 2600 numbers",
        ),
        (
            lambda data: data[:24],
            "convolution 1 of 9 (backbone.convs.0: 8 filters of 3 x 3 on 3 channels, batch norm) "
            "needs 248 numbers",
        ),
        (
            lambda data: data + bytes(8),
            "2 too many; 2 numbers are left after the last convolution "
            "(head: 40 filters of 1 x 1 on 64 channels, bias)",
        ),
        (lambda data: b"\xff" * 12 + data[12:], "Darknet has no version -1.-1"),
        (lambda data: np.int32([0, 1001, 0]).tobytes() + data[12:], "Darknet has no version 0.1001"),
        (lambda data: data[:12] + b"\xff" * 8 + data[20:], "the header counts -1 training images"),
        (lambda data: data[:20] + data[20:][::-1], "its variances would be negative"),
        (
            lambda data: data[:20] + b"\xff" * (len(data) - 20),
            "backbone.convs.0: 8 filters of 3 x 3 on 3 channels, batch norm: its",
        ),
    ],
)
def test_damaged_files_are_refused_and_change_nothing(change, message, detector_and_file):
    module, path = detector_and_file
    before = {name: value.clone() for name, value in module.state_dict().items()}
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError) as caught:
        load_weights(module, path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    for name, value in module.state_dict().items():
        assert_close(value, before[name], atol=0, rtol=0)


def test_the_weights_of_another_network(tmp_path):
    """First VOC's file in a network for COCO: only the last layer does not fit. Then a tiny YOLOv2's file in
    YOLOv2: layer 2.1 has another width, and the values of 2.2 show it."""
    path = tmp_path / "x.weights"
    streams.write(path, shapes(yolov2_tiny(num_classes=20, width=NARROW)), 1)
    with pytest.raises(ValueError, match=r"19500 too few; convolution 9 of 9 \(head: 425 filters"):
        load_weights(yolov2_tiny(num_classes=80, width=NARROW), path)
    message = r"too few; convolution \d+ of 23 .*The first layer that cannot fit is backbone.stages.2.2"
    with pytest.raises(ValueError, match=message):
        load_weights(yolov2(num_classes=20, width=NARROW), path)


def test_missing_files_and_unsuitable_modules(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such weights file"):
        read_header(tmp_path / "absent.weights")
    with pytest.raises(ValueError, match="1: this batch norm does not follow a convolution of its own"):
        convolutions(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(8)))
    with pytest.raises(ValueError, match="0: 4 filters.*either a bias or a batch norm"):
        convolutions(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)))
    message = r"seen=3000000000: a header of version 0.1 holds numbers from 0 to 2147483647"
    with pytest.raises(ValueError, match=message):
        save_weights(darknet19(width=NARROW), tmp_path / "x.weights", header=Header(0, 1, 0, 3_000_000_000))
    with pytest.raises(ValueError, match=r"version 0\.2\.3000000000: a header holds numbers of 32 bits"):
        save_weights(darknet19(width=NARROW), tmp_path / "x.weights", header=Header(0, 2, 3_000_000_000, 0))
    assert not (tmp_path / "x.weights").exists()


@pytest.mark.data
def test_a_file_written_without_batch_norm(shared):
    """trial8 lacks 1,872 numbers, three for each of the 624 filters with batch norm in the cfg."""
    folder = shared / "bad-input/darknet"
    network = DarknetNetwork(folder / "tiny-yolov2-trial8.cfg")
    with pytest.raises(ValueError) as caught:
        load_weights(network, folder / "tiny-yolov2-trial8.weights")
    text = str(caught.value)
    assert "the file has 572317 numbers, the network 574189: 1872 too few" in text
    assert "It fits this network without batch norm: the first layer that does not fit is layers.0" in text
