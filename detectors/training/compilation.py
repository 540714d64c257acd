"""trainer.compile: the training step as one graph of torch.compile.

There is one graph for each input size. The number of boxes in a batch is a variable of the graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from detectors.structures import Targets

BACKEND = "inductor"
GRAPH_COLUMNS = 16  # a CUDA graph has numbers of boxes that are multiples of this


def compile_step(step: nn.Module, device: torch.device, *, sizes: int, cuda_graphs: bool = False) -> None:
    """Compiles a module's calls in place, so that the names in its state dict stay. sizes: of its inputs.

    cuda_graphs: a GPU replays the kernels of a pass with one launch. What a call returns is then overwritten
    by the next one. It does nothing on a CPU.
    ValueError, with the reason, if PyTorch cannot compile on this machine.
    """
    torch.compiler.reset()  # graphs of an earlier run in this process count towards the limit below
    try:
        torch.compile(lambda x: x + 1, backend=BACKEND)(torch.zeros(8, device=device))
    except Exception as error:  # a compiler, its headers or Triton: each missing one raises something else
        raise ValueError(
            f"trainer.compile=true: PyTorch cannot compile for {device.type} on this machine "
            f"({_reason(error)}); install a C++ compiler such as g++, or set trainer.compile=false"
        ) from error
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, sizes)
    mode = "reduce-overhead" if cuda_graphs else None
    step.compile(fullgraph=True, dynamic=False, backend=BACKEND, mode=mode)


def _reason(error: BaseException) -> str:
    """The first line of the error within PyTorch's."""
    error = getattr(error, "inner_exception", error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def with_variable_count(targets: Targets, multiple: int = 1) -> Targets:
    """The same targets, with at least two columns of padding or boxes, and their number marked as a variable.

    Without the mark, each number of boxes would be compiled anew; 0 and 1 always are. multiple: of columns;
    a CUDA graph is recorded for each of their numbers.
    """
    count = targets.labels.shape[1]
    missing = -(-max(2, count) // multiple) * multiple - count
    boxes = F.pad(targets.boxes, (0, 0, 0, missing))
    labels = F.pad(targets.labels, (0, missing))
    valid = F.pad(targets.valid, (0, missing))
    for tensor in (boxes, labels, valid):
        torch._dynamo.mark_dynamic(tensor, 1)
    return Targets(boxes, labels, valid, targets.image_labels)
