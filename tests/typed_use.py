"""What a type checker must understand of the public names (docs/api.md). `make types` reads it; nothing runs
it.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from torch import Tensor, nn

import detectors
from detectors import (
    Detector,
    Prediction,
    Predictor,
    Targets,
    load,
    ssd160,
    ssd300,
    ssd512,
    yolov2,
    yolov2_tiny,
)
from detectors.models.exported import ExportedDetector


def uses_a_trained_detector(run: Path) -> list[str]:
    detector = load(run)
    assert isinstance(detector, Predictor)  # a classifier's run gives an ImageClassifier
    assert_type(detector.module, nn.Module | ExportedDetector)  # the latter of an exported file
    assert_type(detector.class_names, tuple[str, ...])
    predictions = detector.predict(["a.png", np.zeros((9, 9, 3), np.uint8)], score=0.3, batch_size=8)
    assert_type(predictions, list[Prediction])
    (prediction,) = predictions
    assert_type(prediction.path, str | None)
    assert_type(prediction.size, tuple[int, int])
    assert_type(len(prediction), int)
    return prediction.names


def trains_a_network(images: Tensor, device: torch.device) -> Tensor:
    network = ssd300(num_classes=20, width=0.125)
    assert_type(network, Detector)
    targets = Targets(
        boxes=torch.zeros(2, 1, 4), labels=torch.zeros(2, 1), valid=torch.zeros(2, 1, dtype=torch.bool)
    )
    assert_type(targets.to(device), Targets)
    outputs = network(images)
    grid = network.grid((300, 300))
    terms = network.loss(outputs, network.encoder(targets, grid, outputs), grid)
    return sum(terms.values(), torch.zeros(()))


assert_type(ssd160(num_classes=3), Detector)
assert_type(ssd512(num_classes=3), Detector)
assert_type(yolov2(num_classes=3), Detector)
assert_type(yolov2_tiny(num_classes=3), Detector)
assert_type(detectors.__version__, str)
