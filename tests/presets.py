"""The losses of conf/loss, built."""

from __future__ import annotations

import functools

from detectors.building import build
from tests.test_configs import checked


@functools.cache
def settings_of(name: str) -> dict:
    """What `loss=NAME` comes to."""
    return checked(*(["model=ssd160"] if name.startswith("multibox") else []), f"loss={name}").loss


def preset(name: str, **changes):
    """The loss of a preset, with some settings changed."""
    return build({**settings_of(name), **changes})
