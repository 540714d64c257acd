"""Writes traced modules as torch.export and TorchScript files, with the metadata inside.

A file gets its name only when it is complete.
"""

from __future__ import annotations

import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detectors.models.exported import METADATA_FILE

INPUT = "images"
TRACED_BATCH = 2  # images; 0 and 1 would become constants
ANY_BATCH = {INPUT: {0: torch.export.Dim("batch", min=1)}}
NOTES = ("torch.onnx", "onnxscript", "onnx_ir")  # loggers of the exporters


def write_program(module: nn.Module, size: tuple[int, int], path: Path, metadata: dict[str, Any]) -> None:
    """torch.export's archive, for any number of images of `size` (height, width)."""
    with tracing("torch.export"):
        program = torch.export.export(module, (example_images(size),), dynamic_shapes=ANY_BATCH)
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata)})
    write_draft(path, content.getbuffer())


def write_script(module: nn.Module, size: tuple[int, int], path: Path, metadata: dict[str, Any]) -> None:
    """A traced TorchScript file, for any number of images of `size` (height, width)."""
    with tracing("TorchScript"):
        script = torch.jit.trace(module, (example_images(size),), check_trace=False)
        content = io.BytesIO()
        torch.jit.save(script, content, _extra_files={METADATA_FILE: json.dumps(metadata)})
    write_draft(path, content.getbuffer())


def example_images(size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) uint8"""
    return torch.zeros(TRACED_BATCH, 3, *size, dtype=torch.uint8)


@contextmanager
def tracing(kind: str) -> Iterator[None]:
    """Without gradients, and without the exporters' notes on their own code: a comparison follows.

    ValueError for a network that cannot be traced. kind: of the file, for the message.
    """
    loggers = [logging.getLogger(name) for name in NOTES]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # each exporter has classes of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{kind} cannot express this network ({reason}); choose another --to") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def write_draft(path: Path, content: bytes | memoryview) -> None:
    """OSError names the file; PyTorch's own writers raise a RuntimeError on a full disk."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A draft with the target's suffix, which becomes the target at the end, or disappears after an error.

    OSError names the target and says how to choose another, where it or its draft cannot be written.
    """
    if target.is_dir():
        raise ValueError(f"{target}: a folder lies where a file is to be written; name another with --output")
    with _errors_naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent)
    with folder, _errors_naming(target, Path(folder.name)):
        draft = Path(folder.name) / target.name
        yield draft
        os.replace(draft, target)


@contextmanager
def _errors_naming(target: Path, folder: Path | None = None) -> Iterator[None]:
    """OSErrors about files in `folder`, or all without one, become errors of the target."""
    try:
        yield
    except OSError as error:
        if folder is not None and folder not in Path(str(error.filename)).parents:
            raise
        text = f"cannot be written ({error.strerror}); name another file with --output"
        raise OSError(error.errno, text, str(target)) from error
