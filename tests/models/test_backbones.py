"""Other backbones below both detectors: levels, gradients, steps, and the sizes in docs/backbones.md."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.models.backbones import build_backbone, describe_backbone
from detectors.models.detector import Detector
from detectors.models.ssd import ssd160, ssd300
from detectors.models.yolov2 import yolov2, yolov2_tiny
from detectors.training import checkpoint as ckpt
from detectors.training import compilation, engine
from detectors.training.assemble import load_network
from detectors.training.batch_size import made_up_batch
from detectors.training.initial.named_weights import named_weights
from detectors.training.initial.weight_files import StateDict
from tests.ranks import in_ranks
from tests.training import rank_tasks
from tests.training.test_engine import cache, make_run, one_thread  # noqa: F401 - fixtures
from tests.training.test_saving import assert_same_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "backbones.md"
ROWS = {
    row[0]: row[1:]
    for row in (
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().partition("## Sizes")[2].splitlines()
        if line.startswith("| `")
    )
}
SMALL = {"mobilenet_v3_small": 0.25, "mobilenet_v2": 0.25, "tiny_darknet": 0.05}  # name -> width
FAMILIES = {"yolov2": (yolov2, 64), "yolov2_tiny": (yolov2_tiny, 64), "ssd": (ssd160, 160)}


def new_detector(family: str, backbone: str, **keywords) -> tuple[Detector, int]:
    torch.manual_seed(0)
    build, side = FAMILIES[family]
    narrow = {"last_channels": 64} if family == "yolov2_tiny" else {"passthrough_channels": 8}
    narrow = {"batch_norm": True} if family == "ssd" else narrow
    return build(num_classes=2, backbone=backbone, **narrow, **keywords), side


def train_one_step(detector: Detector, side: int) -> float:
    batch = made_up_batch(2, 2, (side, side))
    grid = detector.grid((side, side))
    outputs = detector(batch.images)
    terms = detector.loss(outputs, detector.encoder(batch.targets, grid, outputs), grid)
    loss = sum(terms.values())
    detector.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter -= 1e-4 * parameter.grad
    return loss.item()


@pytest.mark.parametrize("backbone", SMALL)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_reaches_all_parameters(family, backbone):
    detector, side = new_detector(family, backbone, width=SMALL[backbone])
    outputs = detector.train()(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    assert outputs.offsets.shape == (2, detector.grid((side, side)).num_anchors, 4)
    maps = detector.backbone(torch.zeros(2, 3, side, side))
    published = zip(detector.backbone.channels, detector.backbone.strides, strict=True)
    assert [tuple(x.shape[1:]) for x in maps] == [(c, side // s, side // s) for c, s in published]
    assert train_one_step(detector, side) > 0
    detector.zero_grad()
    torch.manual_seed(1)
    outputs = detector(torch.randint(0, 256, (2, 3, side, side)))
    heads = [outputs.offsets, outputs.class_logits, outputs.objectness]
    sum((x * torch.randn_like(x)).sum() for x in heads if x is not None).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_yolo_takes_one_map_of_the_stride_that_is_set():
    detector, _ = new_detector("yolov2_tiny", "shufflenet_v2_x0_5", stride=16)
    assert (detector.backbone.strides, detector.backbone.channels) == ((16,), (96,))
    assert detector.grid((64, 64)).num_anchors == 4 * 4 * 5
    assert not [name for name, _ in detector.backbone.named_parameters() if "stage4" in name]


@pytest.mark.parametrize(
    ("backbone", "rows", "strides"),
    [
        ("resnet18", [38, 19, 10, 5, 3, 1], [8, 16, 32, 64, 100, 300]),  # Caffe's, since it rounds up
        ("vgg16", [37, 18, 9, 5, 3, 1], [8, 16, 32, 64, 100, 300]),
    ],
)
def test_default_boxes_follow_the_maps(backbone, rows, strides):
    with torch.device("meta"):
        detector = ssd300(num_classes=1, backbone=backbone)
        own = ssd300(num_classes=1)
    levels = detector.anchors.levels
    assert [level.rows for level in levels] == [level.columns for level in levels] == rows
    assert [level.stride for level in levels] == strides
    shapes = [level.shapes_wh() for level in levels]
    assert shapes == [level.shapes_wh() for level in own.anchors.levels]
    assert len(detector.neck.levels) == len(own.neck.levels) - 1
    assert isinstance(detector.neck.conv4_3_norm, nn.Identity)


def test_the_log_names_maps_and_pixels():
    detector, _ = new_detector("yolov2", "mobilenet_v3_small", width=0.25)
    (line,) = describe_backbone(detector)
    maps = "stride 16 with 72 channels, stride 32 with 144 channels"
    assert line.startswith(f"backbone: mobilenet_v3_small, {maps}; RGB minus [123.675, 116.28, 103.53], div")
    assert describe_backbone(yolov2(num_classes=1, width=0.05)) == []


@pytest.mark.parametrize(
    ("build", "keywords", "message"),
    [
        (
            yolov2,
            {"backbone": "reduced_vgg16"},
            r"it has maps of strides 8 and 16, and \[16, 32\] are needed",
        ),
        (ssd160, {"backbone": "alexnet"}, "backbone=alexnet: no feature map of stride 8"),
        (yolov2_tiny, {"backbone": "resnet18", "width": 0.5}, "width=0.5: torchvision's resnet18 has one"),
        (yolov2_tiny, {"backbone": "darknet19", "stride": 24}, "stride 24: it has maps of"),
        (yolov2, {"backbone": "timm/hf-hub:a/b"}, "not a name of timm.list_models"),
        (yolov2, {"backbone": "timm/resnet18", "width": 0.5}, "timm's models have one width"),
    ],
)
def test_what_does_not_fit_is_named(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        build(num_classes=1, **keywords)


def test_timm_must_be_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed: pip install 'detectors\[timm\]'"):
        build_backbone("timm/resnet18", strides=(16, 32))


def test_timms_maps_equal_torchvisions():
    """The same ResNet-18 in both: timm keeps torchvision's names, so its weights fit."""
    pytest.importorskip("timm", reason="an optional package")
    torch.manual_seed(0)
    ours, theirs = (build_backbone(f"{owner}resnet18", strides=(8, 16, 32)).eval() for owner in ("", "timm/"))
    theirs.body.load_state_dict(ours.body.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert (theirs.channels, theirs.strides) == (ours.channels, ours.strides)
    assert_close(theirs(images), ours(images))
    assert_close(theirs.pixel_mean, ours.pixel_mean)


def numbers_of(build, backbone: str, side: int) -> tuple[Detector, str, str]:
    with torch.device("meta"):
        detector = build(num_classes=20, backbone=backbone)
    flops = detector.flops((side, side))
    return detector, f"{detector.parameter_count / 1e6:.1f}", f"{flops / 1e9:.1f}"


@pytest.mark.parametrize(
    "backbone", [name if name == "resnet18" else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_the_page_has_the_numbers(backbone):
    _, *yolo = numbers_of(yolov2, backbone, 416)
    detector, *ssd = numbers_of(ssd300, backbone, 300)
    channels = ", ".join(map(str, detector.backbone.channels))
    assert ROWS[backbone] == [channels, *yolo, *ssd, str(detector.grid((300, 300)).num_anchors)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backbone", ROWS)
def test_every_backbone_trains_is_stored_and_exported(family, backbone, tmp_path):
    """Also its weights alone are what init.from gives to a detector on the same backbone."""
    detector, side = new_detector(family, backbone)
    detector.train()
    losses = [train_one_step(detector, side) for _ in range(2)]
    assert all(0 < loss < float("inf") for loss in losses)
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    twin, _ = new_detector(family, backbone)
    twin.load_state_dict(torch.load(file, weights_only=True))
    images = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    detector.eval(), twin.eval()
    expected = detector(images)
    assert_close(twin(images).offsets, expected.offsets, rtol=0, atol=0)
    body = getattr(detector.backbone, "body", detector.backbone).state_dict()
    weights = named_weights(StateDict(tmp_path, body), twin, None).tensors
    own = {name: t for name, t in detector.state_dict().items() if name.startswith("backbone.")}
    assert_close(dict(weights), own, rtol=0, atol=0)
    exported = torch.export.export(detector, (images,)).module()(images)
    assert_close(exported.offsets, expected.offsets)
    assert_close(exported.class_logits, expected.class_logits)
    assert_close(copy.deepcopy(detector)(images).offsets, expected.offsets, rtol=0, atol=0)


RUNS = {"yolov2_160": ("mobilenet_v3_small", 0.25), "ssd160": ("efficientnet_b0", 1.0)}


@pytest.mark.slow
@pytest.mark.parametrize("model", RUNS)
def test_a_resumed_run_equals_an_uninterrupted_one(model, cache, tmp_path):  # noqa: F811
    """With averaged weights, BatchNorm and, below the SSD, stochastic depth and dropout."""
    backbone, width = RUNS[model]
    overrides = (f"model.backbone={backbone}", f"model.width={width}", "trainer.ema_decay=0.9")
    whole = make_run(tmp_path / "whole", cache, *overrides, "trainer.steps=4", model=model)
    engine.train(whole)
    first = make_run(tmp_path / "parts", cache, *overrides, "trainer.steps=2", model=model)
    engine.train(first)
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    second = make_run(tmp_path / "parts", cache, *overrides, "trainer.steps=4", stored=stored, model=model)
    engine.train(second)
    for part in ("task", "ema"):
        one, other = (getattr(run, part).module.state_dict() for run in (whole, second))
        assert_close(other, one, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model", RUNS)
def test_timms_backbones_train_and_go_on(model, cache, tmp_path):  # noqa: F811
    """A whole run, its resume, and the exported network."""
    pytest.importorskip("timm", reason="an optional package: pip install 'detectors[timm]'")
    overrides = ("model.backbone=timm/mobilenetv3_small_050", "model.width=1", "trainer.ema_decay=0.9")
    whole = make_run(tmp_path / "whole", cache, *overrides, "trainer.steps=4", model=model)
    engine.train(whole)
    engine.train(make_run(tmp_path / "parts", cache, *overrides, "trainer.steps=2", model=model))
    stored = ckpt.load_checkpoint(tmp_path / "parts" / ckpt.LAST)
    second = make_run(tmp_path / "parts", cache, *overrides, "trainer.steps=4", stored=stored, model=model)
    engine.train(second)
    assert_close(second.ema.module.state_dict(), whole.ema.module.state_dict(), rtol=0, atol=0)
    network = whole.ema.module
    images = torch.randint(0, 256, (1, 3, *whole.config.input.size), dtype=torch.uint8)
    exported = torch.export.export(network, (images,)).module()(images)
    assert_close(exported.offsets, network(images).offsets)
    twin, _ = load_network(ckpt.load_checkpoint(tmp_path / "whole" / ckpt.LAST), torch.device("cpu"))
    assert_close(twin(images).offsets, network(images).offsets)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["yolov2", "ssd"])
def test_two_processes_have_the_same_weights_and_buffers(family, tmp_path):
    """BatchNorm's buffers are the first process's in a checkpoint; parameters agree bit for bit."""
    settings = ("model.backbone=mobilenet_v3_small", "model.width=0.25", "trainer.batch_size=3")
    two, other = in_ranks(rank_tasks.train, tmp_path, "run", family, *settings)
    for name, tensor in two["state"].items():
        if "running_" not in name:
            assert_close(other["state"][name], tensor, rtol=0, atol=0, msg=name)
    assert two["report"] == other["report"]


@pytest.mark.slow
@pytest.mark.parametrize("model", RUNS)
def test_a_compiled_run_equals_an_eager_one(model, cache, tmp_path, monkeypatch):  # noqa: F811
    """Bit for bit with this backend; Inductor takes minutes to compile so many layers."""
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    overrides = ("model.backbone=mobilenet_v3_small", "model.width=0.25", "trainer.steps=2")
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        run = make_run(folder, cache, *overrides, f"trainer.compile={compiled}", model=model)
        engine.train(run)
        run.tracker.close()
    torch.compiler.reset()
    assert_same_run(tmp_path / "true", tmp_path / "false")


def test_initialization_leaves_other_packages_layers():
    """layers.initialization draws the neck and head anew, and a backbone of this package."""
    plain, _ = new_detector("yolov2_tiny", "mobilenet_v3_small", width=0.25)
    drawn, _ = new_detector("yolov2_tiny", "mobilenet_v3_small", width=0.25, layers={"initialization": "he"})
    assert_close(drawn.backbone.state_dict(), plain.backbone.state_dict(), rtol=0, atol=0)
    assert not drawn.head.conv.weight.equal(plain.head.conv.weight)
