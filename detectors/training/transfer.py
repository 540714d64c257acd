"""Fills a network with tensors of the same or a similar one, and reports which were loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

ABSENT = "not in the file"


@dataclass
class Transfer:
    """state: all parameters and buffers of our network, with the loaded ones replaced."""

    state: dict[str, Tensor]
    loaded: dict[str, str] = field(default_factory=dict)  # our name -> where it came from
    partly: dict[str, str] = field(default_factory=dict)  # our name -> which of its rows were loaded
    left: dict[str, str] = field(default_factory=dict)  # our name -> why it keeps its initialisation
    unused: dict[str, str] = field(default_factory=dict)  # name in the file -> why it is not used

    def lines(self) -> Iterator[str]:
        """One line for each of our tensors, then one for each unused tensor of the file."""
        width = max(map(len, self.state), default=0)
        for name, tensor in self.state.items():
            yield f"{name:{width}}  {shape_of(tensor):>20}  {self._origin(name)}"
        for name, reason in self.unused.items():
            yield f"{name:{width}}  {'':>20}  not used: {reason}"

    def _origin(self, name: str) -> str:
        if name in self.loaded:
            return f"from {self.loaded[name]}"
        return f"in part: {self.partly[name]}" if name in self.partly else f"initialised: {self.left[name]}"

    def summary(self) -> Iterator[str]:
        """Counts, then the names of all other tensors, grouped by reason."""
        yield f"{len(self.loaded)} of {len(self.state)} tensors loaded"
        yield from _by_reason("loaded in part", self.partly)
        yield from _by_reason("initialised anew", self.left)
        yield from _by_reason("in the file, but not used", self.unused)


def _by_reason(title: str, reasons: Mapping[str, str]) -> Iterator[str]:
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name in reasons if reasons[name] == reason]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield f"{title}: {', '.join(names[:4])}{more} ({reason})"


def fit_tensors(
    ours: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    twin: Mapping[str, Tensor],
    origins: Mapping[str, str] | None = None,
    partial: bool = False,
) -> Transfer:
    """A copy of the state dict `ours`, with the tensors that fit. The others keep their initialisation.

    tensors: a file's, under our names. origins: our name -> the file's, for the report. where: for errors.
    twin: the state dict of the same network with the file's number of classes.
    ValueError names the first tensor of the file that fits neither `ours` nor `twin`, and both shapes,
    unless partial=True; and the first that holds integers where ours does not.
    """
    transfer = Transfer(dict(ours))
    for name, tensor in ours.items():
        source = tensors.get(name)
        if source is None:
            transfer.left[name] = ABSENT
            continue
        if source.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{where}: {name} is {source.dtype} in the file and {tensor.dtype} here")
        if source.shape == tensor.shape:
            transfer.state[name] = source.detach().to(tensor.dtype).clone()
            transfer.loaded[name] = (origins or {}).get(name, "the same name")
        elif name in twin and source.shape == twin[name].shape:
            transfer.left[name] = "its size depends on the number of classes"
        elif partial:
            transfer.left[name] = "the file's has another size"
        else:
            raise ValueError(
                f"{where}: {name} is {shape_of(tensor)} here and {shape_of(source)} in the file "
                f"({len(transfer.loaded)} of {len(ours)} tensors before it fit): this is another network, or "
                "another width or input size; choose the model of the file, or load what fits with --partial"
            )
    return transfer


def shape_of(tensor: Tensor) -> str:
    """'64x3x3x3', or 'number' for a scalar."""
    return "x".join(map(str, tensor.shape)) or "number"
