"""Writes the ONNX file of a network, and its int8 version."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from detectors.commands.export.export_sources import ExportSource, export_metadata
from detectors.commands.export.file_writers import (
    ANY_BATCH,
    INPUT,
    example_images,
    new_file,
    tracing,
    write_draft,
)
from detectors.commands.export.onnx_suppression import with_suppression
from detectors.commands.export.quantization import calibration_images, measure_file, quantized
from detectors.commands.export.traced_modules import DETECTION_OUTPUTS, traced_module
from detectors.commands.export.verification import verified
from detectors.models.exported import open_exported
from detectors.training.ground_truth import read_annotations

OPSET = 18  # what PyTorch writes without converting


def export_onnx(source: ExportSource, target: Path, args: argparse.Namespace) -> None:
    """Writes the file, and with args.quantize the int8 one beside it, and prints what was compared."""
    module = traced_module(source.network, source.size, with_boxes=args.with_boxes)
    outputs = DETECTION_OUTPUTS if args.with_boxes else module.outputs
    metadata = export_metadata(source, outputs=outputs, with_boxes=args.with_boxes) | {"opset": OPSET}
    if args.quantize:  # read before minutes of tracing, because an error may come up
        annotations = read_annotations(source.config.data, args.split, source.class_names)
        images, count = calibration_images(source, args.calibration_images)
    with new_file(target) as draft:
        model = onnx_model(module, source.size)
        write_onnx(with_boxes_inside(model, source, args.with_boxes), draft, metadata)
        exported = verified(source.network, draft)
        before = measure_file(source, exported, annotations) if args.quantize else None
    print(f"written: {target} (ONNX, opset {OPSET})")
    if not args.quantize:
        return
    smaller = target.with_name(f"{target.stem}_int8{target.suffix}")
    with new_file(smaller) as draft:
        model = with_boxes_inside(quantized(model, images), source, args.with_boxes)
        write_onnx(model, draft, metadata | {"precision": "int8", "calibration_images": count})
        after = measure_file(source, open_exported(draft), annotations)
    print(f"on {source.config.data.name} {args.split}; int8 is calibrated on {count} training images:")
    print(before.line("float32"), after.line("int8"), sep="\n")
    sizes = [f"{file.stat().st_size / 1e6:.1f} MB" for file in (target, smaller)]
    print(f"written: {smaller} ({sizes[1]}; float32 {sizes[0]})")


def onnx_model(module: nn.Module, size: tuple[int, int]) -> onnx.ModelProto:
    """A traced module in ONNX, for any number of images of `size` (height, width)."""
    with tracing("ONNX"):
        program = torch.onnx.export(
            module,
            (example_images(size),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(module.outputs),
            dynamic_shapes=ANY_BATCH,
            verbose=False,
        )
        return program.model_proto


def with_boxes_inside(model: onnx.ModelProto, source: ExportSource, with_boxes: bool) -> onnx.ModelProto:
    """The model with the suppression, where boxes are wanted."""
    if not with_boxes:
        return model
    network = source.network
    return with_suppression(model, network.postprocess, network.grid(source.size).num_anchors)


def write_onnx(model: onnx.ModelProto, path: Path, metadata: dict[str, Any]) -> None:
    """Every key of the metadata is one of the file's, its value in JSON."""
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    model.producer_name = "detectors"
    model.producer_version = metadata["detectors_version"]
    onnx.checker.check_model(model)
    write_draft(path, model.SerializeToString())
