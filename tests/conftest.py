"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, weights and broken files; a test that asks for it must carry the marker `data`."""
    folder = os.environ.get("DETECTORS_SHARED")
    if not folder:
        pytest.skip("DETECTORS_SHARED is not set: the test needs real images that are not in the repository")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The number fixtures in the repository."""
    return Path(__file__).parent / "fixtures"
