"""Watches one training step from within: what is not finite first, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from detectors.structures import Targets
from detectors.training.nonfinite import not_finite


class StepWatch:
    """Hooks in a training step and its modules. `data`, `forward`, `backward`: the first finding of each.

    Modules end innermost first, so the first one whose output is not finite is the smallest. Gradients are
    watched at parameters, and at the inputs and outputs of modules without parts. In a healthy step all of
    these are finite (tests/commands/replay). A module is named as in the checkpoint.
    """

    def __init__(self, step: nn.Module, images: Sequence[Sequence[str]]):
        """images: their paths, a list for each batch of the step."""
        self.images = images
        self.batch = 0  # from 1
        self.data: str | None = None
        self.forward: str | None = None
        self.backward: str | None = None
        self.bad_batch: int | None = None  # of the first finding
        # (id, version) of a tensor -> the tensor, so that the id stays its own, and where it goes
        self._places: dict[tuple[int, int], tuple[Tensor, dict[str, str]]] = {}
        step.register_forward_pre_hook(self._begin)
        for name, module in step.named_modules():
            self._follow(name.removeprefix("detector.").removeprefix("classifier."), module)

    def _begin(self, step: nn.Module, inputs: tuple) -> None:
        self.batch += 1
        self._places.clear()
        targets = inputs[1]
        if not isinstance(targets, Targets):  # labels are whole numbers
            return
        boxes = targets.boxes
        for image, row in (~boxes.isfinite()).any(-1).nonzero().tolist():
            numbers = ", ".join(f"{number:g}" for number in boxes[image, row].tolist())
            self._note("data", f"box {row + 1} of {self.images[self.batch - 1][image]}: {numbers}")

    def _note(self, kind: str, text: str) -> None:
        if getattr(self, kind) is None:
            setattr(self, kind, text)
            self.bad_batch = self.bad_batch or self.batch

    def _follow(self, name: str, module: nn.Module) -> None:
        title = f"{name} ({type(module).__name__})" if name else "the whole step"
        leaf = not any(module.children())

        def before(module: nn.Module, inputs: tuple) -> None:
            for tensor in tensors_in(inputs) if leaf else ():
                self._watch(tensor, "into", title)

        def after(module: nn.Module, inputs: tuple, output: Any) -> None:
            if any_not_finite(output):
                self._note("forward", f"the output of {title}{_circumstances(module, inputs)}")
            for tensor in tensors_in(output) if leaf else ():
                self._watch(tensor, "out of", title)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
        for own, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                text = f"the backward pass of {title}: the gradient of its {own}"
                parameter.register_hook(self._note_gradient(lambda text=text: text))

    def _watch(self, tensor: Tensor, side: str, title: str) -> None:
        """side: whether the tensor goes into a module or comes out of it. It may do both."""
        if not tensor.requires_grad:
            return
        key = (id(tensor), tensor._version)  # an in-place operation makes another value of it
        if key not in self._places:
            places: dict[str, str] = {}
            self._places[key] = (tensor, places)
            tensor.register_hook(self._note_gradient(lambda: _backward_text(places)))
        self._places[key][1][side] = title

    def _note_gradient(self, text: Callable[[], str]) -> Callable[[Tensor], None]:
        def note(gradient: Tensor) -> None:
            if self.backward is None and any_not_finite(gradient):
                self._note("backward", text())

        return note


def _backward_text(places: dict[str, str]) -> str:
    if "into" in places:
        return f"the backward pass of {places['into']}: the gradient of its input"
    return f"the backward pass of what follows {places['out of']}: the gradient of its output"


def _circumstances(module: nn.Module, inputs: tuple) -> str:
    """Whether what the module computed its output from was finite."""
    own = not_finite(dict(module.named_parameters()) | dict(module.named_buffers()))
    held = f", its {', '.join(own)} not" if own else ", and so are its weights"
    if any_not_finite(inputs):
        return "; its input is not finite either"
    return f"; its input is finite{held}"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All floating tensors in nested dicts, lists, tuples and dataclasses."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])


def any_not_finite(value: Any) -> bool:
    return any(not tensor.isfinite().all() for tensor in tensors_in(value))
