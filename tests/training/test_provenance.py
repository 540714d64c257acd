"""What a run was computed with."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from detectors.training import provenance


def test_versions_name_all_that_computes():
    lines = dict(line.split(": ", 1) for line in provenance.versions(torch.device("cpu")).splitlines())
    assert list(lines) == ["python", "platform", *provenance.PACKAGES, "device"]
    assert lines["python"] == ".".join(map(str, sys.version_info[:3]))
    assert torch.__version__.startswith(lines["torch"]) and lines["numpy"] == np.__version__
    assert "unknown" not in lines.values()
    assert re.fullmatch(r"cpu, \d+ threads", lines["device"])


def test_a_package_that_is_not_there(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package-here",))
    assert "no-such-package-here: unknown" in provenance.versions(torch.device("cpu"))


def test_the_commit_is_that_of_the_code(monkeypatch):
    if (provenance.PACKAGE.parent / ".git").exists():
        head = subprocess.run(
            ["git", "-C", provenance.PACKAGE, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout
        described = provenance.commit().removesuffix("-dirty")
        assert head.startswith(described.rpartition("-g")[2])
    monkeypatch.setattr(provenance, "INSTALLED", True)
    assert provenance.commit() == "unknown"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_without_git_there_is_no_commit(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.commit() == "unknown"
