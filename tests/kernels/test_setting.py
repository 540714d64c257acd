"""trainer.kernels, and the options of commands that choose a device of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from detectors.commands import train as script
from detectors.commands.evaluate import evaluate
from detectors.commands.find_rate import command as find_rate
from detectors.commands.predict import command as predict
from detectors.commands.replay.repeat import repeated_config
from detectors.config.schema import EvaluateConfig, TrainerConfig
from detectors.kernels.dispatch import KERNEL_CHOICES
from detectors.training import assemble
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures

MESSAGE = "^kernels=triton: the device is cpu; choose kernels=auto or kernels=reference"


@pytest.fixture
def no_interpreter(monkeypatch, kernels):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


@pytest.mark.parametrize("settings", [TrainerConfig, EvaluateConfig])
def test_the_setting_has_the_choices_of_the_switch(settings):
    field = settings.__dataclass_fields__["kernels"]
    assert field.default == "auto" and field.metadata["choices"] == KERNEL_CHOICES


def test_each_command_names_kernels_that_cannot_run(cache, tmp_path, no_interpreter):  # noqa: F811
    config = make_run(tmp_path / "run", cache, "model.width=0.05", "trainer.device=cpu").config
    trainer = replace(config.trainer, kernels="triton")
    with pytest.raises(ValueError, match=MESSAGE):
        script.train_run(replace(config, trainer=trainer), tmp_path / "run", None)
    with pytest.raises(ValueError, match=MESSAGE):
        evaluate(EvaluateConfig(run=str(tmp_path), device="cpu", kernels="triton"))


def test_commands_end_with_one_message(tmp_path, no_interpreter, capsys):
    for command, arguments in (
        (predict, [str(tmp_path), str(tmp_path), "--device", "cpu", "--kernels", "triton"]),
        (find_rate, ["trainer.device=cpu", "trainer.kernels=triton"]),
    ):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: kernels=triton: the device is cpu; choose ")


def test_a_run_sets_the_switch_anew(no_interpreter, kernels):
    kernels("triton")
    with pytest.raises(ValueError, match=MESSAGE):
        assemble.choose_device("cpu")
    kernels("reference")
    assert assemble.choose_device("cpu") == torch.device("cpu")


def test_a_replay_on_another_device_chooses_its_own_kernels(cache, tmp_path):  # noqa: F811
    config = make_run(tmp_path / "run", cache, "model.width=0.05").config
    config.trainer.kernels = "triton"
    repeated = {
        device: repeated_config(config, device=device, names=["a"], processes=1).trainer.kernels
        for device in (None, "cpu")
    }
    assert repeated == {None: "triton", "cpu": "auto"}
