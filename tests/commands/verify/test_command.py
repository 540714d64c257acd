"""The verify command: the recordings pass, and planted mistakes fail."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from detectors import anchors, layers, matching
from detectors.commands.verify import command, presets, ssd_detections
from detectors.commands.verify.recordings import Folder
from detectors.darknet import region
from detectors.losses.region_loss import RegionLoss
from detectors.metrics import voc
from detectors.models import yolov2
from detectors.structures import HeadOutputs
from detectors.training import optim
from tests.darknet import streams
from tests.recorded import FIXTURES, copy, write_cases

EVALUATION = {"voc_*": "voc", "coco_*": "coco", "known_*": "known"}  # files of the flat fixtures -> folder
BURN_IN = "burn_in=1000\nmax_batches=80200\npolicy=steps\nsteps=40000,60000\nscales=.1,.1"
CFGS = {  # the part of the original cfgs that the learning rate depends on
    "yolov2-voc": f"batch=1\nsubdivisions=1\nlearning_rate=0.001\n{BURN_IN}",
    "yolov2-tiny-voc": (
        "batch=1\nsubdivisions=1\nlearning_rate=0.001\nmax_batches=40200\n"
        "policy=steps\nsteps=-1,100,20000,30000\nscales=.1,10,.1,.1"
    ),
    "darknet19": (
        "batch=1\nsubdivisions=1\nlearning_rate=0.1\nburn_in=1000\nmax_batches=800000\npolicy=poly\npower=4"
    ),
    "darknet19_448": (
        "batch=128\nsubdivisions=4\nlearning_rate=0.001\nmax_batches=100000\npolicy=poly\npower=4"
    ),
}


def with_weights(target: Path) -> Path:
    """Writes the two files of weights.json from their seeds. The recorded sha256 shows they are Darknet's."""
    (target / "weights").mkdir()
    for name, about in json.loads((target / "weights.json").read_text()).items():
        streams.write(
            target / "weights" / name,
            about["convs"],
            about["weight_seed"],
            version=about["header"],
            seen=about["seen"],
        )
    return target


def with_rates(target: Path) -> Path:
    """Writes lr.json for CFGS, and the cfgs."""
    recorded = json.loads((FIXTURES / "darknet/lr.json").read_text())
    (target / "lr.json").write_text(json.dumps({name: recorded[name] for name in CFGS}))
    (target / "cfg-full").mkdir()
    for name, text in CFGS.items():
        net = f"[net]\n{text}\nwidth=32\nheight=32\nchannels=3\n"
        (target / f"cfg-full/{name}.cfg").write_text(f"{net}[convolutional]\nfilters=1\nactivation=linear\n")
    return target


def with_evaluation(target: Path) -> Path:
    """Links the evaluation fixtures into the folders that the command expects."""
    for pattern, subfolder in EVALUATION.items():
        (target / subfolder).mkdir(parents=True)
        for path in (FIXTURES / "evaluation").glob(pattern):
            (target / subfolder / path.name).symlink_to(path)
    return copy(target, "keras_yolo2_loss/*", source="evaluation")


def rows(folder: Path) -> list[command.Row]:
    return list(command.verify(Folder(folder)))


def bad(folder: Path) -> list[command.Row]:
    return [row for row in rows(folder) if row.bad]


def run(folder: Path, capsys) -> tuple[int, str]:
    """The command's exit status and output."""
    status = 0
    try:
        command.main([str(folder)])
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().out


# Recordings that pass


def test_darknet_passes(tmp_path, capsys):
    copy(tmp_path, "ops.*", "region_*", "net*", "train*", "weights.json", "cfg/*")
    status, output = run(with_rates(with_weights(tmp_path)), capsys)
    assert status == 0, output
    for fixture in (
        "ops/reorg4",
        "ops/place1",
        "ops/distort0",
        "ops/boxes1",
        "region_train/warmup_seen12800",
        "region_decode/voc13",
    ):
        assert f"\n{fixture} " in output
    for fixture in (
        "net/mini-tiny-odd-100x76",
        "train/nano-train-burnin.gpubn",
        "train/nano-classifier.gpubn",
        "lr/darknet19_448",
    ):
        assert f"\n{fixture} " in output
    assert output.count("known: ") == 1
    assert "never passes it" in next(
        line for line in output.splitlines() if line.startswith("lr/yolov2-tiny-voc") and "known" in line
    )


def test_ssd_passes(tmp_path, capsys):
    status, output = run(copy(tmp_path, "*", source="ssd"), capsys)
    assert status == 0, output
    for program in ("Caffe", "torchvision", "ssd.pytorch"):
        assert output.count(f"\nloss_mini_shared_prior ({program}) ") >= 10
    assert "places decided by rounding" in output
    reasons = [line.partition("known: ")[2] for line in output.splitlines() if "known: " in line]
    words = ("without area", "NaN", "exp()", "inexact")
    assert [sum(word in reason for reason in reasons) for word in words] == [2, 1, 1, 1]


def test_evaluation_passes(tmp_path, capsys):
    status, output = run(with_evaluation(tmp_path), capsys)
    assert status == 0, output
    for fixture in (
        "voc_large/large",
        "coco_edge/crowd_absorbs_many",
        "known_pairs/torchmetrics_docstring",
        "keras_yolo2_loss/g7_batch3",
    ):
        assert f"\n{fixture} " in output


@pytest.mark.data
@pytest.mark.parametrize(
    ("folder", "fixtures"),
    [pytest.param("darknet", 70, marks=pytest.mark.slow), ("ssd", 60), ("evaluation", 110)],
)
def test_the_whole_recordings_pass(folder, fixtures, shared):
    recorded = rows(shared / "oracles" / folder)
    assert [row for row in recorded if row.bad] == []
    assert len({row.fixture for row in recorded}) >= fixtures


def test_nothing_depends_on_the_names_of_cases(tmp_path):
    """Other names, another order and another folder for the cfg."""
    write_cases(tmp_path, "region_train", {"batch4_mixed": "b", "warmup_seen12800": "a", "no_softmax": "one"})
    for old, new in (("loss_mini_shared_prior", "loss_x"), ("det_mini_random", "det_y")):
        shutil.copy(FIXTURES / f"ssd/{old}.npz", tmp_path / f"{new}.npz")
    net = json.loads((FIXTURES / "darknet/net.json").read_text())["mini-tiny-96x64"]
    (tmp_path / "net.json").write_text(json.dumps({"third": {**net, "cfg": "other/my net.cfg"}}))
    shutil.copy(FIXTURES / "darknet/net_mini-tiny-96x64.npz", tmp_path / "net_third.npz")
    (tmp_path / "other").mkdir()
    shutil.copy(FIXTURES / "darknet/cfg/mini-tiny-96x64.cfg", tmp_path / "other/my net.cfg")
    renamed = rows(tmp_path)
    assert [row for row in renamed if row.bad] == []
    names = {row.fixture for row in renamed}
    assert names >= {
        "region_train/a",
        "region_train/b",
        "region_train/one",
        "loss_x (Caffe)",
        "det_y",
        "net/third",
    }


def test_two_folders_in_one_call(tmp_path, capsys):
    """A failure in the second folder counts too.

    A folder may hold several kinds of recordings, each in a subfolder.
    """
    copy(tmp_path / "good/inner", "l2norm.npz", source="ssd")
    write_cases(tmp_path / "good/other", "region_train", {"one": "one"})
    command.main([str(tmp_path / "good"), str(tmp_path / "good/inner")])
    assert capsys.readouterr().out.count("l2norm ") == 2 * 4
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="1"):
        command.main([str(tmp_path / "good"), str(tmp_path / "empty")])
    assert "this folder holds no fixture" in capsys.readouterr().out


# Planted mistakes


def patch_yaml(monkeypatch, name: str, value) -> None:
    """A wrong setting in the yaml of every loss."""
    original = presets.preset_config

    def changed(*names):
        config = original(*names)
        return replace(config, loss={**config.loss, name: value})

    monkeypatch.setattr(presets, "preset_config", changed)


def wrong_reorg(monkeypatch):
    monkeypatch.setattr(layers, "darknet_reorg", lambda x, stride=2: F.pixel_unshuffle(x, stride))


def prior_term_one_batch_too_long(monkeypatch):
    patch_yaml(monkeypatch, "prior_images", 12801)  # seen <= 12800


def no_small_box_factor(monkeypatch):
    patch_yaml(monkeypatch, "weigh_small_boxes", False)


def gradient_through_the_iou(monkeypatch):
    patch_yaml(monkeypatch, "iou_gradient", True)


def object_scale_in_the_yaml(monkeypatch):
    patch_yaml(monkeypatch, "object_scale", 4.0)


def prior_term_counted_in_batches(monkeypatch):
    original = RegionLoss.forward

    def forward(self, outputs, encoded, grid):
        before = self.images_seen.clone()
        terms = original(self, outputs, encoded, grid)
        self.images_seen.copy_(before + 1)
        return terms

    monkeypatch.setattr(RegionLoss, "forward", forward)


def no_sigmoid_on_y(monkeypatch):
    def outputs(raw):
        offsets = torch.cat([raw[..., :1].sigmoid(), raw[..., 1:4]], -1)
        return HeadOutputs(offsets, class_logits=raw[..., 5:], objectness=raw[..., 4])

    for module in (yolov2, region):  # the function's name in both
        monkeypatch.setattr(module, "region_head_outputs", outputs)


def torchvisions_boxes_are_not_clipped(monkeypatch):
    monkeypatch.setattr(ssd_detections, "clip", lambda boxes, size: boxes)


def last_box_overwrites(monkeypatch):
    monkeypatch.setattr(
        matching, "greedy_bipartite", lambda best_anchors, _: matching.number_of(best_anchors[..., 0])
    )


def clipped_default_boxes(monkeypatch):
    original = anchors.DefaultBoxes.__init__
    monkeypatch.setattr(
        anchors.DefaultBoxes,
        "__init__",
        lambda self, levels, size, clip=None: original(self, levels, size, clip or "cxcywh"),
    )


def eps_outside_the_root(monkeypatch):
    def forward(self, x):
        return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) * self.scale[:, None, None]

    monkeypatch.setattr(layers.L2Norm, "forward", forward)


def decay_on_biases(monkeypatch):
    original = optim.parameter_groups
    monkeypatch.setattr(
        optim,
        "parameter_groups",
        lambda *a, **k: [{**group, "weight_decay": 5e-4} for group in original(*a, **k)],
    )


def match_above_the_threshold_only(monkeypatch):
    original = voc.evaluate_voc
    monkeypatch.setattr(
        "detectors.commands.verify.evaluators.evaluate_voc", lambda *a, inclusive, **k: original(*a, **k)
    )


MISTAKES = {  # mistake -> source folder, files, and fixtures that must fail
    wrong_reorg: (
        "darknet",
        ["ops.*", "net.json", "net_mini-*", "cfg/mini-*"],
        ("ops/reorg0", "net/mini-yolov2-64"),
    ),
    prior_term_one_batch_too_long: ("darknet", ["region_train.*"], ("region_train/warmup_seen12800",)),
    no_small_box_factor: ("darknet", ["region_train.*"], ("region_train/one",)),
    gradient_through_the_iou: ("darknet", ["region_train.*"], ("region_train/one",)),
    last_box_overwrites: (
        "ssd",
        ["loss_mini_*.npz"],
        ("loss_mini_shared_prior (Caffe)", "loss_mini_ties (Caffe)"),
    ),
    clipped_default_boxes: ("ssd", ["priors.npz"], ("priors/ssd300_voc", "priors/ssd512_voc")),
    object_scale_in_the_yaml: (
        "darknet",
        ["region_train.*", "train*", "cfg/nano-*"],
        ("region_train/one", "train/nano-train.gpubn"),
    ),
    prior_term_counted_in_batches: (
        "darknet",
        ["region_train.*", "train*", "cfg/nano-*"],
        ("region_train/batch4_mixed", "train/nano-train.gpubn"),
    ),
    no_sigmoid_on_y: (
        "darknet",
        ["region_train.*", "region_decode.*"],
        ("region_train/one", "region_decode/voc13"),
    ),
    torchvisions_boxes_are_not_clipped: (
        "ssd",
        ["det_*.npz", "priors.npz"],
        ("det_ssd300voc_border", "det_mini_random"),
    ),
    eps_outside_the_root: ("ssd", ["l2norm.npz"], ("l2norm",)),
    decay_on_biases: (
        "darknet",
        ["train*", "cfg/nano-*"],
        ("train/nano-train.gpubn", "train/nano-classifier.gpubn"),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_planted_mistakes_are_caught(mistake, tmp_path, monkeypatch, capsys):
    source, patterns, fixtures = MISTAKES[mistake]
    copy(tmp_path, *patterns, source=source)
    mistake(monkeypatch)
    status, output = run(tmp_path, capsys)
    assert status == 1
    failed = [line for line in output.splitlines() if "FAIL: " in line]
    for fixture in fixtures:
        assert any(line.startswith(f"{fixture} ") for line in failed), output


def test_voc_threshold_mistake_is_caught(tmp_path, monkeypatch):
    copy(tmp_path / "voc", "voc_edge.json", source="evaluation")
    match_above_the_threshold_only(monkeypatch)
    assert {row.verdict for row in bad(tmp_path)} == {command.FAIL}
