"""What a log point and an evaluation record."""

from __future__ import annotations

import csv

import pytest
import torch

from detectors.data.files import Appender
from detectors.training import engine, recording
from detectors.training.csv_log import METRICS
from detectors.training.precision import LossScaler
from detectors.training.progress import Recent
from detectors.training.recording import group_rates, histogram_values, peak_memory
from detectors.training.tags import check_tag
from detectors.training.tracking import Tracker
from detectors.training.update import weight_norm
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures


def rows(folder) -> dict[str, dict[int, float]]:
    """Tag -> step -> value, of metrics.csv."""
    found: dict[str, dict[int, float]] = {}
    with (folder / METRICS).open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["tag"], {})[int(row["step"])] = float(row["value"])
    return found


@pytest.mark.parametrize("model", ["yolov2_160", "ssd160"])
def test_the_points_of_a_run(model, cache, tmp_path):  # noqa: F811
    """Both detectors have the same tags, but for YOLOv2's terms and Darknet's numbers."""
    run = make_run(tmp_path, cache, model=model)
    engine.train(run)
    run.tracker.close()
    points = rows(tmp_path)
    common = ["loss/total", "loss/box", "loss/class", "rate", "grad_norm", "weight_norm", "images_seen"]
    common += ["images_per_second", "data_wait", "peak_memory", "positives_per_image", "mean_matched_iou"]
    for tag in [f"train/{name}" for name in common]:
        assert list(points[tag]) == [3, 6], tag
    evaluated = [
        "val/AP",
        "val/AP75",
        "val/AR100",
        "val/loss/total",
        "val/loss/box",
        "best/AP",
        "best/AP50_voc10",
    ]
    seen = run.task.class_names[run.task.val_annotations.labels[0]]
    for tag in [*evaluated, "time/evaluation", f"val_class/{seen}/AP", f"val_class/{seen}/AP50"]:
        assert list(points[tag]) == [3, 6], tag
    assert points["best/AP"][6] == run.progress.best >= points["val/AP"][6]
    norm = sum(p.detach().square().sum() for p in run.task.module.parameters()).sqrt()
    assert points["train/weight_norm"][6] == pytest.approx(norm.item(), rel=1e-5)
    assert not any(tag.startswith("train/rate/") for tag in points)


class OnDevice(torch.Tensor):
    """Counts how often the host takes numbers from it; what it gets lies on the host."""

    reads = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function.__name__ in ("cpu", "item", "tolist", "numpy", "__float__", "__int__", "__bool__"):
            cls.reads += 1
            return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) else result
        return result


def on_device(value):
    """A tensor, or the tensors of a dict."""
    if isinstance(value, dict):
        return {name: on_device(item) for name, item in value.items()}
    return value.as_subclass(OnDevice) if isinstance(value, torch.Tensor) else value


def test_a_log_line_takes_one_transfer(cache, tmp_path, monkeypatch):  # noqa: F811
    """With a loss scale and skipped steps, which are counted on the device."""
    settings = ("trainer.precision=float16", "trainer.on_nonfinite=skip", "trainer.clip_grad_norm=1.0")
    short = ("model.width=0.05", "trainer.steps=2", "trainer.log_every=1", "trainer.eval_every=0")
    run = make_run(tmp_path, cache, *settings, *short)
    sources = [(recording, "weight_norm"), (recording, "guard_counts")]
    sources += [(Recent, "stacked"), (LossScaler, "tensors")]
    for place, name in sources:
        original = getattr(place, name)
        monkeypatch.setattr(place, name, lambda *args, original=original: on_device(original(*args)))
    counts = []

    def log(run, recent, clock, bar, numbers):
        OnDevice.reads = 0
        recording.log(run, recent, clock, bar, on_device(numbers))
        counts.append(OnDevice.reads)

    monkeypatch.setattr(engine, "log", log)
    engine.train(run)
    assert counts == [1, 1]
    run.tracker.close()
    assert {"train/grad_norm", "train/loss_scale", "train/weight_norm"} <= rows(tmp_path).keys()


def test_rates_of_groups_that_differ(cache, tmp_path):  # noqa: F811
    run = make_run(tmp_path, cache, "optimizer=sgd_caffe", "schedule=constant", "trainer.steps=3")
    assert run.config.optimizer["bias_rate_factor"] == 2
    engine.train(run)
    run.tracker.close()
    points = rows(tmp_path)
    assert points["train/rate/biases"][3] == 2 * points["train/rate"][3]
    assert [tag for tag in points if tag.startswith("train/rate/")] == ["train/rate/biases"]


def test_a_group_without_a_name_has_its_number():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.5}], lr=0.1)
    assert group_rates(optimizer, 0.1) == {"train/rate/1": 0.5}


def test_a_weight_norm_leaves_frozen_weights_out():
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[3.0, 4.0]]))
    module.bias.requires_grad_(False).fill_(100.0)
    assert weight_norm(module).item() == 5


def test_memory_is_that_of_the_process():
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(300 * 2**20, dtype=torch.uint8)
    assert 0.05 < before < 64
    assert peak_memory(torch.device("cpu")) >= before
    del block


def test_histograms_on_demand(cache, tmp_path, monkeypatch):  # noqa: F811
    calls = []
    monkeypatch.setattr(Tracker, "histograms", lambda _, values, step: calls.append((step, values)))
    run = make_run(tmp_path, cache, "trainer.log_every=2", "trainer.histograms_every=4")
    engine.train(run)
    ((step, values),) = calls
    assert step == 4
    weights = dict(run.task.module.named_parameters())
    assert set(values) == {f"{kind}/{name}" for name in weights for kind in ("weights", "gradients")}
    for name, numbers in values.items():
        check_tag(name)
        assert numbers.shape == (weights[name.partition("/")[2]].numel(),)
    engine.train(make_run(tmp_path / "without", cache, "trainer.steps=2"))
    assert len(calls) == 1


def test_histograms_leave_numbers_out_that_are_not_finite():
    module = torch.nn.Linear(2, 1, bias=False)
    module.weight.grad = torch.tensor([[float("nan"), 3.0]])
    assert histogram_values(module)["gradients/weight"].tolist() == [3]


def test_a_disk_that_is_full_for_curves_does_not_end_a_run(cache, tmp_path, monkeypatch, caplog):  # noqa: F811
    """One warning for each place; what can be written again is written."""
    run = make_run(tmp_path, cache)
    original = Appender.append
    broken = []

    def append(appender: Appender, record: bytes) -> None:
        if run.progress.step == 3:
            broken.append(appender)
            raise OSError(28, "No space left on device")
        original(appender, record)

    monkeypatch.setattr(Appender, "append", append)
    engine.train(run)
    run.tracker.close(finished=True)
    assert len(broken) > 5
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        f"{place} could not write (OSError: [Errno 28] No space left on device); the run goes on and tries "
        "again at each point, but logs no further failures"
        for place in ("csv", "tensorboard")
    ]
    assert run.progress.step == 6
    points = rows(tmp_path)
    assert list(points["train/loss/total"]) == list(points["val/AP"]) == [6]
