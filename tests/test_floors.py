"""The layout, read from the imports: a module imports lower floors only, and some packages have one place."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "detectors"

# Module or folder -> floor. A module may import lower floors and its own folder.
FLOORS = {
    "boxes": 0,
    "annotations": 0,
    "structures": 0,
    "tables": 0,
    "anchors": 1,
    "coders": 1,
    "matching": 1,
    "layers": 1,
    "wordtree": 1,
    "kernels": 1,
    "targets": 2,
    "losses": 2,
    "postprocess": 2,
    "models": 3,
    "data": 3,
    "metrics": 3,
    "darknet": 4,
    "config": 4,
    "drawing": 4,
    "training": 5,
    "commands": 6,
    "__main__": 7,
    "train": 7,
    "evaluate": 7,
}
APART = [
    {"models", "data", "metrics"},
    {"darknet", "config", "drawing"},
]  # on one floor, and none imports another
BETWEEN_VERBS = {
    ("benchmark", "cluster"),  # benchmark times the search of cluster
    ("duel", "compare"),  # a duel ends with the comparison
    ("show", "predict"),  # show frames images and runs networks as predict does
    ("replay", "train"),  # replay repeats steps of a run that train builds
    ("predict", "download"),  # predict fetches addresses through the same proxies
}
PLACES = {
    "hydra": {"config", "commands", "train", "evaluate"},
    "omegaconf": {"config", "commands", "train", "evaluate"},
    "albumentations": {"data.augment"},
    "matplotlib": {"commands.cluster.plotting", "commands.find_rate.rate_plot", "commands.compare.plots"},
    "pycocotools": {"metrics.coco_reference"},
    "tensorboard": {"training.tensorboard_log", "training.crc32c"},
    "torch.utils.tensorboard": {"training.tensorboard_log"},
    "torch.distributed": {"training.distributed"},
    "triton": {"kernels"},
    "timm": {"models.backbones"},
    "safetensors": {"training.initial.weight_files"},
    "onnx": {"commands.export"},
    "onnxruntime": {"commands.export", "models.exported"},
}


def modules() -> dict[str, Path]:
    """Dotted name below detectors -> file, and the two scripts."""
    found = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    scripts = {name: PROJECT / f"{name}.py" for name in ("train", "evaluate")}
    return {name: path for name, path in {**found, **scripts}.items() if not name.endswith("__init__")}


def imports(source: str) -> set[str]:
    """Every module that a source imports, also within functions. `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides from this test: write detectors.x"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def room(name: str) -> str:
    """The top-level folder or module below detectors, or the script."""
    return name.partition(".")[0]


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def verb_of(name: str) -> str | None:
    """commands.lint.page -> lint"""
    return name.split(".")[1] if below(name, "commands") and "." in name else None


def faults(name: str, source: str) -> list[str]:
    """What a module does against the layout."""
    if room(name) not in FLOORS:
        return [f"{name} has no floor: add it to FLOORS here and to the layout in README.md"]
    named = imports(source)
    inside = {module.removeprefix("detectors.") for module in named if module.startswith("detectors.")}
    rooms = sorted({room(other) for other in inside} & FLOORS.keys() - {room(name)})
    found = [
        f"{name} (floor {FLOORS[room(name)]}) imports {other} (floor {FLOORS[other]})"
        for other in rooms
        if _upward(room(name), other)
    ]
    mine = verb_of(name)
    others = sorted({verb_of(other) for other in inside} - {None, mine})
    found += [
        f"the verb {mine} imports the verb {other}"
        for other in others
        if mine and (mine, other) not in BETWEEN_VERBS
    ]
    strangers = [package for package in PLACES if any(below(module, package) for module in named)]
    return found + [
        f"{name} imports {p}" for p in strangers if not any(below(name, place) for place in PLACES[p])
    ]


def _upward(name: str, other: str) -> bool:
    return FLOORS[other] > FLOORS[name] or any({name, other} <= rooms for rooms in APART)


@pytest.mark.parametrize("name", modules())
def test_imports_go_down(name):
    assert faults(name, modules()[name].read_text()) == []


def test_no_cycles():
    """Within a floor, too: modules can be sorted so that each imports only earlier ones."""
    sources = modules()
    needs = {
        name: {m.removeprefix("detectors.") for m in imports(path.read_text())} & sources.keys()
        for name, path in sources.items()
    }
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"these import each other in a circle: {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in free}


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("boxes", "from detectors import losses", "boxes (floor 0) imports losses (floor 2)"),
        (
            "models.ssd",
            "from detectors.data.voc import read_voc",
            "models.ssd (floor 3) imports data (floor 3)",
        ),
        ("losses", "def f():\n    import hydra.utils", "losses imports hydra"),
        (
            "training.engine",
            "from torch.utils.tensorboard import SummaryWriter",
            "training.engine imports torch.utils.tensorboard",
        ),
        ("data.voc", "import albumentations", "data.voc imports albumentations"),
        ("training.engine", "from torch import distributed", "training.engine imports torch.distributed"),
        (
            "commands.lint.page",
            "import detectors.commands.browse.command",
            "the verb lint imports the verb browse",
        ),
        ("attic", "", "attic has no floor: add it to FLOORS here and to the layout in README.md"),
    ],
)
def test_faults_are_found(name, source, fault):
    assert faults(name, source) == [fault]


def test_every_listed_module_is_there():
    """So that the list does not outlive the layout."""
    assert set(FLOORS) == {room(name) for name in modules()}


def test_at_most_23_names_at_the_top():
    """So that a reader sees the detector, stage by stage, and one door for each of the rest.

    The 23rd is wordtree: losses, postprocess, models, darknet and data all need YOLO9000's tree of classes,
    so it stands below them and is part of none.
    """
    unread = {"__pycache__", "py.typed"}
    assert len([path for path in PACKAGE.iterdir() if path.name not in unread]) <= 23


def test_training_needs_of_darknet_only_what_reads_its_weights():
    """What detectors/commands/train.py imports, all the way down: init.from takes .weights files."""
    sources, reached, names = modules(), set(), ["commands.train"]
    while names:
        name = names.pop()
        if name in sources and name not in reached:
            reached.add(name)
            names += [module.removeprefix("detectors.") for module in imports(sources[name].read_text())]
    assert "training.engine" in reached
    darknet = {name for name in reached if room(name) == "darknet"}
    readers = {"cfg", "network", "region", "section_files", "sections", "syntax", "weights"}
    assert darknet == {f"darknet.{name}" for name in readers}


def test_five_files_from_train_to_a_loss_term():
    """What a reader opens, and the call in each file that leads to the next."""
    calls = {
        "train": "detectors.commands.train.main",
        "commands.train": "engine.train(run)",
        "training.engine": "run.task.step(batch, ",
        "training.detection": "detector.loss(outputs, encoded, grid)",
        "losses.region_loss": "class RegionLoss",
    }
    assert len(calls) == 5
    for name, call in calls.items():
        assert call in modules()[name].read_text(), name


SHARED_NAMES = {
    "command",  # the module of a verb, in each verb's package
    "options",  # the module and the function of its options
    "main",  # the entry of each verb
    "logger",
    "coco",  # the module that reads COCO's format, and the one that evaluates as COCO does
    "voc",
    "train",  # the verb, and the loop that it calls
}


def test_each_public_name_means_one_thing():
    """Modules, classes, functions and constants: one name, one place. A module may hold its namesake."""
    places: dict[str, set[str]] = {}
    for name, path in modules().items():
        if name in ("train", "evaluate", "__main__"):
            continue
        places.setdefault(name.rpartition(".")[2], set()).add(name)
        for node in ast.parse(path.read_text()).body:
            for defined in _defined(node):
                places.setdefault(defined, set()).add(name)
    shared = {
        name: sorted(where) for name, where in places.items() if len(where) > 1 and not name.startswith("_")
    }
    assert {name: where for name, where in shared.items() if name not in SHARED_NAMES} == {}


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]


def test_init_files_hold_a_docstring_only():
    for path in set(PACKAGE.rglob("__init__.py")) - {PACKAGE / "__init__.py"}:  # that one is the public door
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert isinstance(body[0].value, ast.Constant), path
