"""The layout, read from the imports: a module imports lower floors only, and some packages stay in their place."""

import ast
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "detectors"

# Module or folder -> floor. A module may import lower floors, and its neighbours on the same one where they are of one family.
FLOORS = {
    "boxes": 0,
    "structures": 0,
    "anchors": 1,
    "coders": 1,
    "matching": 1,
    "layers": 1,
    "targets": 2,
    "losses": 2,
    "sharing": 2,
    "postprocess": 2,
    "drawing": 2,
    "plotting": 2,
    "clustering": 2,
    "models": 3,
    "data": 3,
    "metrics": 3,
    "weights": 3,
    "building": 4,
    "config": 4,
    "checking": 4,
    "darknet_detector": 4,
    "entry": 4,
    "optim": 4,
    "checkpoint": 4,
    "progress": 4,
    "torchvision_pipelines": 4,
    "tracking": 4,
    "conversion": 5,
    "downloads": 5,
    "engine": 5,
    "linting": 5,
    "matched_anchors": 5,
    "parts": 5,
    "verification": 5,
    "benchmark": 6,
    "browse": 6,
    "cluster": 6,
    "compare": 6,
    "convert": 6,
    "download": 6,
    "lint": 6,
    "predict": 6,
    "verify": 6,
    "train": 7,
    "evaluate": 7,
}
FAMILIES = {"models", "data", "metrics", "weights"}  # floor 3: these never import each other
PLACES = {
    "hydra": {"config", "checking", "entry", "train", "evaluate", "floor 6"},
    "omegaconf": {"config", "checking", "entry", "train", "evaluate", "floor 6"},
    "albumentations": {"data.transforms"},
    "matplotlib": {"plotting"},
    "pycocotools": {"data.coco", "metrics.coco"},
    "tensorboard": {"tracking"},
    "torch.utils.tensorboard": {"tracking"},
    "torch.distributed": {"distributed"},
    "triton": {"kernels"},
}


def modules() -> dict[str, Path]:
    """Dotted name below detectors -> file, and the two scripts."""
    found = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
    scripts = {name: PROJECT / f"{name}.py" for name in ("train", "evaluate")}
    return {name: path for name, path in {**found, **scripts}.items() if not name.endswith("__init__")}


def imports(source: str) -> set[str]:
    """Every module that a source names in an import, also within functions. `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides from this test: write detectors.x"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def top(name: str) -> str:
    return name.partition(".")[0]


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def faults(name: str, source: str) -> list[str]:
    """What a module does against the layout."""
    if top(name) not in FLOORS:
        return [f"{name} has no floor: add it to FLOORS here and to the layout in ARCHITECTURE.md"]
    named = imports(source)
    inside = {top(module.removeprefix("detectors.")) for module in named if module.startswith("detectors.")}
    ours = sorted(other for other in inside if other in FLOORS and other != top(name))
    found = [f"{name} (floor {FLOORS[top(name)]}) imports {other} (floor {FLOORS[other]})" for other in ours if _upward(top(name), other)]
    places = {name, top(name), f"floor {FLOORS[top(name)]}"}
    return found + [f"{name} imports {p}" for p, allowed in PLACES.items() if any(below(m, p) for m in named) and not places & allowed]


def _upward(name: str, other: str) -> bool:
    return FLOORS[other] > FLOORS[name] or {name, other} <= FAMILIES


@pytest.mark.parametrize("name", modules())
def test_imports_go_down(name):
    assert faults(name, modules()[name].read_text()) == []


def test_no_cycles():
    """Within a floor, too: modules can be sorted so that each imports only earlier ones."""
    sources = modules()
    needs = {name: {m.removeprefix("detectors.") for m in imports(path.read_text())} & sources.keys() for name, path in sources.items()}
    while needs:
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"these import each other in a circle: {sorted(needs)}"
        needs = {name: others for name, others in needs.items() if name not in free}


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("boxes", "from detectors import losses", "boxes (floor 0) imports losses (floor 2)"),
        ("models.ssd", "from detectors.data.voc import read_voc", "models.ssd (floor 3) imports data (floor 3)"),
        ("losses", "def f():\n    import hydra.utils", "losses imports hydra"),
        ("engine", "from torch.utils.tensorboard import SummaryWriter", "engine imports torch.utils.tensorboard"),
        ("data.voc", "import albumentations", "data.voc imports albumentations"),
        ("engine", "from torch import distributed", "engine imports torch.distributed"),
        ("attic", "", "attic has no floor: add it to FLOORS here and to the layout in ARCHITECTURE.md"),
    ],
)
def test_faults_are_found(name, source, fault):
    assert faults(name, source) == [fault]


def test_every_listed_module_is_there():
    """So that the list does not outlive the layout."""
    assert set(FLOORS) == {top(name) for name in modules()}


def test_init_files_hold_a_docstring_only():
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1, path
        assert isinstance(body[0].value, ast.Constant), path
