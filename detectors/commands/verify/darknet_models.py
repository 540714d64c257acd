"""The models of conf/model on the recordings of the cfgs that they are built after (full.json, net.json)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from detectors.boxes import xyxy_to_cxcywh
from detectors.commands.verify.comparison import EXACT, Comparison, Tolerance, agree, compare_numbers
from detectors.commands.verify.presets import preset_detector
from detectors.commands.verify.recordings import Arrays, Settings
from detectors.commands.verify.region_decoding import box_tolerance
from detectors.darknet.framing import frame
from detectors.darknet.network import DarknetNetwork
from detectors.darknet.sections import Convolutional, MaxPool, Softmax
from detectors.darknet.weights import convolutions
from detectors.models.classifier import Classifier
from detectors.models.darknet19 import darknet19
from detectors.models.detector import Detector
from detectors.postprocess import to_original

CFG_MODELS = {  # Darknet's own cfgs -> conf/model
    "yolov2-voc": "yolov2",
    "yolov2": "yolov2_coco",
    "yolov2-tiny-voc": "yolov2_tiny",
    "yolov2-tiny": "yolov2_tiny_coco",
}
MODEL_SCORES = Tolerance(absolute=1e-5)


def model_detections(
    network: DarknetNetwork, images: Tensor, det: Settings, arrays: Arrays
) -> Iterator[Comparison]:
    """The same detections by the model of conf/model for this cfg, if there is one.

    network: the cfg's, loaded. Only the two thresholds are the recording's, all else is the yaml's.
    """
    name = CFG_MODELS.get(network.config.path.stem) or _model_like(network)
    if name is None:
        return
    same = agree(f"model={name}: layers and anchors", _layout(_unloaded(name, network)), _layout(network))
    yield same
    if not same.passed:
        return
    model = preset_detector(
        name, num_classes=network.config.region.classes, score_threshold=det["thresh"], nms_iou=det["nms"]
    ).eval()
    for ours, darknets in zip(convolutions(model), convolutions(network), strict=True):
        for tensor, values in zip(ours.tensors(), darknets.tensors(), strict=True):
            tensor.data.copy_(values.data)
    size = tuple(images.shape[-2:])
    with torch.no_grad():
        detections = model.postprocess(model(images * 255), model.grid(size))
    info = frame((det["image_h"], det["image_w"]), size, "letterbox")
    detections = to_original(detections, [info], clip=False)
    recorded = np.argsort(-arrays["det_top_prob"], kind="stable")
    best = detections.scores.argsort(descending=True, stable=True)[: len(recorded)]
    title = f"model={name}: {len(recorded)} best detections"
    labels = arrays["det_top_idx"][recorded, 1]
    yield compare_numbers(f"{title}: classes", detections.labels[best], labels, EXACT)
    scores = arrays["det_top_prob"][recorded]
    yield compare_numbers(f"{title}: scores", detections.scores[best], scores, MODEL_SCORES)
    boxes = xyxy_to_cxcywh(detections.boxes[best])
    if det["relative"]:
        boxes = boxes / torch.tensor([det["image_w"], det["image_h"]] * 2)
    tolerance = box_tolerance(det)
    yield compare_numbers(f"{title}: boxes", boxes, arrays["det_top_box"][recorded], tolerance)


def model_classes(network: DarknetNetwork, images: Tensor) -> dict[str, Tensor]:
    """Class logits and probabilities (B, C) of the builder darknet19, by the cfg's layer that has the same.

    network: the cfg's, loaded. Empty unless its convolutions are those of a darknet19.
    """
    model = model_classifier(network)
    if model is None:
        return {}
    with torch.no_grad():
        logits = model.eval()(images * 255)
    softmax = [type(layer.settings) for layer in network.config.layers].index(Softmax)
    return {f"layer{softmax - 1:02}": logits, f"layer{softmax:02}": logits.softmax(1)}


def model_classifier(network: DarknetNetwork) -> Classifier | None:
    """The builder darknet19 with the stages and the parameters of a cfg's network; None if it differs."""
    stages: list[list[int]] = [[]]
    for layer in network.config.layers:
        if isinstance(layer.settings, Convolutional):
            stages[-1].append(layer.settings.filters)
        elif isinstance(layer.settings, MaxPool):
            stages.append([])
    classes = stages[-1].pop() if stages[-1] else 0
    if not all(stages) or Softmax not in [type(layer.settings) for layer in network.config.layers]:
        return None
    model = darknet19(num_classes=classes, stage_channels=stages)
    if _shapes(model) != _shapes(network):
        return None
    for ours, darknets in zip(convolutions(model), convolutions(network), strict=True):
        for tensor, values in zip(ours.tensors(), darknets.tensors(), strict=True):
            tensor.data.copy_(values.data)
    return model


def _model_like(network: DarknetNetwork) -> str | None:
    """The yaml of conf/model with the layers and anchors of a cfg that has another name."""
    layout = _layout(network)
    return next((name for name in CFG_MODELS.values() if _layout(_unloaded(name, network)) == layout), None)


def _unloaded(name: str, network: DarknetNetwork) -> Detector:
    """The model of a yaml, without memory for its parameters."""
    with torch.device("meta"):
        return preset_detector(name, num_classes=network.config.region.classes)


def _layout(network: Detector | DarknetNetwork) -> str:
    """The shapes of all convolutions, and the anchors."""
    of_model = isinstance(network, Detector)
    anchors = network.anchors.shapes_cells if of_model else network.config.region.anchors
    return f"{anchors} {_shapes(network)}"


def _shapes(network: nn.Module) -> list[tuple[int, ...]]:
    """Of the tensors of all convolutions."""
    return [tuple(tensor.shape) for layer in convolutions(network) for tensor in layer.tensors()]
