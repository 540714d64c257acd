"""What a release consists of: one version, declared dependencies, the files for containers and notebooks."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import detectors
from detectors import __main__ as entry
from tests.forked import PROJECT

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PYPROJECT["dependencies"]]
EXTRAS = {Requirement(line).name for lines in PYPROJECT["optional-dependencies"].values() for line in lines}
# A distribution -> the declared one that brings it in any case.
BROUGHT = {"omegaconf": "hydra-core", "triton": "torch", "protobuf": "tensorboard"}
# Modules that their command imports when it needs them: they may import packages of an extra.
OPTIONAL = ("onnx_export.py", "onnx_suppression.py", "quantization.py")
DOCKERFILE = PROJECT / "docs/Dockerfile"
COLAB = PROJECT / "docs/colab.py"


def test_the_version_is_everywhere_the_same(capsys):
    assert re.fullmatch(r"\d+\.\d+\.\d+", detectors.__version__)
    entry.main(["--version"])
    assert capsys.readouterr().out == f"detectors {detectors.__version__}\n"
    newest = re.search(r"^## (\S+) \((\S+)\)$", (PROJECT / "docs/CHANGELOG.md").read_text(), re.MULTILINE)
    cited = yaml.safe_load((PROJECT / "docs/CITATION.cff").read_text())
    assert (newest[1], date.fromisoformat(newest[2])) == (cited["version"], cited["date-released"])
    assert cited["version"] == detectors.__version__
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["license"] == PYPROJECT["license"]


def test_the_changes_name_every_command():
    text = (PROJECT / "docs/CHANGELOG.md").read_text()
    assert [verb for verb in entry.VERBS if f"`{verb}`" not in text] == []


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """(top-level package, whether importing the file imports it) of each import of others' packages."""
    tree = ast.parse(path.read_text())
    lazy = {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.If, ast.Try))
        for inner in ast.walk(outer)
    }
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"detectors"}:
            yield name, node not in lazy


@pytest.mark.parametrize("path", sorted((PROJECT / "detectors").iterdir()), ids=lambda path: path.name)
def test_every_import_is_a_declared_dependency(path):
    """A package that an import needs is a dependency; one that only some commands need may be an extra's."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path] * (path.suffix == ".py")
    needed = {canonicalize_name(requirement.name) for requirement in REQUIRED}
    allowed = needed | {canonicalize_name(name) for name in EXTRAS}
    homes = packages_distributions()
    for file in files:
        for package, always in imported(file):
            names = {canonicalize_name(name) for name in homes.get(package, [package])}
            names |= {BROUGHT[name] for name in names & BROUGHT.keys()}
            assert names & (needed if always and file.name not in OPTIONAL else allowed), f"{file}: {package}"


def test_the_lowest_versions_are_those_that_are_tested():
    """.ci/lowest.txt pins the floor of each dependency, or the first release that the floor allows."""
    lines = (PROJECT / ".ci/lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in REQUIRED:
        pin = pins[canonicalize_name(requirement.name)]
        (floor,) = [each.version for each in requirement.specifier if each.operator == ">="]
        assert pin == floor or re.fullmatch(re.escape(floor) + r"(\.0)*(\.\d+)?", pin), requirement
        assert requirement.specifier.contains(pin)


def test_git_holds_nothing_else_at_the_top():
    """So that no run's or test's files get there by accident."""
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is not a git checkout")
    top = {name.partition("/")[0] for name in tracked.stdout.splitlines()}
    folders = {"detectors", "conf", "tests", "docs", ".ci"}
    files = {
        "pyproject.toml",
        "constraints.txt",
        "train.py",
        "evaluate.py",
        "README.md",
        "Makefile",
        "LICENSE",
    }
    assert top == folders | files | {".gitignore", ".mkdocs.yml"}


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest of its line) of the Dockerfile."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def copied() -> list[tuple[str, str]]:
    """(source in the checkout, target) of each COPY."""
    pairs = []
    for instruction, rest in instructions():
        if instruction == "COPY":
            *sources, target = rest.split()
            pairs += [(source, f"{target}{source}" if target.endswith("/") else target) for source in sources]
    return pairs


def test_the_image_is_built_from_what_it_copies(tmp_path):
    """The package builds from the copied files alone, and nothing of them is hidden by the ignore file."""
    ignore = [
        line for line in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines() if line
    ]
    shown = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert "*" in ignore and shown == {source for source, _ in copied()}
    for source, target in copied():
        assert (PROJECT / source).exists(), source
        (tmp_path / target).symlink_to(PROJECT / source)
    (pip,) = [rest for instruction, rest in instructions() if rest.startswith("pip install")]
    options = pip.split()
    assert (tmp_path / options[options.index("-c") + 1]).is_file() and options[-1] == "."
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "dist").glob("*.whl"))


def test_the_image_starts_the_command():
    last = dict(instructions())
    assert yaml.safe_load(last["ENTRYPOINT"])[0] in PYPROJECT["scripts"]
    version = re.fullmatch(r"python:(3\.\d+)-slim", last["FROM"])[1]
    assert f"python{version}" in (PROJECT / ".ci/compatibility").read_text()
    assert instructions()[0][0] == "FROM"
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions()} == known


def test_every_cell_of_the_notebook_is_whole():
    """Python on its own: a notebook runs cell by cell."""
    cells = re.split(r"^# %%", COLAB.read_text(), flags=re.MULTILINE)[1:]
    assert len(cells) == 5
    for cell in cells:
        compile("#" + cell, COLAB.name, "exec")


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    small = ["debug=fast", "data.shapes.train=12", "data.shapes.val=4", "trainer.device=cpu"]
    done = subprocess.run(
        [sys.executable, str(COLAB), *small], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = {path.relative_to(tmp_path / "outputs/colab").as_posix() for path in tmp_path.rglob("*.*")}
    assert {"yolov2_160/best.pt", "ssd160/evaluation.json", "comparison.html", "found.png"} <= written
    assert not [name for name in os.listdir(tmp_path) if not fnmatch(name, "outputs")]


@pytest.mark.slow
def test_types_are_right(tmp_path):
    """mypy of pyproject.toml's files, `make types`; among them a program that uses the public names."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
