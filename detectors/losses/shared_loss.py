"""What the losses share: the count of a batch over processes, and the check of a choice."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class SharedLoss(nn.Module):
    """A loss of a batch that several processes may share; by default it is one process's own.

    processes: how many they are. average: a count of this process -> its mean over the processes; None: the
    count itself. An n that is such a mean belongs to the whole batch: the mean of the processes' losses is
    then the loss of the whole batch. Out of training, each process has batches of its own.
    """

    processes: int = 1
    average: Callable[[Tensor], Tensor] | None = None

    def _shared(self, count: Tensor) -> Tensor:
        return count if self.average is None or not self.training else self.average(count)


def check_choice(name: str, value: str, **choices: str) -> None:
    """ValueError unless value is one of the choices. choices: value -> where it comes from."""
    if value not in choices:
        listed = " or ".join(f"{choice!r} ({owner})" for choice, owner in choices.items())
        raise ValueError(f"{name}={value!r}: choose {listed}")
