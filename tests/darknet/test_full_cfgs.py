"""The original networks in full size: parameters, weights files, layers and detections against Darknet's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from detectors.darknet.framing import frame
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.weights import Convolution, check_weights, convolutions, load_weights, save_weights
from detectors.models.darknet19 import darknet19
from detectors.models.yolov2 import yolov2, yolov2_tiny
from detectors.postprocess import to_original
from tests.darknet import streams

BUILDERS = {
    "yolov2-voc": lambda: yolov2(num_classes=20),
    "yolov2": lambda: yolov2(num_classes=80, anchors="coco"),
    "yolov2-tiny-voc": lambda: yolov2_tiny(num_classes=20),
    "yolov2-tiny": lambda: yolov2_tiny(num_classes=80, anchors="coco", last_channels=512),
    "darknet19": lambda: darknet19(),
}


def read(shared: Path, name: str) -> dict:
    return json.loads((shared / "oracles/darknet/full.json").read_text())[name]


@pytest.mark.data
@pytest.mark.parametrize("name", BUILDERS)
def test_builders_have_the_originals_layers(name, shared):
    """Shapes in the order of the file, on the meta device."""
    with torch.device("meta"):
        ours = convolutions(BUILDERS[name]())
        darknets = convolutions(DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg"))
    assert [tensor_shapes(layer) for layer in ours] == [tensor_shapes(layer) for layer in darknets]
    assert sum(layer.count for layer in ours) == read(shared, name)["params"]


def tensor_shapes(layer: Convolution) -> list[torch.Size]:
    return [tensor.shape for tensor in layer.tensors()]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0)])
@pytest.mark.parametrize("name", BUILDERS)
def test_files_of_the_originals_are_written_back_byte_for_byte(name, version, shared, tmp_path):
    recorded = read(shared, name)
    header_bytes = 16 if version == (0, 1, 0) else 20
    source = tmp_path / "a.weights"
    target = tmp_path / "b.weights"
    streams.write(source, recorded["convs"], recorded["weight_seed"], version=version, seen=64000)
    assert source.stat().st_size == recorded[f"file_bytes_hdr{version[1]}"]
    digest = hashlib.sha256(source.read_bytes()[header_bytes:]).hexdigest()
    assert digest == recorded["stream_sha256"]
    for module in (BUILDERS[name](), DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg")):
        report = load_weights(module, source)
        save_weights(module, target, header=report.header)
        assert target.stat().st_size == source.stat().st_size
        assert target.read_bytes() == source.read_bytes()


@pytest.mark.data
@pytest.mark.slow
def test_the_pretrained_backbone_fills_18_convolutions(shared, tmp_path):
    """darknet19_448.conv.23 has 79,327,120 bytes: the first 18 convolutions of yolov2-voc."""
    recorded = read(shared, "darknet19")
    body = streams.parameters(recorded["convs"], recorded["weight_seed"]).tobytes()
    path = tmp_path / "darknet19_448.conv.23"
    path.write_bytes((streams.header((0, 1, 0), 0) + body)[:79327120])
    with torch.device("meta"):
        report = check_weights(yolov2(num_classes=20), path, partial=True)
    assert (len(report.loaded), len(report.unchanged)) == (18, 5)
    assert report.loaded[-1].name.startswith("backbone.") and report.unchanged[0].name.startswith("neck.")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_layers_and_detections_equal_darknets(name, shared, tmp_path):
    recorded = read(shared, name)
    arrays = np.load(shared / "oracles/darknet/full.npz")
    network = DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg").eval()
    load_weights(network, streams.write(tmp_path / "a.weights", recorded["convs"], recorded["weight_seed"]))
    net = network.config.net
    images = torch.from_numpy(streams.images(recorded["input_seed"], 1, 3, net.height, net.width))
    outputs = network.outputs(images)
    statistics = np.array([[x.mean(), x.std(correction=0), x.min(), x.max()] for x in outputs], np.float32)
    assert_allclose(statistics, arrays[f"{name}/gpu/layer_mean_std_min_max"], atol=1e-5, rtol=1e-5)
    for n in (len(outputs) - 2, len(outputs) - 1):
        values = outputs[n].flatten()[arrays[f"{name}/layer{n}_index"]]
        assert_allclose(values, arrays[f"{name}/gpu/layer{n}_value"], atol=1e-5, rtol=0)
    if "dets" in recorded:
        top = {key: arrays[f"{name}/det_top_{key}"] for key in ("idx", "prob", "box")}
        assert_same_detections(network, images, recorded["dets"], top)


def assert_same_detections(
    network: DarknetNetwork, images: torch.Tensor, dets: dict, top: dict[str, np.ndarray]
) -> None:
    """top: the best detections after NMS: idx (n, 2) box and class, prob (n), box (n, 4) cxcywh in pixels."""
    net = network.config.net
    image_size = (dets["image_h"], dets["image_w"])
    assert not dets["relative"]
    info = frame(image_size, (net.height, net.width), "letterbox")
    counts = []
    for nms_iou in (1.0, dets["nms"]):
        detections = network.detections(images, score_threshold=dets["thresh"], nms_iou=nms_iou)
        detections = to_original(detections, [info], clip=False)
        counts.append(len(detections.scores))
    assert counts == [dets["n_prob"], dets["n_prob_nms"]]
    count = len(top["prob"])
    order = np.argsort(-top["prob"], kind="stable")
    assert_allclose(detections.scores[:count], top["prob"][order], atol=2e-6, rtol=0)
    assert_array_equal(detections.labels[:count], top["idx"][order, 1])
    centre = top["box"][order, :2]
    half = top["box"][order, 2:] / 2
    boxes = np.concatenate([centre - half, centre + half], 1)
    assert_allclose(detections.boxes[:count], boxes, rtol=1e-5, atol=1e-5 * max(image_size))
