"""The names of devices that can be chosen."""

from __future__ import annotations

import re

from detectors.data.suggestions import did_you_mean

DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d+)?")
OTHER_NAMES = re.compile(r"(?:gpu:?)?(\d*)", re.IGNORECASE)  # gpu, gpu:1 and 1, as other programs call them


def device_problem(name: str) -> str | None:
    """What is wrong with the name of a device; None for auto, cpu, cuda and cuda:N."""
    if DEVICE_NAME.fullmatch(name):
        return None
    hint = did_you_mean(name, ("auto", "cpu", "cuda"))
    if name and (match := OTHER_NAMES.fullmatch(name)):
        hint = f"; did you mean {':'.join(filter(None, ('cuda', match[1])))}?"
    return f"must be one of auto, cpu, cuda, cuda:0, cuda:1, ...{hint}"
