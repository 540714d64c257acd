"""Filling a network with tensors that were made for it, or nearly: what was loaded, what was left, and why, parameter by parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

ABSENT = "not in the file"


@dataclass
class Transfer:
    """state: all parameters and buffers of ours, the loaded ones replaced. The rest says what became of each name."""

    state: dict[str, Tensor]
    loaded: dict[str, str] = field(default_factory=dict)  # our name -> where it came from
    left: dict[str, str] = field(default_factory=dict)  # our name -> why it keeps its initialisation
    unused: dict[str, str] = field(default_factory=dict)  # name in the file -> why nothing takes it

    def lines(self) -> Iterator[str]:
        """The report: one line for each parameter of ours, then for each unused tensor of the file."""
        wide = max(map(len, self.state), default=0)
        for name, tensor in self.state.items():
            what = f"from {self.loaded[name]}" if name in self.loaded else f"initialised: {self.left[name]}"
            yield f"{name:{wide}}  {shape_of(tensor):>20}  {what}"
        for name, why in self.unused.items():
            yield f"{name:{wide}}  {'':>20}  not used: {why}"

    def summary(self) -> Iterator[str]:
        """Counts, and the names of what was not simply loaded, the reasons joined."""
        yield f"{len(self.loaded)} of {len(self.state)} tensors loaded"
        for verb, names in (("initialised anew", self.left), ("in the file, but not used", self.unused)):
            for why in dict.fromkeys(names.values()):
                same = [name for name, reason in names.items() if reason == why]
                yield f"{verb}: {', '.join(same[:4])}{f' and {len(same) - 4} more' if len(same) > 4 else ''} ({why})"


def fit_tensors(
    ours: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    where: str,
    twin: Mapping[str, Tensor],
    origins: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Transfer:
    """ours: a state dict to be filled; it is not changed. found: tensors of a file under our names; origins: the file's own names, for
    the report. twin: the state dict of the same network with the file's number of classes; a tensor that fits only the twin is left.

    ValueError names the first tensor that fits neither, with both shapes; with partial=True that one is left, too. Absent ones are left.
    """
    transfer = Transfer(dict(ours))
    for name, tensor in ours.items():
        given = found.get(name)
        if given is None:
            transfer.left[name] = ABSENT
        elif given.shape == tensor.shape:
            transfer.state[name] = given.detach().to(tensor.dtype).clone()
            transfer.loaded[name] = (origins or {}).get(name, "the same name")
        elif name in twin and given.shape == twin[name].shape:
            transfer.left[name] = "its size depends on the number of classes"
        elif partial:
            transfer.left[name] = "the file's has another size"
        else:
            fits = f"{len(transfer.loaded)} of {len(ours)} tensors before it fit"
            raise ValueError(
                f"{where}: {name} is {shape_of(tensor)} here and {shape_of(given)} in the file ({fits}): another network, "
                "or another width or input size of it; choose the model that the file was made for, or load what fits with --partial"
            )
    return transfer


def shape_of(tensor: Tensor) -> str:
    """64x3x3x3; 'number' for a single one."""
    return "x".join(map(str, tensor.shape)) or "number"
