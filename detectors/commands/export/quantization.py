"""int8 weights and features of an ONNX file's convolutions, and what that costs in AP."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from detectors.annotations import Annotations
from detectors.commands.export.export_sources import ExportSource
from detectors.commands.export.file_writers import INPUT
from detectors.data.loading import BatchLoader
from detectors.metrics.class_report import class_report
from detectors.metrics.report import report
from detectors.models.detector import Detector
from detectors.models.exported import ExportedClassifier, ExportedDetector
from detectors.structures import Detections, HeadOutputs, ImageInfo
from detectors.training import assemble
from detectors.training.classification import ClassificationTask, guess
from detectors.training.detection import DetectionTask, detect
from detectors.training.distributed import Processes
from detectors.training.ground_truth import read_annotations

INTEGER_OPERATIONS = ["Conv", "Gemm", "MatMul"]


class Calibration(quantization.CalibrationDataReader):
    """Training images, one by one, as an evaluation sees them."""

    def __init__(self, loader: BatchLoader):
        self.batches: Iterator = iter(loader)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.images.numpy()}


def calibration_images(source: ExportSource, count: int) -> tuple[BatchLoader, int]:
    """At most `count` of the run's training images, evenly spread over the set, and how many they are."""
    annotations = read_annotations(source.config.data, "train", source.class_names)
    every = max(1, -(-len(annotations) // count))
    loader = assemble.eval_loader(
        source.config, annotations, batch_size=1, processes=Processes(rank=0, world_size=every)
    )
    return loader, len(range(0, len(annotations), every))


def quantized(model: onnx.ModelProto, images: BatchLoader) -> onnx.ModelProto:
    """The model with int8 weights, one scale for each channel, and uint8 features. Static.

    Scales of features span the numbers that the images give. Batch norms are folded before.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, folded, done = (Path(folder) / f"{name}.onnx" for name in ("plain", "folded", "done"))
        onnx.save(model, plain)
        quant_pre_process(plain, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            done,
            Calibration(images),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=INTEGER_OPERATIONS,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        return onnx.load(done)


class MeasuredFile(NamedTuple):
    """A file's accuracy on a split."""

    metrics: dict[str, float | None]
    images_per_second: float

    def line(self, title: str) -> str:
        numbers = ", ".join(
            f"{name} {'-' if value is None else format(value, '.4f')}" for name, value in self.metrics.items()
        )
        return f"{title:8} {numbers}, {self.images_per_second:.1f} images/s"


def measure_file(
    source: ExportSource, exported: ExportedDetector | ExportedClassifier, annotations: Annotations
) -> MeasuredFile:
    """As evaluate.py measures the run: AP by COCO's and VOC's rules, or a classifier's accuracy."""
    loader = assemble.eval_loader(source.config, annotations, batch_size=8)
    if isinstance(exported, ExportedClassifier):
        guesses, seconds = guess(exported, loader, exported.device, progress=False)
        scalars = class_report(annotations, guesses).scalars
        names = [ClassificationTask.metric]
    else:
        network = exported if exported.with_boxes else FileHeads(source.network, exported)
        detections, seconds = detect(network, loader, exported.device, progress=False)
        scalars = report(annotations, detections).scalars
        names = [DetectionTask.metric, "AP50", "AP50_voc07"]
    return MeasuredFile({name: scalars[name] for name in names}, len(annotations) / max(seconds, 1e-9))


class FileHeads:
    """Head outputs of a file, decoded and suppressed by its network's own post-processing."""

    def __init__(self, network: Detector, exported: ExportedDetector):
        self.network = network
        self.postprocess = network.postprocess
        self.exported = exported

    def eval(self) -> FileHeads:
        return self

    def __call__(self, images) -> HeadOutputs:
        return self.exported(images)

    def detections(
        self, outputs: HeadOutputs, infos: list[ImageInfo], size: Sequence[int], *, clip: bool = True
    ) -> Detections:
        return self.network.detections(outputs, infos, size, clip=clip)
