"""The user's functions: called after steps and evaluations, never a checkpoint's, named where they fail."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detectors.commands import train as script
from detectors.training import checkpoint as ckpt
from detectors.training.hooks import Hook, Hooks, users_hooks
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / "docs" / "training.md"


def trainer(**names: list[str]) -> SimpleNamespace:
    return SimpleNamespace(**({"on_step": [], "on_evaluation": []} | names))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes mine.py into the current folder, where nothing but the hooks' import looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    yield lambda source: (tmp_path / "mine.py").write_text(source)
    sys.modules.pop("mine", None)


def documented_examples() -> str:
    """The Python blocks of the section "Your own code", one after the other."""
    section = PAGE.read_text().split("## Your own code\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


def test_the_documented_examples_run(cache, tmp_path, module):  # noqa: F811
    module(documented_examples().replace("% 100", "% 2"))
    typed = trainer(on_step=["mine.note_weights"], on_evaluation=["mine.keep_each"])
    run = make_run(tmp_path / "unused", cache)
    hooks = users_hooks(run.config.trainer, vars(typed))
    run.tracker.close()
    script.train_run(run.config, tmp_path / "run", None, hooks)
    curves = EventAccumulator(str(tmp_path / "run")).Reload()
    points = curves.Scalars("user/weight_norm")
    assert [event.step for event in points] == [2, 4, 6]
    assert all(event.value > 1 for event in points)
    kept = sorted((tmp_path / "run").glob("step*.pt"))
    assert [re.sub(r"\d\.\d{3}", "N", path.name) for path in kept] == ["step3_APN.pt", "step6_APN.pt"]
    assert [ckpt.load_checkpoint(path).step for path in kept] == [3, 6]
    assert ckpt.load_checkpoint(tmp_path / "run/last.pt").config["trainer"]["on_step"] == [
        "mine.note_weights"
    ]


def test_hooks_are_called_in_turn_before_the_state_is_saved(cache, tmp_path):  # noqa: F811
    seen = []

    def note(name: str) -> Hook:
        return Hook(name, "trainer.on_x", lambda run, *rest: seen.append((name, run.progress.step, *rest)))

    run = make_run(tmp_path / "unused", cache, "trainer.steps=2", "trainer.eval_every=1")
    run.tracker.close()
    hooks = Hooks(step=[note("a"), note("b")], evaluation=[note("c")])
    script.train_run(run.config, tmp_path / "run", None, hooks)
    assert [call[:2] for call in seen] == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]
    assert seen[2][2].images == 4  # the evaluation


@pytest.mark.parametrize(
    ("kind", "step", "evaluated"), [("step", 2, 0), ("evaluation", 3, 0)], ids=["step", "evaluation"]
)
def test_an_error_in_a_hook_names_it_and_loses_nothing(kind, step, evaluated, cache, tmp_path):  # noqa: F811
    """The step is saved; the evaluation is made again at the resume, and its hook is called again."""

    def fail(run, *rest):
        if run.progress.step == step:
            raise KeyError("colour")

    run = make_run(tmp_path / "unused", cache)
    run.tracker.close()
    hooks = Hooks(**{kind: [Hook("mine.fail", f"trainer.on_{kind}", fail)]})
    expected = rf"^trainer\.on_{kind}: mine\.fail failed \(KeyError: 'colour'\)$"
    with pytest.raises(RuntimeError, match=expected) as error:
        script.train_run(run.config, tmp_path / "run", None, hooks)
    assert isinstance(error.value.__cause__, KeyError)
    stored = ckpt.load_checkpoint(tmp_path / "run" / ckpt.LAST)
    assert (stored.step, stored.progress["evaluated"]) == (step, evaluated)
    calls = []
    hooks = Hooks(
        **{kind: [Hook("mine.note", f"trainer.on_{kind}", lambda run, *_: calls.append(run.progress.step))]}
    )
    script.train_run(script.resumed_config(stored, []), tmp_path / "run", stored, hooks)
    assert calls == {"step": [3, 4, 5, 6], "evaluation": [3, 6]}[kind]


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "note", "'note': must be module.function, the dotted name of a function"),
        ("", "no_such_module.note", "'no_such_module.note': there is no module no_such_module"),
        ("", "mine.note", "'mine.note': the module mine has no function note"),
        ("note = 3", "mine.note", "'mine.note': the module mine has no function note"),
        (
            "import no_such_package",
            "mine.note",
            "'mine.note': mine cannot be imported (ModuleNotFoundError: No module named 'no_such_package')",
        ),
        (
            "x = (",
            "mine.note",
            "'mine.note': mine cannot be imported (SyntaxError: '(' was never closed (mine.py, line 1))",
        ),
        ("raise ValueError('no')", "mine.note", "'mine.note': mine cannot be imported (ValueError: no)"),
    ],
)
def test_a_name_that_cannot_be_called_is_refused(source, name, message, module):
    module(source)
    with pytest.raises(ValueError, match=f"^{re.escape(f'trainer.on_evaluation: {message}')}$"):
        users_hooks(trainer(), vars(trainer(on_evaluation=[name])))


def test_a_checkpoints_hooks_are_not_called(module, tmp_path, caplog):
    """Neither imported; one line says how to name them again, and what is stored next is what is called."""
    module("from pathlib import Path\nPath('imported').touch()\ndef note(run): pass\ndef other(run): pass\n")
    stored = trainer(on_step=["mine.note", "mine.other"])
    assert users_hooks(stored, vars(trainer())) == Hooks([], [])
    assert caplog.messages == [
        "trainer.on_step: a checkpoint's own hooks are not called: mine.note, mine.other; to call them, name "
        "them again: 'trainer.on_step=[mine.note,mine.other]'"
    ]
    assert stored.on_step == []
    assert not (tmp_path / "imported").exists()
    stored = trainer(on_step=["mine.note", "mine.other"])
    hooks = users_hooks(stored, vars(trainer(on_step=["mine.other"])))
    assert [hook.name for hook in hooks.step] == stored.on_step == ["mine.other"]
    assert "'trainer.on_step=[mine.other,mine.note]'" in caplog.messages[-1]


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    small = [
        "debug=fast",
        "trainer.steps=1",
        "data.shapes.train=4",
        "data.shapes.val=2",
        "trainer.threads=1",
        f"paths.cache={folder / 'cache'}",
        f"hydra.run.dir={folder / 'run'}",
    ]
    line = [sys.executable, str(PROJECT / "train.py"), *small, *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_train_py_finds_a_module_in_the_current_folder(tmp_path):
    """A name that is not there is one message and leaves no folder; a failing hook shows its traceback."""
    (tmp_path / "mine.py").write_text(
        "def fail(run):\n    print(f'step {run.progress.step}')\n    run.colour\n"
    )
    ended = command("trainer.on_step=[mine.note]", folder=tmp_path)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (
        2,
        "error: trainer.on_step: 'mine.note': the module mine has no function note",
    )
    assert not (tmp_path / "run").exists()
    ended = command("trainer.on_step=[mine.fail]", folder=tmp_path)
    assert ended.returncode == 1
    assert "step 1\n" in ended.stdout
    cause = "AttributeError: 'Run' object has no attribute 'colour'"
    assert ended.stderr.count(cause) == 2
    assert f"RuntimeError: trainer.on_step: mine.fail failed ({cause})" in ended.stderr
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == 1
