"""Writes traced modules as torch.export and TorchScript files, with the metadata inside.

A file gets its name only when it is complete.
"""

from __future__ import annotations

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
        torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})


def write_script(module: nn.Module, size: tuple[int, int], path: Path, metadata: dict[str, Any]) -> None:
    """A traced TorchScript file, for any number of images of `size` (height, width)."""
    with tracing("TorchScript"):
        script = torch.jit.trace(module, (example_images(size),), check_trace=False)
        script.save(str(path), _extra_files={METADATA_FILE: json.dumps(metadata)})


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


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A draft with the target's suffix, which becomes the target at the end, or disappears after an error."""
    if target.is_dir():
        raise ValueError(f"{target}: a folder lies where a file is to be written; name another with --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        yield draft
        os.replace(draft, target)
