"""The original networks at their own size: numbers of parameters, files byte for byte, layers and detections as Darknet computed them."""

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
from detectors.darknet.weights import check_weights, convolutions, load_weights, save_weights
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
    """On the meta device: shapes alone, in the order of the file."""
    with torch.device("meta"):
        ours = convolutions(BUILDERS[name]())
        theirs = convolutions(DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg"))
    shapes = [[[tensor.shape for tensor in layer.tensors()] for layer in layers] for layers in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert sum(layer.count for layer in ours) == read(shared, name)["params"]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 0)])
@pytest.mark.parametrize("name", BUILDERS)
def test_files_of_the_originals_come_back_byte_by_byte(name, version, shared, tmp_path):
    recorded, header = read(shared, name), 16 if version == (0, 1, 0) else 20
    source, target = tmp_path / "a.weights", tmp_path / "b.weights"
    streams.write(source, recorded["convs"], recorded["weight_seed"], version=version, seen=64000)
    assert source.stat().st_size == recorded[f"file_bytes_hdr{version[1]}"]
    digest = hashlib.sha256(source.read_bytes()[header:]).hexdigest()
    assert digest == recorded["stream_sha256"]
    for module in (BUILDERS[name](), DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg")):
        report = load_weights(module, source)
        save_weights(module, target, header=report.header)
        assert target.stat().st_size == source.stat().st_size
        assert target.read_bytes() == source.read_bytes()


@pytest.mark.data
@pytest.mark.slow
def test_the_backbone_that_training_starts_from(shared, tmp_path):
    """darknet19_448.conv.23 has 79,327,120 bytes: the first 18 convolutions of yolov2-voc."""
    recorded = read(shared, "darknet19")
    body = streams.parameters(recorded["convs"], recorded["weight_seed"]).tobytes()
    path = tmp_path / "darknet19_448.conv.23"
    path.write_bytes((streams.header((0, 1, 0), 0) + body)[:79327120])
    with torch.device("meta"):
        report = check_weights(yolov2(num_classes=20), path, partial=True)
    assert (len(report.loaded), len(report.left)) == (18, 5)
    assert report.loaded[-1].name.startswith("backbone.") and report.left[0].name.startswith("neck.")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_layers_and_detections_equal_darknets(name, shared, tmp_path):
    recorded, arrays = read(shared, name), np.load(shared / "oracles/darknet/full.npz")
    network = DarknetNetwork(shared / f"oracles/darknet/cfg-full/{name}.cfg").eval()
    load_weights(network, streams.write(tmp_path / "a.weights", recorded["convs"], recorded["weight_seed"]))
    net = network.config.net
    images = torch.from_numpy(streams.images(recorded["input_seed"], 1, 3, net.height, net.width))
    outputs = network.outputs(images)
    found = np.array([[x.mean(), x.std(correction=0), x.min(), x.max()] for x in outputs], np.float32)
    assert_allclose(found, arrays[f"{name}/gpu/layer_mean_std_min_max"], atol=1e-5, rtol=1e-5)
    for n in (len(outputs) - 2, len(outputs) - 1):
        values = outputs[n].flatten()[arrays[f"{name}/layer{n}_index"]]
        assert_allclose(values, arrays[f"{name}/gpu/layer{n}_value"], atol=1e-5, rtol=0)
    if "dets" in recorded:
        assert_same_detections(
            network,
            images,
            recorded["dets"],
            {key: arrays[f"{name}/det_top_{key}"] for key in ("idx", "prob", "box")},
        )


def assert_same_detections(
    network: DarknetNetwork, images: torch.Tensor, dets: dict, top: dict[str, np.ndarray]
) -> None:
    """top: the best detections after suppression, the best first: (n, 2) box and class, (n) scores, (n, 4) centre and size in pixels."""
    net, image_size = network.config.net, (dets["image_h"], dets["image_w"])
    assert not dets["relative"]
    info = frame(image_size, (net.height, net.width), "letterbox")
    counts = []
    for nms in (1.0, dets["nms"]):
        found = to_original(
            network.detections(images, score_threshold=dets["thresh"], nms_iou=nms), [info], clip=False
        )
        counts.append(len(found.scores))
    assert counts == [dets["n_prob"], dets["n_prob_nms"]]
    count = len(top["prob"])
    order = np.argsort(-top["prob"], kind="stable")
    assert_allclose(found.scores[:count], top["prob"][order], atol=2e-6, rtol=0)
    centre, half = top["box"][order, :2], top["box"][order, 2:] / 2
    assert_array_equal(found.labels[:count], top["idx"][order, 1])
    assert_allclose(
        found.boxes[:count],
        np.concatenate([centre - half, centre + half], 1),
        rtol=1e-5,
        atol=1e-5 * max(image_size),
    )
