"""Fills a backbone with a classifier's weights: `model.backbone_weights`, a file that is already there."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model")  # keys below which training programs store a state dict


def load_backbone_weights(backbone: nn.Module, file: str) -> list[str]:
    """Copies the tensors that have the names of the backbone's. Returns lines: what was loaded and left.

    file: a state dict, as torch.save wrote it or as safetensors. Only tensors are read from it, no code.
    ValueError if it is none, if a tensor has another size, or if the file lacks one that the backbone has.
    Does nothing on the "meta" device, where weights have no memory.
    """
    target = getattr(backbone, "body", backbone)
    ours = target.state_dict()
    if any(tensor.is_meta for tensor in ours.values()):
        return []
    place = f"model.backbone_weights={file}"
    tensors = _read(file, place)
    wanted = [name for name in ours if not name.endswith("num_batches_tracked")]
    absent = [name for name in wanted if name not in tensors]
    if absent:
        raise ValueError(
            f"{place}: {len(absent)} of the backbone's {len(wanted)} tensors are not in it, such as "
            f"{absent[0]}; its first is {next(iter(tensors), 'none')}: choose the backbone of the file"
        )
    for name in wanted:
        if tensors[name].shape != ours[name].shape:
            raise ValueError(
                f"{place}: {name} is {tuple(tensors[name].shape)} in it and {tuple(ours[name].shape)} here; "
                "choose the backbone of the file, and its width"
            )
    target.load_state_dict({name: tensors[name] for name in ours if name in tensors}, strict=False)
    unused = [name for name in tensors if name not in ours]
    lines = [f"backbone weights of {file}: {len(wanted)} of {len(wanted)} tensors loaded"]
    if unused:
        more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
        lines.append(f"in the file, but not used: {', '.join(unused[:4])}{more}")
    return lines


def _read(file: str, place: str) -> dict[str, Tensor]:
    """Name -> tensor."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"{place}: there is no such file; nothing is downloaded")
    if path.suffix == ".safetensors":
        return read_safetensors(path, place)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        what = str(error).partition("\n")[0]
        raise ValueError(f"{place}: not a state dict of PyTorch ({what})") from error
    return _state_dict(content, place)


def read_safetensors(path: Path, place: str) -> dict[str, Tensor]:
    """Name -> tensor. ValueError, which begins with `place`, without the package or for a damaged file."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"{place}: safetensors is not installed: pip install 'detectors[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{place}: not a file of safetensors ({error})") from error


def _state_dict(content: Any, place: str) -> dict[str, Tensor]:
    """The tensors of a state dict, also of one in a training program's checkpoint or of DataParallel."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(x, Tensor) for x in content.values()):
        raise ValueError(f"{place}: not a state dict, which holds tensors by their names")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}
