"""Names of devices: ours, and those of other programs."""

import pytest
import torch

from detectors.config.devices import device_problem
from detectors.training.assemble import choose_device


def test_names_that_are_accepted():
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:12"):
        assert device_problem(name) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("0", "cuda:0"), ("CPU", "cpu")],
)
def test_other_names(name, hint):
    what = f"must be one of auto, cpu, cuda, cuda:0, cuda:1, ...; did you mean {hint}?"
    assert device_problem(name) == what
    with pytest.raises(ValueError) as error:
        choose_device(name)
    assert str(error.value) == f"device={name!r}: {what}"


@pytest.mark.parametrize("name", ["", "tpu-v4", "cuda:", "cuda:x", "cuda:-1"])
def test_no_device(name):
    assert device_problem(name).startswith("must be one of auto, cpu, cuda, cuda:0, cuda:1, ...")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=rf"device={name}: PyTorch sees no GPU here; set device=cpu"):
            choose_device(name)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    assert [choose_device("cuda:1")] == chosen == [torch.device("cuda:1")]
    with pytest.raises(ValueError, match="device=cuda:2: PyTorch sees no such GPU here; the last one is"):
        choose_device("cuda:2")
