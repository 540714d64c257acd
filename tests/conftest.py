"""Fixtures that many tests share."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's interpreter runs the kernels. Triton reads the variable at its import, by torchvision too.
    os.environ.setdefault("TRITON_INTERPRET", "1")

REQUIRED = os.environ.get("DETECTORS_REQUIRE_SHARED") == "1"  # set by .ci/run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, weights and broken files; a test that asks for it must carry the marker
    `data`.
    """
    folder = os.environ.get("DETECTORS_SHARED")
    if not folder:
        pytest.skip("DETECTORS_SHARED is not set: the test needs real images that are not in the repository")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The number fixtures in the repository."""
    return Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """Starts commands as processes of their own, fast: processes.Forks."""
    from tests.processes import Forks  # it imports much

    forks = Forks(DETECTORS_CACHE=str(tmp_path_factory.mktemp("cache")))
    yield forks
    forks.close()


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The CPU leaves out no work, as if it had to wait for a number."""
    from detectors.kernels import packing  # it imports much

    monkeypatch.setattr(packing, "PACKED", frozenset())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """CI has the folder: there, a skipped test of real images is a failure, not a test that nobody misses."""
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("data"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped although DETECTORS_REQUIRE_SHARED=1: {call.excinfo.value}"
        )
    return report
