"""Every command of README.md and docs/ runs, with small data and short trainings, in a copy of the project.

What cannot run here is listed with its reason, and the list is compared exactly. docs/own-data.md and
docs/coming-from.md have tests of their own, and docs/adding-a-detector.md's last commands, too.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from detectors.commands.compare.fairness import PROTOCOL_SETTINGS
from detectors.data.class_names import VOC_CLASSES
from tests.commands.convert.test_command import classifier
from tests.data.labelled import write_folder, write_idx
from tests.page_commands import PageCommand, blocks, page_commands, page_text, pages
from tests.page_files import IMAGES, NARROW, PETS, write_darknet_files, write_named_files, write_voc_set
from tests.processes import PROJECT, SETTINGS, Forks, Server
from tests.test_coming_from import NARROW_FILES
from tests.test_own_data_page import copy_of_the_project
from tests.test_page_commands import NOT_COMPOSED, hydra_words

pytestmark = pytest.mark.slow
ELSEWHERE = ("coming-from.md", "own-data.md")  # pages whose tests run them
NOT_RUN = {  # the beginning of a command: why it cannot run here
    "make": "installs an environment, or runs all tests; CI runs make lint, docs and test",
    "python -m pytest": "runs these tests",
    "pip install": "installs from a registry",
    "python train.py trainer.compile=true": "compiles for minutes; tests/training/test_compiled_step.py does",
    "tensorboard": "a server: it does not end",
    "detectors show": "a server: it does not end; tests/commands/show opens it",
    "detectors download": "downloads gigabytes; tests/commands/download has a server of its own",
    "detectors benchmark gpu": "needs a GPU",
    "detectors benchmark loss": "minutes on an idle machine; tests/commands/benchmark runs it smaller",
    "python train.py -m seed=0,1,2,3 hydra/launcher=joblib hydra.launcher.n_jobs=4 "
    "'trainer.device=cuda": "needs four GPUs",
    "python train.py 'trainer.trackers=[tensorboard,csv,wandb]'": "needs the extra wandb",
    "python train.py 'trainer.trackers=[csv,mlflow]'": "needs the extra mlflow",
    "detectors predict outputs/demo/ssd": "needs the runs of make demo",
    "detectors export outputs/demo/ssd": "needs the runs of make demo",
    "detectors predict --cfg cfg/yolo9000.cfg": "needs Darknet's files of YOLO9000",
    "detectors convert yolo9000.weights": "needs Darknet's files of YOLO9000",
    "detectors tree data/9k.tree": "needs Darknet's files of YOLO9000",
    "sbatch": "needs a cluster; tests/test_slurm.py reads the script",
    "docker": "needs Docker; tests/test_release.py reads the Dockerfile",
}
IDS = {"139": "0", "285": "1"}  # of COCO's images: of ours
BLOOD = ("Platelets", "RBC", "WBC")
ANIMALS = ("cat", "cow", "dog", "horse", "sheep", "person")
SHORT = (
    "debug=fast",
    "trainer.batch_size=2",
    "trainer.accumulate=1",
    "trainer.eval_every=0",
    "input.multi_scale.min=0",
    "input.multi_scale.max=0",
    "data.workers=0",
)
SHAPES = ("data.shapes.train=12", "data.shapes.val=4")
QUIET = ("trainer.progress=false", "trainer.device=cpu", "trainer.threads=1")
SETS = {"data=coco": "my/coco", "data=darknet": "my/set", "data=imagefolder": "my/labelled"}


def reason(command: PageCommand) -> str | None:
    """Why a command does not run here; None if it does."""
    if command.line in NOT_COMPOSED:
        return NOT_COMPOSED[command.line]
    return next((why for start, why in NOT_RUN.items() if command.line.startswith(start)), None)


def commands(page: str) -> list[PageCommand]:
    """Those that run, each once."""
    shown = page_commands(page)
    runs = [c for c in shown if not c.is_usage and "&" not in c.words and reason(c) is None]
    return list({command.line: command for command in runs}.values())


RUNNING = [page for page in pages() if page not in ELSEWHERE and commands(page)]


def named(words: list[str], folder: Path) -> list[str]:
    """The words with the test's folders in place of the reader's."""
    own = next((f"{folder}/{place}" for word, place in SETS.items() if word in words), f"{folder}/my/voc")
    names = {
        "RUN": "outputs/train/RUN",
        "IMAGE": "dog.jpg",
        "IMAGE_OR_FOLDER": "images",
        "FOLDER": "outputs/pair",
        "cat,dog": ",".join(BLOOD[:2]),
    }
    changed = []
    for word in words:
        key, equals, value = word.replace("RUN,null", "outputs/train/RUN,null").rpartition("=")
        if value == "RUN" and "outputs/train/RUN" in changed:
            value = "outputs/train/SSD"
        value = names.get(value, value).replace("/my/", f"{folder}/my/")
        value = value.replace(f"{folder}/my/set/X.data", f"{folder}/my.data").replace(f"{folder}/my/set", own)
        value = value.replace("results/coco_results.json", "coco_results.json")
        changed.append(f"{key}{equals}{IDS.get(value, value)}")
    if changed[:2] == ["convert", "outputs/train/RUN"] and changed[2].endswith(".pth"):
        changed[1] = "wide.pt"  # ssd.pytorch has no SSD of another width
    return changed


def has_width(words: list[str]) -> bool:
    """Whether the model that the words choose can be made narrow."""
    fixed = ("first_network", "model.backbone=", "torchvision_classifier", "trainer.resume=")
    return not any(part in word for word in words for part in fixed)


def small_training(words: list[str]) -> list[str]:
    if any(word.startswith("trainer.resume=") and not word.endswith("=auto") for word in words):
        return [*words, *QUIET, "trainer.steps=6"]
    short = [
        word
        for word in SHORT
        if not (word.startswith("debug=") and any(w.startswith("debug=") for w in words))
    ]
    narrow = [NARROW] if has_width(words) else []
    words = [word.replace("until: 500", "until: 1") for word in words]
    length = ["trainer.steps=2", "trainer.epochs=null", "schedule.warmup_steps=0"]
    if any(word.startswith("trainer.stop_patience=") for word in words):
        length.append("trainer.eval_every=1")
    return [*words, *short, *length, *SHAPES, *QUIET, *narrow]


def small(arguments: list[str], folder: Path) -> list[str]:
    """The arguments of `detectors` with the test's places, and a short time."""
    verb, *words = named(arguments, folder)
    if verb == "train":
        return [verb, *words] if "--cfg" in words else [verb, *small_training(words)]
    if verb == "evaluate":
        saved = any(word.startswith("detections=") for word in words)
        return [verb, *words, *([] if saved else ["device=cpu", "threads=1"]), "progress=false"]
    if verb == "duel":
        return [
            verb,
            *words,
            "trainer.steps=2",
            "trainer.eval_every=2",
            "trainer.batch_size=2",
            "schedule.warmup_steps=0",
            *SHAPES,
            NARROW,
        ]
    if verb == "find-rate":
        return [verb, *words, "--steps", "20", "trainer.batch_size=2", *SHAPES, NARROW]
    if verb == "convert" and {*NARROW_FILES, "yolov2-voc.cfg"} & set(words):
        return [verb, *words, NARROW]
    if verb == "compare":
        return [
            verb,
            *words,
            "--unfair-ok",
        ]  # earlier commands of the page changed data, budgets and evaluations
    if verb == "benchmark":
        return [verb, *words, "--repeats", "1", "--images", "4"]
    return [verb, *words]


def write_sets(folder: Path) -> None:
    write_voc_set(folder / "data/bccd", BLOOD, "train", "val", "test")
    write_voc_set(folder / "VOC2012", ANIMALS, "train", "val")
    for split in ("train", "val"):
        write_folder(folder / "my/labelled" / split, {"cat": 3, "dog": 3})
    write_idx(folder / "my/mnist")
    write_idx(folder / "data/mnist-10k")
    (folder / "results").mkdir()
    for name in VOC_CLASSES:
        lines = [f"VOC2007_test_{image} 0.9 11 11 60 70\n" for image in range(IMAGES)]
        (folder / f"results/comp4_det_test_{name}.txt").write_text("".join(lines))
    entries = [{"image_id": 0, "category_id": 1, "bbox": [10, 10, 50, 60], "score": 0.9}]
    (folder / "coco_results.json").write_text(json.dumps(entries))
    shutil.copytree(folder / "my/voc/JPEGImages", folder / "my/voc/images")


def write_weights(folder: Path) -> None:
    write_darknet_files(folder, VOC_CLASSES, "yolov2-voc")
    (folder / "voc.names").write_text("".join(f"{name}\n" for name in VOC_CLASSES))
    (folder / "pets.names").write_text("".join(f"{name}\n" for name in PETS))
    classifier(folder / "vgg16-397923af.pth")
    (folder / "weights").mkdir()
    torch.save(torchvision.models.resnet50().state_dict(), folder / "weights/resnet50-11ad3fa6.pth")
    hooks = [text for _, text in blocks(page_text("training.md")) if "\ndef " in text and "(run" in text]
    (folder / "mine.py").write_text("\n".join(hooks))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the project with everything that the pages name."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("pages"))
    (folder / "tests").mkdir()
    for name in ("__init__.py", "processes.py"):
        shutil.copy(PROJECT / "tests" / name, folder / "tests")
    write_named_files(folder)
    write_sets(folder)
    write_weights(folder)
    return folder


@pytest.fixture(scope="module")
def call(folder):
    """`detectors ARGUMENTS` in the copy -> status and output."""
    environment = {
        "PYTHONPATH": str(folder),
        "DETECTORS_DATA": str(folder / "data"),
        "DETECTORS_SHARED": str(folder),
    }
    server = Server(SETTINGS | environment, folder)
    forks = Forks(server, **environment)
    yield lambda *arguments: forks.run(*arguments, output=folder / "output.txt", folder=folder)
    forks.close()
    server.close()


def prepared(folder: Path) -> list[list[str]]:
    """Commands that make what the others need: backbones, and evaluated runs."""
    narrow = ["data=bccd", *SHORT, *QUIET, "trainer.steps=5", NARROW, "input.resize=stretch"]
    runs = {  # the last one is `latest`
        "RUN": ["model=yolov2_160"],
        "SSD": ["model=ssd160"],
        "NEWEST": ["model=yolov2_160", "seed=1"],
    }
    return [
        [
            "convert",
            "darknet19_448.conv.23",
            "data/weights/darknet19_448.pt",
            "--model",
            "yolov2",
            "--names",
            "voc",
            NARROW,
        ],
        ["convert", "ssd300_vgg16_coco-b556d3b4.pth", "wide.pt"],
        ["convert", "vgg16_reducedfc.pth", "data/weights/vgg16_reduced.pt", "--names", "voc", NARROW],
        [
            "train",
            "model=darknet19_classifier",
            "data.box_crops=0.1",
            *narrow[:-1],
            "hydra.run.dir=outputs/train/CLASSIFIER_RUN",
        ],
        *(["train", *narrow, *model, f"hydra.run.dir=outputs/train/{name}"] for name, model in runs.items()),
        *(
            ["evaluate", f"run=outputs/train/{name}", f"split={split}", "progress=false", *PROTOCOL_SETTINGS]
            for name in runs
            for split in ("val", "test")
        ),
    ]


@pytest.fixture(scope="module")
def evaluated(folder, call) -> Path:
    """The folder with evaluated runs, for all pages; `ready` restores it."""
    for arguments in prepared(folder):
        status, output = call(*arguments)
        assert status == 0, f"{arguments}\n{output}"
    runs = folder / "outputs/train"
    for source, name in (("RUN", "A"), ("SSD", "B")):
        shutil.copytree(runs / source, runs / name)
        shutil.copy(runs / name / "evaluation.json", runs / name / "evaluation_VOC_1a2b3c4d.json")
    shutil.copytree(runs / "RUN", folder / "outputs/coco")
    for name in ("RUN", "SSD"):
        shutil.copytree(runs / name, folder / "outputs/pair" / name)
    return folder


@pytest.fixture(scope="module")
def pristine(evaluated, tmp_path_factory) -> Path:
    return shutil.copytree(evaluated, tmp_path_factory.mktemp("pristine") / "copy", symlinks=True)


@pytest.fixture
def ready(evaluated, pristine) -> Path:
    """Without what the commands of another page left: at the same place, because runs hold their paths."""
    for path in evaluated.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return shutil.copytree(pristine, evaluated, symlinks=True, dirs_exist_ok=True)


def run(command: PageCommand, folder: Path, call: Callable[..., tuple[int, str]]) -> tuple[int, str]:
    hydra = hydra_words(command)
    if "torch.distributed.run" in command.words or command.words[0] == "torchrun":
        return several_processes(command, folder)
    arguments = small([hydra[0], *hydra[1]] if hydra else list(command.words[1:]), folder)
    if arguments[0] == "duel":  # a page shows several of one name
        shutil.rmtree(folder / "outputs/duel", ignore_errors=True)
    return call(*arguments)


@pytest.mark.parametrize("page", RUNNING)
def test_every_command_runs(page, ready, call):
    failed = []
    for command in commands(page):
        try:
            status, output = run(command, ready, call)
        except TimeoutError as error:
            status, output = 1, str(error)
        print(status, command.line)  # pytest -s shows how far it is
        wrong = command.answer.startswith("error: ")
        if status != (2 if wrong else 0) or (wrong and command.answer not in output):
            failed.append(f"{command.line}\n{status} {output[-1500:]}")
    assert not failed, "\n\n".join(failed)


def several_processes(command: PageCommand, folder: Path) -> tuple[int, str]:
    """With two processes on the CPU, whatever the page has."""
    program, words = hydra_words(command)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", f"{program}.py"]
    done = subprocess.run(
        [sys.executable, *launch, *small_training(named(words, folder))],
        cwd=folder,
        env={
            **SETTINGS,
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            "DETECTORS_DATA": str(folder / "data"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, f"{shlex.join(done.args)}\n{done.stdout}{done.stderr}"


def test_every_reason_is_needed():
    shown = [command for page in pages() if page not in ELSEWHERE for command in page_commands(page)]
    assert [start for start in NOT_RUN if not any(c.line.startswith(start) for c in shown)] == []
