"""What lies in a run's folder: whole checkpoints, the newest of which a run goes on from, and one process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectors.commands import train as script
from detectors.config.check import check
from detectors.config.fresh_folder import claimed
from detectors.config.schema import to_plain
from detectors.training import checkpoint as ckpt
from detectors.training import engine, saving
from detectors.training.provenance import other_versions, program_versions
from detectors.training.resuming import best_problem, continued_config, stored_run
from detectors.training.run_checkpoints import kept_checkpoints, sole_writer
from tests.training.test_engine import cache, interrupt_after, make_run, one_thread  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory) -> Path:  # noqa: F811
    """The folder of a run of six steps that kept two older checkpoints."""
    folder = tmp_path_factory.mktemp("kept")
    engine.train(make_run(folder, cache, "trainer.save_every=1", "trainer.keep=2"))
    return folder


@pytest.fixture
def folder(trained, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    for path in trained.glob("*.pt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def data_places(path: Path) -> dict[str, int]:
    """Each record of the zip file -> a place in the middle of its bytes."""
    with zipfile.ZipFile(path) as archive:
        return {
            record.filename.partition("/")[2]: record.header_offset
            + 30
            + int.from_bytes(path.read_bytes()[record.header_offset + 26 :][:2], "little")
            + int.from_bytes(path.read_bytes()[record.header_offset + 28 :][:2], "little")
            + record.file_size // 2
            for record in archive.infolist()
            if record.file_size
        }


def test_older_checkpoints_are_kept(trained):
    kept = kept_checkpoints(trained)
    assert [path.name for path in kept] == ["step_000005.pt", "step_000004.pt"]
    assert [ckpt.load_checkpoint(path).step for path in kept] == [5, 4]


def test_one_flipped_bit_of_the_data_is_noticed(folder):
    path = folder / ckpt.LAST
    whole = path.read_bytes()
    places = data_places(path)
    assert len(places) > 50
    for place in places.values():
        flip(path, place)
        with pytest.raises(ValueError, match=f"^{path}: "):
            ckpt.load_checkpoint(path)
        path.write_bytes(whole)


def test_a_damaged_tensor_is_named(folder):
    path = folder / ckpt.LAST
    first = next(iter(ckpt.load_checkpoint(path).model))
    flip(path, data_places(path)["data/0"])
    with pytest.raises(ValueError) as caught:
        ckpt.load_checkpoint(path)
    assert str(caught.value).startswith(
        f"{path}: damaged: model['{first}'] differs from what was written (by its checksum); "
    )


def test_a_flipped_bit_anywhere_changes_nothing_unseen(folder):
    """Some bytes of a zip file hold nothing, such as the time of a record."""
    path = folder / ckpt.LAST
    whole = path.read_bytes()
    before = ckpt.load_checkpoint(path)
    choice = random.Random(0)
    for place in (choice.randrange(len(whole)) for _ in range(40)):
        flip(path, place)
        with suppress(ValueError):
            after = ckpt.load_checkpoint(path)
            assert_close(after.model, before.model, rtol=0, atol=0)
            assert (after.config, after.progress) == (before.config, before.progress)
        path.write_bytes(whole)


def test_auto_takes_the_newest_whole_one(folder, caplog):
    caplog.set_level("INFO")
    flip(folder / ckpt.LAST, data_places(folder / ckpt.LAST)["data/0"])
    (folder / "step_000005.pt").write_bytes((folder / "step_000005.pt").read_bytes()[:5000])
    stored = stored_run("auto", folder)
    assert stored.path == folder / "step_000004.pt"
    last, older, chosen = caplog.messages
    assert last.startswith(f"{folder}/last.pt: damaged: model[")
    assert last.endswith("; passed over, and renamed to last.pt.damaged")
    assert older.startswith(f"{folder}/step_000005.pt: cannot be read as a checkpoint, it may be truncated")
    assert chosen == f"trainer.resume=auto: {folder}/step_000004.pt, step 4"
    assert sorted(path.name for path in folder.iterdir()) == [
        "best.pt",
        "last.pt.damaged",
        "step_000004.pt",
        "step_000005.pt.damaged",
    ]


@pytest.mark.parametrize("keep", [0, 2])
def test_kept_checkpoints_outlive_a_damaged_last_one(keep, folder, cache):  # noqa: F811
    """Resumed from one of them, as the error of last.pt says: the damaged file takes the place of none."""
    (folder / ckpt.LAST).write_bytes(b"damaged")
    stored = stored_run(str(folder / "step_000005.pt"), folder)
    config = script.resumed_config(stored, [f"trainer.keep={keep}", "trainer.steps=8"])
    script.train_run(config, folder, stored)
    steps = {path.name: ckpt.load_checkpoint(path).step for path in folder.glob("*.pt")}
    kept = {0: {"step_000005.pt": 5, "step_000004.pt": 4}, 2: {"step_000007.pt": 7, "step_000006.pt": 6}}
    assert steps == {"best.pt": steps["best.pt"], "last.pt": 8, **kept[keep]}


def test_auto_starts_a_new_run_without_a_checkpoint(tmp_path, caplog):
    caplog.set_level("INFO")
    assert stored_run("auto", tmp_path) is None
    assert caplog.messages == ["trainer.resume=auto: none yet: a new run"]


def test_a_damaged_last_checkpoint_names_the_next(folder):
    (folder / ckpt.LAST).write_bytes(b"")
    with pytest.raises(ValueError) as caught:
        stored_run(str(folder), folder)
    place = f"trainer.resume={folder}/step_000005.pt"
    assert str(caught.value).endswith(f"; the newest whole checkpoint is of step 5: {place}")


@pytest.mark.parametrize(
    ("resume", "words"),
    [
        ("", "trainer.resume is empty: name a run folder or a checkpoint, or leave it out"),
        (None, "holds a run; go on with it: trainer.resume="),
    ],
)
def test_what_is_refused(resume, words, folder):
    with pytest.raises(ValueError, match=words):
        stored_run(resume, folder)


def test_a_resume_stays_in_its_folder(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(ValueError) as caught:
        stored_run(str(folder), other)
    assert str(caught.value) == (
        f"trainer.resume={folder}: the run goes on in {folder}, not in {other}: leave out hydra.run.dir, or "
        "start a new run from its weights with init.from"
    )


def test_auto_refuses_another_run(trained):
    stored = ckpt.load_checkpoint(trained / ckpt.LAST)
    same = check(stored.config)
    same.trainer.batch_size = 2
    assert continued_config(stored, same).trainer.batch_size == 2
    other = check({**to_plain(same), "seed": 7})
    with pytest.raises(ValueError) as caught:
        continued_config(stored, other)
    assert str(caught.value) == (
        f"seed=7: the run of {stored.path} has seed=0, and a resume keeps it; "
        "for a new run choose another hydra.run.dir"
    )


def test_a_lost_best_checkpoint_is_said(folder):
    stored = ckpt.load_checkpoint(folder / ckpt.LAST)
    assert best_problem(stored) is None
    score = stored.progress["best"]
    lost = f"the run's best evaluation so far, {score:.4f}, has no checkpoint; the next better one writes it"
    (folder / ckpt.BEST).write_bytes(b"")
    assert best_problem(stored).startswith(f"{folder}/best.pt: cannot be read")
    assert best_problem(stored).endswith(f"; {lost}")
    (folder / ckpt.BEST).unlink()
    assert best_problem(stored) == f"{folder}/best.pt is missing: {lost}"


HOLDER = """
import sys, time
from pathlib import Path
from detectors.training.run_checkpoints import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_writes_in_a_folder_and_a_killed_one_does_not_block(tmp_path):
    for name in (".last.pt.4711", ".config.yaml.12"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".last.pt.notes").write_text("the user's")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        assert holder.stdout.readline() == "held\n"
        message = f"^{tmp_path}: in use by process {holder.pid} on .*, which writes a run there$"
        with pytest.raises(ValueError, match=message), sole_writer(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with sole_writer(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".last.pt.notes"}
    assert {path.name for path in tmp_path.iterdir()} == {".last.pt.notes"}


def test_runs_of_one_second_have_folders_of_their_own(tmp_path):
    """Four processes claim the same name 20 times each."""
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(20):
                (claimed(tmp_path / "a" / "run") / str(os.getpid())).touch()
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    folders = list((tmp_path / "a").iterdir())
    assert len(folders) == 80
    assert {len(list(folder.iterdir())) for folder in folders} == {1}


def images_of(run) -> list[int]:
    return [info.index for batch in run.train_loader for info in batch.infos]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (2, 1), (3, 2)])
def test_other_batches_go_on_from_the_images_seen(batch_size, accumulate, cache, tmp_path):  # noqa: F811
    """No image is skipped and none comes twice, in the middle of an epoch: 3 x 4 of 10 images."""
    everything = images_of(make_run(tmp_path / "whole", cache, "trainer.steps=60"))
    run = make_run(tmp_path / "parts", cache)
    interrupt_after(run, 3)
    with pytest.raises(KeyboardInterrupt):
        engine.train(run)
    stored = ckpt.load_checkpoint(run.folder / ckpt.LAST)
    assert stored.progress["images_seen"] == 12
    changes = [f"trainer.batch_size={batch_size}", f"trainer.accumulate={accumulate}", "trainer.steps=8"]
    config = script.resumed_config(stored, changes)
    images = images_of(script.build_run(config, run.folder, stored))
    assert len(images) == 5 * batch_size * accumulate  # steps 4 to 8
    assert images == everything[12 : 12 + len(images)]


def test_save_minutes(cache, tmp_path, monkeypatch):  # noqa: F811
    """A clock that advances by ten seconds when it is read: after each step, and when last.pt is written."""
    seconds = iter(range(0, 10_000, 10))
    monkeypatch.setattr(saving, "perf_counter", lambda: float(next(seconds)))
    run = make_run(tmp_path, cache, "trainer.save_minutes=0.5", "trainer.eval_every=0", "trainer.steps=9")
    run.saved_at = 0.0
    saved = []
    original = ckpt.save_checkpoint

    def note(checkpoint: ckpt.Checkpoint) -> None:
        saved.append((checkpoint.path.name, checkpoint.step))
        original(checkpoint)

    monkeypatch.setattr(ckpt, "save_checkpoint", note)
    engine.train(run)
    steps = [step for name, step in saved if name == ckpt.LAST]
    assert steps == [4, 7, 9, 9]  # read at 0, 10, 20, 30: due; written at 40; 50, 60, 70: due


def test_other_versions_are_said(trained, cache, caplog):  # noqa: F811
    stored = ckpt.load_checkpoint(trained / ckpt.LAST)
    assert stored.versions == program_versions()
    assert stored.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert other_versions({}) == other_versions(stored.versions) == ""
    now = stored.versions["numpy"]
    assert other_versions({**stored.versions, "numpy": "1.0"}) == f"numpy 1.0 (now {now})"
