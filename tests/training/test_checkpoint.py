"""Checkpoints: atomic, read without running code, one clear error for every kind of broken file."""

from __future__ import annotations

import os
import pickle
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from detectors.training import checkpoint as ckpt


def some_checkpoint(path) -> ckpt.Checkpoint:
    weights = {"w": torch.arange(3.0)}
    return ckpt.Checkpoint(
        path, 7, {"seed": 1}, ("cat", "dog"), weights, {"step": 7}, {"state": {}}, ckpt.random_state()
    )


def test_what_is_saved_comes_back(tmp_path):
    ckpt.save_checkpoint(some_checkpoint(tmp_path / "deep" / "last.pt"))
    loaded = ckpt.load_checkpoint(tmp_path / "deep" / "last.pt")
    assert (loaded.step, loaded.class_names, loaded.config) == (7, ("cat", "dog"), {"seed": 1})
    assert_close(loaded.model["w"], torch.arange(3.0))
    assert os.listdir(tmp_path / "deep") == ["last.pt"]


def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(some_checkpoint(path))
    before = path.read_bytes()

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        ckpt.save_checkpoint(some_checkpoint(path))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "last.pt"
    ckpt.save_checkpoint(some_checkpoint(path))
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"last.pt: .*(truncated|refused)"):
            ckpt.load_checkpoint(path)
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"last.pt: a file of tensors, but no checkpoint"):
        ckpt.load_checkpoint(path)
    torch.save({"format": ckpt.CHECKPOINT_FORMAT, "harm": Harmful()}, path)
    with pytest.raises(
        ValueError, match=r"last.pt: refused, .* asks for (posix|nt).system, which could run any code"
    ):
        ckpt.load_checkpoint(path)
    torch.save({"format": ckpt.CHECKPOINT_FORMAT, "step": 3}, path)
    with pytest.raises(ValueError, match=r"last.pt: a checkpoint without config, class_names"):
        ckpt.load_checkpoint(path)
    path.write_bytes(pickle.dumps({"format": 1}))
    with pytest.raises(ValueError, match=r"last.pt"):
        ckpt.load_checkpoint(path)
    with pytest.raises(FileNotFoundError, match="nothing.pt"):
        ckpt.load_checkpoint(tmp_path / "nothing.pt")


def test_garbage_never_gives_anything_but_one_message(tmp_path):
    """Random bytes behind the beginnings by which PyTorch tells its formats apart, and a checkpoint with
    bytes changed at random places.
    """
    path, random = tmp_path / "x.pt", np.random.default_rng(0)
    ckpt.save_checkpoint(some_checkpoint(path))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for case in range(60):
        start = (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}", b"\x80\x02cos\nsystem\n")[case % 5]
        path.write_bytes(start + random.bytes(1 + case * 7))
        with pytest.raises(ValueError, match=r"x.pt: (refused|cannot be read|a file of tensors)"):
            ckpt.load_checkpoint(path)
        damaged = whole.copy()
        damaged[random.integers(0, len(whole), 20)] = random.integers(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        with suppress(ValueError):  # some places do not matter
            ckpt.load_checkpoint(path)


def test_find(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such run folder"):
        ckpt.find_checkpoint(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="an address is not read: download the file"):
        ckpt.find_checkpoint("https://example.org/x.pth")
    with pytest.raises(
        FileNotFoundError, match="neither best.pt nor last.pt in this folder; did the training"
    ):
        ckpt.find_checkpoint(tmp_path)
    (tmp_path / "run 1").mkdir()
    (tmp_path / "run 1" / "last.pt").touch()
    with pytest.raises(FileNotFoundError, match="it holds runs, name one: run 1$"):
        ckpt.find_checkpoint(tmp_path)
    ckpt.save_checkpoint(some_checkpoint(tmp_path / "last.pt"))
    assert ckpt.find_checkpoint(tmp_path) == tmp_path / "last.pt"
    ckpt.save_checkpoint(some_checkpoint(tmp_path / "best.pt"))
    assert ckpt.find_checkpoint(tmp_path) == tmp_path / "best.pt"
    assert ckpt.find_checkpoint(tmp_path / "last.pt", "best.pt") == tmp_path / "last.pt"


@pytest.mark.data
def test_a_truncated_checkpoint_from_the_wild(shared):
    with pytest.raises(ValueError, match=r"truncated_196608.pth: .*truncated"):
        ckpt.load_checkpoint(shared / "bad-input/checkpoints/vgg16_reducedfc_truncated_196608.pth")


def test_random_state_comes_back():
    state = ckpt.random_state()
    first = torch.rand(3)
    ckpt.set_random_state(state, Path("last.pt"))
    assert_close(torch.rand(3), first, rtol=0, atol=0)


def test_older_checkpoints_hold_the_images_seen_in_the_loss(tmp_path):
    """It is moved to the progress, which has the last word where it knows the number itself."""
    for progress, expected in (({}, 1000), ({"images_seen": 8}, 8)):
        path = tmp_path / "old.pt"
        model = {"loss.images_seen": torch.tensor(1000), "weight": torch.zeros(1)}
        ckpt.save_checkpoint(ckpt.Checkpoint(path, 1, {}, ("a",), model, progress, {}, {}))
        loaded = ckpt.load_checkpoint(path)
        assert list(loaded.model) == ["weight"]
        assert loaded.progress["images_seen"] == expected
