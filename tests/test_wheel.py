"""The wheel, built from the source distribution, installed into a fresh virtual environment and used from an
empty folder.

The environment borrows this one's dependencies. With DETECTORS_WHEEL_INSTALL=1, as in `make release`, pip
installs the wheel with all that it depends on. (tests/test_release.py reads whether each is declared.)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import detectors
from detectors.__main__ import VERBS
from tests.data.files import box_xml, write_image, write_voc

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
CLASSES = ("Platelets", "RBC", "WBC")
CPU = ("trainer.device=cpu", "trainer.threads=1", "trainer.progress=false")


def call(folder: Path, *command: str) -> str:
    """The output of a command that must succeed, run in `folder` without this checkout's settings."""
    hidden = ("PYTHON", "DETECTORS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["OMP_NUM_THREADS"] = "1"
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def build(source: Path, folder: Path, target: str) -> Path:
    """The file that hatchling makes of a source tree. target: wheel or sdist."""
    call(source, sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder))
    (file,) = (path for path in folder.iterdir() if path.suffix in (".whl", ".gz"))
    return file


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(PROJECT, folder, "sdist")) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"detectors-{detectors.__version__}"


@pytest.fixture(scope="module")
def scripts(source, tmp_path_factory) -> Iterator[Path]:
    """bin/ of a virtual environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build(source, folder, "wheel")
    environment = folder / "venv"
    call(folder, sys.executable, "-m", "venv", str(environment))
    install = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", str(wheel)]
    if os.environ.get("DETECTORS_WHEEL_INSTALL") == "1":
        call(folder, *install, "-c", str(PROJECT / "constraints.txt"))
    else:
        call(folder, *install, "--no-deps", "--no-index")
        (packages,) = environment.glob("lib/python*/site-packages")
        (packages / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    yield environment / "bin"
    shutil.rmtree(environment)  # gigabytes, if pip installed all dependencies


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """An empty working directory."""
    return tmp_path_factory.mktemp("empty")


def objects(number: int) -> str:
    """One object of each class, of other sizes in every image."""
    corners = [(5 + 20 * place, 10, 12 + 20 * place + number, 30 + 3 * number) for place in range(3)]
    return "".join(box_xml(name, *box) for name, box in zip(CLASSES, corners, strict=True))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    """A data set of eight images in VOC's layout, with the classes of the blood cells."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val", "test"):
        images = {f"{split}{number}": objects(number) for number in range(8)}
        write_voc(root, images, split=split)
    return root


def test_the_source_distribution_holds_what_git_holds(source, tmp_path):
    """Code, tests and pages, and no more; the wheel that is built from it is the checkout's."""
    tracked = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is not a git checkout")
    files = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert files - {"PKG-INFO"} == set(tracked.stdout.split())
    wheels = [build(place, tmp_path / place.name, "wheel") for place in (source, PROJECT)]
    first, second = (
        {name: file.read(name) for name in file.namelist()} for file in map(zipfile.ZipFile, wheels)
    )
    assert first == second
    assert {"detectors/py.typed", "detectors/conf/train.yaml"} <= first.keys()


def test_the_package_comes_from_the_wheel(scripts, empty):
    place = call(empty, str(scripts / "python"), "-c", "import detectors; print(detectors.__file__)")
    assert Path(place.strip()).is_relative_to(scripts.parent)


def test_the_page_of_show_comes_with_the_package(scripts, empty):
    code = "from detectors.commands.show.page_server import PAGE; print(PAGE.read_text())"
    assert "</html>" in call(empty, str(scripts / "python"), "-c", code)


def test_every_verb_answers(scripts, empty):
    overview = call(empty, str(scripts / "detectors"), "--help")
    verbs = [line.split()[0] for line in overview.splitlines() if line.startswith("  ")]
    assert verbs == list(VERBS)
    for verb in verbs:
        help_text = call(empty, str(scripts / "detectors"), verb, "--help")
        assert verb in help_text
    assert call(empty, str(scripts / "python"), "-m", "detectors", "--help") == overview
    assert call(empty, str(scripts / "detectors"), "--version") == f"detectors {detectors.__version__}\n"


def test_lint_and_cluster_compose_configuration(scripts, empty, data_root):
    choice = ("data=voc", f"data.root={data_root}")
    assert "8 images" in call(empty, str(scripts / "detectors"), "lint", *choice)
    assert "recall" in call(empty, str(scripts / "detectors"), "cluster", *choice, "model=yolov2_tiny")


def test_a_recipe_is_trained_evaluated_and_used(scripts, empty, data_root):
    """Everything is written below the working directory."""
    detectors = str(scripts / "detectors")
    recipe = ("experiment=bccd_yolov2_tiny", "debug=fast", f"data.root={data_root}", "model.width=0.125")
    call(empty, detectors, "train", *recipe, *CPU, "hydra.run.dir=run")
    call(empty, detectors, "evaluate", "run=run", "split=test", "threads=1", "progress=false")
    out = call(empty, detectors, "predict", "run", str(data_root / "JPEGImages/val0.jpg"), "--score", "0.001")
    assert f"pictures: {empty / 'outputs/predict'}" in out
    written = {path.relative_to(empty).parts[0] for path in empty.rglob("*") if path.is_file()}
    assert written <= {"run", "outputs", ".cache"}
    assert (empty / "run/evaluation_test.json").is_file()
    assert (empty / "outputs/predict/val0.png").is_file()


def test_the_examples_of_the_api_page_run(scripts, tmp_path):
    """On a run that the wheel's own `detectors train` made."""
    shapes = ("debug=fast", "data.shapes.train=12", "data.shapes.val=4")
    call(tmp_path, str(scripts / "detectors"), "train", *shapes, *CPU, "hydra.run.dir=RUN")
    images = tmp_path / "FOLDER"
    write_image(images / "a.png", (60, 80))
    write_image(images / "b.png", (80, 60))
    report = call(tmp_path, str(scripts / "python"), "-m", "doctest", "-v", str(PROJECT / "docs/api.md"))
    assert "0 failed" in report and "Test passed." in report
