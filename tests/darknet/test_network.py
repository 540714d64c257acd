"""Networks built from cfg files against Darknet's recorded numbers, layer by layer and box by box."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.testing import assert_close

from detectors.anchors import YoloAnchors
from detectors.coders import YoloBoxCoder
from detectors.darknet.framing import frame
from detectors.darknet.network import DarknetNetwork, read_network
from detectors.darknet.region import cfg_region_loss, darknet_index, head_outputs, region_matcher
from detectors.darknet.weights import load_weights
from detectors.postprocess import to_original
from detectors.structures import Detections
from tests.darknet import cfgs, streams

NETS = (
    "mini-yolov2-64",
    "mini-yolov2-128x96-b2",
    "mini-yolov2-nosoftmax",
    "mini-tiny-96x64",
    "mini-tiny-odd-100x76",
    "mini-darknet19-64",
)
DETECTED = ("mini-yolov2-64", "mini-yolov2-nosoftmax", "mini-tiny-96x64", "mini-tiny-odd-100x76")


def load(
    fixtures: Path, name: str, folder: Path, batch_norm: str = "gpu"
) -> tuple[DarknetNetwork, torch.Tensor, dict, dict]:
    """The network, its input, and the recording's JSON and arrays. folder: for the weights file."""
    recorded = json.loads((fixtures / "darknet/net.json").read_text())[name]
    network = DarknetNetwork(fixtures / "darknet" / recorded["cfg"], batch_norm=batch_norm).eval()
    load_weights(network, streams.write(folder / "net.weights", recorded["convs"], recorded["weight_seed"]))
    images = streams.images(
        recorded["input_seed"], recorded["batch"], 3, recorded["height"], recorded["width"]
    )
    return network, torch.from_numpy(images), recorded, dict(np.load(fixtures / f"darknet/net_{name}.npz"))


@pytest.mark.parametrize("build", ["gpu", "cpu"])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_all_layers_equal_darknets(name, build, fixtures, tmp_path):
    network, images, _, arrays = load(fixtures, name, tmp_path, batch_norm=build)
    outputs = network.outputs(images)
    recorded = [key for key in arrays if key.startswith(f"{build}/layer") and key[-2:].isdigit()]
    assert len(recorded) >= 2
    for key in recorded:
        assert_close(
            outputs[int(key[-2:])],
            torch.from_numpy(arrays[key]),
            atol=1e-5,
            rtol=0,
            msg=lambda text, key=key: f"{key}: {text}",
        )
    statistics = [[x.mean(), x.std(correction=0), x.min(), x.max()] for x in outputs]
    expected = arrays[f"{build}/layer_mean_std_min_max"]
    assert_allclose(np.array(statistics, np.float32), expected, atol=1e-5, rtol=0)
    assert_close(network(images), outputs[-1], atol=0, rtol=0)


def recorded_boxes(arrays: dict, key: str, image_wh: tuple[int, int]) -> np.ndarray:
    """(N, 4) xyxy of all recorded boxes in Darknet's order, times image_wh."""
    boxes_cxcywh = arrays[f"{key}/box"].astype(np.float64)
    centre = boxes_cxcywh[:, :2]
    half = boxes_cxcywh[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], 1) * np.tile(image_wh, 2)


@pytest.mark.parametrize("name", DETECTED)
@torch.no_grad()
def test_detections_equal_darknets(name, fixtures, tmp_path):
    """The boxes of all anchors, and the (box, class) pairs above the threshold before and after NMS."""
    network, images, recorded, arrays = load(fixtures, name, tmp_path)
    size = tuple(images.shape[-2:])
    raw = network.raw(images)
    assert recorded["dets"]
    for n, det in enumerate(recorded["dets"]):
        key = f"gpu/det{n}"
        image_size = (det["image_h"], det["image_w"])
        expected = recorded_boxes(arrays, key, image_size[::-1] if det["relative"] else (1, 1))
        info = frame(image_size, size, "letterbox")
        boxes = all_boxes(raw, network.config.region, size, info)
        assert_allclose(boxes, expected, rtol=1e-5, atol=1e-5 * max(image_size))
        for stage, nms_iou in (("prob", 1.0), ("prob_nms", det["nms"])):
            detections = network.detections(images, score_threshold=det["thresh"], nms_iou=nms_iou)
            detections = to_original(detections, [info], clip=False)
            pairs = arrays[f"{key}/{stage}_idx"]
            scores = arrays[f"{key}/{stage}_val"]
            assert_same_detections(detections, expected, pairs, scores)


def all_boxes(raw: torch.Tensor, settings, size: tuple[int, int], info) -> np.ndarray:
    """(N, 4) xyxy pixels of the original image, in Darknet's order."""
    grid = YoloAnchors(settings.anchors, stride=1)(tuple(raw.shape[-2:]))
    boxes = YoloBoxCoder().decode(head_outputs(raw, settings).offsets[0], grid)  # (A, 4) cells
    boxes = boxes * torch.tensor([size[1] / raw.shape[-1], size[0] / raw.shape[-2]] * 2)
    index = torch.arange(len(boxes))
    detections = Detections(index * 0, boxes, index.float(), index)
    boxes = to_original(detections, [info], clip=False).boxes.numpy()
    ordered = np.empty_like(boxes)
    ordered[darknet_index(index, tuple(raw.shape[-2:]), len(settings.anchors)).numpy()] = boxes
    return ordered


def assert_same_detections(
    detections: Detections, all_boxes: np.ndarray, pairs: np.ndarray, scores: np.ndarray
) -> None:
    """all_boxes: (N, 4). pairs: (n, 2), index into all_boxes and class. scores: (n).

    Each detection is identified with the nearest recorded box.
    """
    nearest = np.abs(detections.boxes.numpy()[:, None] - all_boxes).max(-1).argmin(1)
    ours_pairs = zip(nearest.tolist(), detections.labels.tolist(), strict=True)
    ours = dict(zip(ours_pairs, detections.scores.tolist(), strict=True))
    expected = dict(zip(map(tuple, pairs.tolist()), scores.tolist(), strict=True))
    assert len(ours) == len(detections.scores)
    assert ours.keys() == expected.keys()
    assert_allclose([ours[pair] for pair in expected], list(expected.values()), atol=2e-6, rtol=0)


def test_layers_without_a_recording(tmp_path):
    """relu, logistic, dropout, cost, softmax with groups and temperature, a route to an early layer."""
    text = (
        cfgs.net(8)
        + """
[convolutional]
filters=4
activation=relu
[convolutional]
filters=4
activation=logistic
[dropout]
probability=.5
[route]
layers=0,-1
[avgpool]
[softmax]
groups=2
temperature=2
[cost]
"""
    )
    network = DarknetNetwork(cfgs.write(tmp_path, text)).eval()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second, dropped, joined, mean, softmax, cost = network.outputs(images)
    assert_close(first, network.layers[0].conv(images).clamp(min=0))
    assert_close(second, 1 / (1 + torch.exp(-network.layers[1].conv(first))))
    assert_close(dropped, second)
    assert_close(joined, torch.cat([first, second], 1))
    assert_close(mean, joined.mean((2, 3), keepdim=True))
    halves = torch.exp(mean.view(2, 2, 4) / 2)
    assert_close(softmax, (halves / halves.sum(-1, keepdim=True)).view(2, 8))
    assert_close(cost, softmax)
    network.train()
    zeroed = network.outputs(images)[2]
    assert 0.3 < (zeroed == 0).float().mean() < 0.7


def test_loss_and_matcher_of_the_region_section(fixtures):
    network = DarknetNetwork(fixtures / "darknet/cfg/mini-yolov2-nosoftmax.cfg")
    settings = network.config.region
    loss = cfg_region_loss(settings)
    matcher = region_matcher(settings)
    assert loss.class_activation == "logistic"
    assert loss.objectness_target == ("iou" if settings.rescore else "one")
    assert (loss.object_scale, loss.ignore_iou) == (settings.object_scale, settings.thresh)
    assert matcher.needs_predictions == (not settings.bias_match)


def test_errors_of_a_network(fixtures):
    network = DarknetNetwork(fixtures / "darknet/cfg/mini-darknet19-64.cfg")
    with pytest.raises(ValueError, match=r"takes \(B, 3, H, W\), RGB from 0 to 1"):
        network(torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match=r"the last layer is \[softmax\], not \[region\]"):
        network.raw(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="choose 'gpu' or 'cpu'"):
        DarknetNetwork(network.config, batch_norm="tpu")
    with pytest.raises(ValueError, match="Darknet's CPU build cannot train"):
        DarknetNetwork(network.config, batch_norm="cpu").train()(torch.zeros(2, 3, 64, 64))


def test_files_that_do_not_match_are_refused_before_memory_is_allocated(tmp_path, monkeypatch):
    """A cfg with 10^8 parameters and a file with few."""
    cfg = cfgs.write(tmp_path, cfgs.net() + cfgs.conv(2000, 3) + cfgs.conv(5000, 3))
    weights = streams.write(tmp_path / "x.weights", [[4, 3, 3, 1]], 0)
    devices = []
    monkeypatch.setattr(
        "detectors.darknet.network.init_darknet", lambda conv: devices.append(conv.weight.device.type)
    )
    with pytest.raises(ValueError, match="the file has 124 numbers, the network 90082000"):
        read_network(cfg, weights)
    assert devices == ["meta", "meta"]


def test_input_sizes_that_do_not_fit_the_routes_are_refused(tmp_path):
    network = DarknetNetwork(cfgs.write(tmp_path, cfgs.yolov2(0.125, 2))).eval()
    with pytest.raises(ValueError, match=r"darknet_reorg: input .*|layer 28 \[route\]"):
        network(torch.zeros(1, 3, 80, 80))


@pytest.mark.data
@pytest.mark.parametrize("mode", ["letterbox", "resize"])
@pytest.mark.parametrize(
    ("net", "cfg", "weights"), [("voc_bn", "tiny-yolov2-trial3", ""), ("coco_nobn", "coco_trial6", "_653550")]
)
@torch.no_grad()
def test_trained_weights_give_darknets_numbers(net, cfg, weights, mode, shared):
    """Recorded with Darknet's CPU build. The recording contains the input tensors."""
    folder = shared / "weights/yolo-lite"
    network = DarknetNetwork(folder / f"cfg/{cfg}.cfg", batch_norm="cpu").eval()
    load_weights(network, folder / f"weights/{cfg}{weights}.weights")
    recorded = np.load(folder / "oracle/darknet_dog_224.npz")
    *_, raw, region = network.outputs(torch.from_numpy(recorded[f"x__{mode}"])[None])
    assert_close(raw[0], torch.from_numpy(recorded[f"{net}__{mode}__raw"]), atol=5e-5, rtol=0)
    assert_close(region[0], torch.from_numpy(recorded[f"{net}__{mode}__region"]), atol=1e-5, rtol=0)
