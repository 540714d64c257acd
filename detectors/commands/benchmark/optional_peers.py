"""Programs to compare with that need not be installed: pip install 'detectors[benchmark]'."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def optional_peer(name: str) -> tuple[ModuleType | None, str]:
    """The module, or None and why it is not there."""
    try:
        return import_module(name), ""
    except ImportError as error:
        missing = error.name or str(error)
        return None, "not installed" if missing == name else f"not installed: it needs {missing}"
