"""Reads what init.from names, whatever program wrote it: content, not yet under a network's names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from detectors.darknet.weights import read_header
from detectors.data.class_names import read_names
from detectors.training import checkpoint as ckpt
from detectors.training.initial.ssd_ports import state_dict_of

PARTIAL_FILE = re.compile(r"\.conv\.\d+$")  # darknet19_448.conv.23: the first 23 layers of a cfg
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class StateDict:
    """Named tensors of another program, or ours without the rest of a checkpoint."""

    path: Path
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class DarknetWeights:
    """A .weights file, or the beginning of one. It holds numbers only, so a network says what they are.

    cfg: the description beside it, if there is one: X.cfg of X.weights and of X.conv.23.
    """

    path: Path
    cfg: Path | None


WeightFile = ckpt.Checkpoint | StateDict | DarknetWeights


def is_darknet(path: Path) -> bool:
    return path.suffix == ".weights" or PARTIAL_FILE.search(path.name) is not None


def read_weight_file(path: Path) -> WeightFile:
    """A checkpoint of ours, a state dict (.pt, .pth, .safetensors) or Darknet's weights, by name and content.

    FileNotFoundError or ValueError for a file that is missing, damaged or of none of these kinds.
    """
    if is_darknet(path):
        read_header(path)
        return DarknetWeights(path, cfg_beside(path))
    if path.suffix == SAFETENSORS:
        return StateDict(path, state_dict_of(_read_safetensors(path), str(path)))
    content = ckpt.read_tensors(path)
    if isinstance(content, dict) and "format" in content:
        return ckpt.from_content(path, content)
    return StateDict(path, state_dict_of(content, str(path)))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor. ValueError without the package, or for a damaged file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"{path}: safetensors is not installed: pip install 'detectors[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a file of safetensors ({error})") from error


def cfg_beside(path: Path) -> Path | None:
    """X.cfg in the folder of X.weights or X.conv.23."""
    name = PARTIAL_FILE.sub("", path.name) if PARTIAL_FILE.search(path.name) else path.stem
    cfg = path.with_name(f"{name}.cfg")
    return cfg if cfg.is_file() else None


def names_beside(path: Path) -> tuple[str, ...]:
    """The class names of X.names in the folder of X.weights; () without that file."""
    names = path.with_suffix(".names")
    return read_names(names) if names.is_file() else ()
