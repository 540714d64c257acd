"""Networks in files that `detectors export` wrote: run as they are, without the code of their layers.

An exported detector is called like a Detector, and its detections() gives boxes in the original images'
frame, so that predict and the evaluation take both. See docs/export.md.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
import torchvision  # noqa: F401  registers the suppression that .pt2 and .torchscript files call
from torch import Tensor

from detectors.models.image_network import check_images
from detectors.postprocess import to_original
from detectors.structures import Detections, HeadOutputs, ImageInfo

ONNX_SUFFIX = ".onnx"
PROGRAM_SUFFIX = ".pt2"
SCRIPT_SUFFIX = ".torchscript"
EXPORT_SUFFIXES = (ONNX_SUFFIX, PROGRAM_SUFFIX, SCRIPT_SUFFIX)
METADATA_FILE = "detectors.json"  # within .pt2 and .torchscript files
EXPORT_FORMAT = 1  # of the metadata
DETECTION_TASK = "detection"
FITS = ("letterbox", "stretch", "crop")

# (B, 3, H, W) uint8 RGB -> the file's outputs, in their order
FileFunction = Callable[[Tensor], Sequence[Tensor]]


class ExportedNetwork:
    """A file's network and what its metadata say of it; see docs/export.md."""

    device = torch.device("cpu")

    def __init__(self, path: Path, run: FileFunction, metadata: dict[str, Any]):
        self.path = path
        self.metadata = metadata
        self.class_names = tuple(metadata["class_names"])
        self.size = tuple(metadata["size"])  # (height, width) of the input
        self.resize = metadata["resize"]
        self._run = run

    def eval(self) -> ExportedNetwork:
        """Does nothing, because a file is always in evaluation mode."""
        return self

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """images: (B, 3, H, W) uint8 RGB of the file's size, B 1 or more. ValueError for others."""
        check_images(images, "an exported network")
        if not len(images):
            raise ValueError(f"images of shape {tuple(images.shape)}: {self.path} takes 1 image or more")
        if images.shape[2:] != self.size or images.dtype != torch.uint8:
            height, width = self.size
            raise ValueError(
                f"images of shape {tuple(images.shape)} and type {images.dtype}: {self.path} takes "
                f"(B, 3, {height}, {width}) torch.uint8; fit them, or export with another --size"
            )
        with torch.no_grad():
            return dict(zip(self.metadata["outputs"], self._run(images), strict=True))


class ExportedClassifier(ExportedNetwork):
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, C) class logits"""
        return self.outputs(images)["logits"]


class ExportedDetector(ExportedNetwork):
    def __init__(self, path: Path, run: FileFunction, metadata: dict[str, Any]):
        super().__init__(path, run, metadata)
        self.with_boxes = metadata["with_boxes"]
        self.score_threshold = metadata["score_threshold"]  # lower scores are not in the file's detections

    def __call__(self, images: Tensor) -> Detections | HeadOutputs:
        """(B, 3, H, W) uint8 RGB -> detections in the frame of the input; head outputs without with_boxes."""
        outputs = self.outputs(images)
        return Detections(**outputs) if self.with_boxes else HeadOutputs(**outputs)

    def detections(
        self, outputs: Detections, infos: list[ImageInfo], size: Sequence[int] = (), *, clip: bool = True
    ) -> Detections:
        """As Detector's. size: not used, it is the file's. ValueError for a file of head outputs."""
        if not self.with_boxes:
            raise ValueError(f"{self.path}: it holds raw head outputs; export the run with --with-boxes")
        return to_original(outputs, infos, clip)


def open_exported(path: Path) -> ExportedDetector | ExportedClassifier:
    """A file that `detectors export` wrote, on the CPU.

    FileNotFoundError without the file; ValueError for one that cannot be read or that another program wrote.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such exported file")
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"{path}: exported files end in {', '.join(EXPORT_SUFFIXES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own formats
            run, metadata = reader(path)
    except Exception as error:  # on garbage, each library raises something else
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read as an exported file ({reason})") from error
    if problem := metadata_problem(metadata):
        raise ValueError(f"{path}: {problem}; only files that detectors export wrote can be used")
    kind = ExportedDetector if metadata["task"] == DETECTION_TASK else ExportedClassifier
    return kind(path, run, metadata)


def metadata_problem(metadata: dict[str, Any]) -> str | None:
    """Why a file's metadata cannot be used; None if they can."""
    if metadata.get("format") != EXPORT_FORMAT:
        return f"its metadata have no format {EXPORT_FORMAT}"
    rules = {
        "task": lambda value: isinstance(value, str),
        "class_names": lambda value: _all_of(str, value),
        "outputs": lambda value: _all_of(str, value),
        "size": lambda value: _all_of(int, value) and len(value) == 2 and min(value) > 0,
        "resize": lambda value: value in FITS,
    }
    if metadata.get("task") == DETECTION_TASK:
        rules["with_boxes"] = lambda value: isinstance(value, bool)
        rules["score_threshold"] = lambda value: isinstance(value, float | int)
    wrong = [name for name, fits in rules.items() if not fits(metadata.get(name))]
    return f"its metadata are wrong: {wrong[0]}={metadata.get(wrong[0])!r}" if wrong else None


def _all_of(kind: type, value: object) -> bool:
    return isinstance(value, list) and all(type(part) is kind for part in value)


def _read_onnx(path: Path) -> tuple[FileFunction, dict[str, Any]]:
    """onnxruntime's CPU provider, with as many threads as PyTorch has."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError("onnxruntime is not installed: pip install 'detectors[export]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    metadata = {key: _json(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    place = session.get_inputs()[0].name

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(array) for array in session.run(None, {place: images.numpy()})]

    return run, metadata


def _read_program(path: Path) -> tuple[FileFunction, dict[str, Any]]:
    if not is_zipfile(path):
        raise ValueError("it is not an archive")  # PyTorch would log why, at length
    extra = {METADATA_FILE: ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), _json_object(extra[METADATA_FILE])


def _read_script(path: Path) -> tuple[FileFunction, dict[str, Any]]:
    extra = {METADATA_FILE: ""}
    script = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
    return script, _json_object(extra[METADATA_FILE])


READERS = {ONNX_SUFFIX: _read_onnx, PROGRAM_SUFFIX: _read_program, SCRIPT_SUFFIX: _read_script}


def _json(text: str | bytes) -> Any:
    """None for what is not JSON: another program's metadata."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _json_object(text: str | bytes) -> dict[str, Any]:
    content = _json(text)
    return content if isinstance(content, dict) else {}
