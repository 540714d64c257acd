"""detectors benchmark loss: all programs compute the same loss from the same inputs; rows and JSON."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from detectors.commands.benchmark import command, loss_growth, loss_speed
from detectors.commands.benchmark.floor_rates import COPY_BYTES, seconds_of_bytes
from detectors.commands.benchmark.loss_runs import (
    LightnetLossRun,
    LoopLossRun,
    MultiBoxInputs,
    OwnLossRun,
    RegionInputs,
    TorchvisionLossRun,
    loss_phases,
    multibox_detector,
    region_detector,
)
from detectors.commands.benchmark.loss_speed import REFERENCE, TRITON, loss_contender, own_runs
from detectors.commands.benchmark.made_up_truths import CLASS_COUNTS, made_up_targets
from detectors.kernels.dispatch import set_kernels
from detectors.training.temporaries import peak_bytes

CPU = torch.device("cpu")


def finished(run):
    for work in loss_phases(run).values():
        work()
    return run


@pytest.fixture(params=CLASS_COUNTS)
def region(request):
    """Our run of a batch with boxes of every number, among them boxes that share an anchor."""
    kind = request.param
    detector = region_detector(kind, CPU)
    inputs = RegionInputs(4, detector.grid((416, 416)), CLASS_COUNTS[kind])
    return kind, finished(OwnLossRun(detector, inputs, made_up_targets(kind, 4, (416, 416), per_image=20)))


def test_the_python_loop_computes_our_region_loss(region):
    _, ours = region
    loop = finished(LoopLossRun(ours.inputs, ours.targets, ours.grid))
    assert_close(loop.value, ours.value)
    assert_close(loop.gradients[0], ours.gradients[0], atol=1e-6, rtol=1e-4)
    assert (ours.encoded.positive.sum(1) < 20).any(), "no two boxes share an anchor"


def test_lightnet_computes_our_region_loss(region):
    kind, ours = region
    lightnet = pytest.importorskip("lightnet")
    theirs = finished(LightnetLossRun(lightnet, ours.inputs, ours.targets, kind))
    assert_close(theirs.value, ours.value)


@pytest.mark.parametrize("kind", CLASS_COUNTS)
def test_torchvision_computes_our_multibox_loss_with_its_settings(kind):
    detector = multibox_detector(kind, CPU, as_torchvision=True)
    inputs = MultiBoxInputs(2, detector.grid((300, 300)), CLASS_COUNTS[kind])
    ours = finished(OwnLossRun(detector, inputs, made_up_targets(kind, 2, (300, 300))))
    theirs = finished(TorchvisionLossRun(inputs, ours.targets, ours.grid))
    assert torch.equal(torch.stack(theirs.matched), ours.encoded.matched)
    assert_close(theirs.value, ours.value)
    for gradient, other in zip(theirs.gradients, ours.gradients, strict=True):
        assert_close(gradient, other, atol=1e-7, rtol=1e-4)


def test_the_table_and_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loss_growth, "LARGE", {"batch": 1, "per_image": 2})
    monkeypatch.setattr(loss_growth, "GROWTH_BATCH", 1)
    monkeypatch.setattr(loss_speed, "optional_peer", lambda name: (None, "not installed"))
    file = tmp_path / "loss.json"
    options = ["--batch", "1", "--repeats", "1", "--counts", "1", "2", "--json", str(file)]
    command.main(["loss", *options])
    printed = capsys.readouterr().out
    assert printed.startswith("benchmark loss: commit ")
    record = json.loads(file.read_text())
    assert record["options"]["counts"] == [1, 2] and record["machine"]["clock"] == "CPU time"
    rows = {(row["what"], row["program"]): row for row in record["rows"]}
    for what in (
        "region loss, 1 images, 80 classes, float32",
        "multibox loss, 1 images, 81 outputs, float32",
    ):
        ours = rows[what, "ours, reference"]
        assert len(ours["seconds"]) == 1 and set(ours["shares"]) == {"encode", "loss", "backward"}
        assert rows[what, "ours, Triton"]["missing"] == "the device is cpu"
        assert rows[what, "floor"]["ratios"][0] > 0
    assert rows["region loss, 1 images, 20 classes, float32", "lightnet"]["missing"] == "not installed"
    loop = rows["region loss, 1 images, 20 classes, float32", "Python loop"]
    assert loop["facts"]["loss differs by"] < 1e-5
    assert rows["multibox loss, 1 images of 2 boxes", "torchvision"]["facts"]["times that of 1"] > 0
    assert rows["SSD512 encoding, 1 images of 2 boxes", "ours"]["facts"]["MiB at once"] > 0.5
    for _, program in rows:
        assert program in printed


def test_a_floor_is_bytes_over_the_measured_rate():
    """Copying n bytes moves 2 n: each is read and written."""
    assert seconds_of_bytes(COPY_BYTES["cpu"], [2.0, 4.0], CPU) == [1.0, 2.0]


def test_peak_memory_counts_what_is_there_at_once():
    def work():
        first = torch.zeros(2**20)  # 4 MiB
        second = first + 1
        del first
        return second * 2

    assert 8 * 2**20 <= peak_bytes(work, CPU) < 8.1 * 2**20


def test_a_gpu_that_is_not_there(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="2"):
        command.main(["loss", "--device", "cuda"])
    assert "PyTorch sees no GPU here" in capsys.readouterr().err


def test_the_kernel_takes_the_outputs_as_they_are(monkeypatch):
    """The reference gets float32, as from the head; each turn sets the switch of its version."""
    detector = multibox_detector("voc", CPU)
    monkeypatch.setattr(loss_speed, "_chosen", lambda detector: "triton")
    monkeypatch.setattr(type(detector.loss), "kernel", "multibox", raising=False)
    monkeypatch.setattr(type(detector.loss), "unsupported", lambda self: None, raising=False)
    inputs = MultiBoxInputs(1, detector.grid((300, 300)), 20, torch.bfloat16)
    runs = own_runs(detector, inputs, made_up_targets("voc", 1, (300, 300)))
    assert list(runs) == [TRITON, REFERENCE]  # ratios are those of the kernel
    dtypes = []
    for name, run in runs.items():
        run.encode()
        dtypes.append(run.outputs.class_logits.dtype)
        loss_contender(name, run).before()
        assert set_kernels("auto") == ("auto" if name == TRITON else "reference")
    assert dtypes == [torch.bfloat16, torch.float32]
