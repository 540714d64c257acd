"""YOLO9000: its size, its cfg, its weights, and prediction with Darknet's files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from detectors.commands.convert import command as convert
from detectors.commands.predict import command as predict
from detectors.darknet.cfg import read_cfg
from detectors.darknet.cfg_detector import darknet_detector
from detectors.darknet.weights import check_weights, convolutions, load_weights, save_weights
from detectors.models.yolo9000 import yolo9000
from detectors.training import assemble
from detectors.training.checkpoint import load_checkpoint
from tests.wordtree import trees

STAGES = ((32,), (64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512))
LAST = (1024, 512, 1024, 512, 1024)
REGION = """[region]
anchors = 0.77871, 1.14074, 3.00525, 4.31277, 9.22725, 9.61974
bias_match=1
classes=8
num=3
softmax=1
rescore=1
object_scale=5
thresh=.6
tree=data/x.tree
map = data/x.map
"""


def cfg_text(width: int) -> str:
    """yolo9000.cfg with 1/width of the channels, for the small tree."""
    net = "[net]\nwidth=64\nheight=64\nchannels=3\n\n"
    stages = []
    for channels in (*STAGES, LAST):
        layers = [
            f"[convolutional]\nbatch_normalize=1\nfilters={count // width}\nsize={3 if n % 2 == 0 else 1}\n"
            "stride=1\npad=1\nactivation=leaky\n"
            for n, count in enumerate(channels)
        ]
        stages.append("\n".join(layers))
    body = "\n[maxpool]\nsize=2\nstride=2\n\n".join(stages)
    head = "\n[convolutional]\nfilters=39\nsize=1\nstride=1\npad=1\nactivation=linear\n\n"
    return net + body + head + REGION


@pytest.fixture
def folder(tmp_path):
    """cfg/x.cfg and the files that it names, in data/."""
    (tmp_path / "data").mkdir()
    (tmp_path / "cfg").mkdir()
    rows = zip(trees.NAMES, trees.PARENTS, strict=True)
    (tmp_path / "data/x.tree").write_text("".join(f"{name} {parent}\n" for name, parent in rows))
    (tmp_path / "data/x.map").write_text("3\n5\n")
    (tmp_path / "cfg/x.cfg").write_text(cfg_text(4))
    return tmp_path


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return yolo9000(
        num_classes=8,
        tree={"animal": {"cat": None, "dog": ["spaniel", "poodle"], "cow": None}, "thing": "cup"},
        width=1 / 4,
    )


def test_the_size_of_the_weights_file():
    with torch.device("meta"):
        layers = convolutions(yolo9000(num_classes=9418))
    assert sum(layer.count for layer in layers) == 48_807_501
    assert 4 * 48_807_501 + 16 == 195_230_020
    assert len(layers) == 19


def test_the_builder_is_the_network_of_the_cfg(folder):
    """The cfg names its files as seen from the folder above it; other folders find them, too."""
    model = small().eval()
    save_weights(model, folder / "x.weights")
    config = read_cfg(folder / "cfg/x.cfg")
    assert (config.region.tree, config.region.map) == (trees.SMALL, (3, 5))
    assert sorted(config.contents) == ["data/x.map", "data/x.tree"]
    text = (folder / "cfg/x.cfg").read_text()
    other = darknet_detector(num_classes=8, cfg=text, contents=config.contents).eval()
    load_weights(other, folder / "x.weights")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ours, theirs = model(images), other(images)
        assert_close(ours.class_logits, theirs.class_logits, atol=1e-5, rtol=1e-4)
        assert_close(ours.objectness, theirs.objectness, atol=1e-5, rtol=1e-4)
        detections = other.postprocess(theirs, other.grid((64, 96)))
    assert other.postprocess.score_rule.rule == "darknet"
    assert set(detections.labels.tolist()) <= set(range(8))
    assert other.loss.tree.label_map.tolist() == [3, 5] and other.loss.class_only_objectness == "darknet"
    assert len(check_weights(other, folder / "x.weights").unchanged) == 0


def test_another_number_of_classes_needs_another_tree(folder):
    with pytest.raises(ValueError, match="num_classes=9: the tree has 8 nodes"):
        yolo9000(num_classes=9, tree=str(folder / "data/x.tree"), width=1 / 4)
    contents = read_cfg(folder / "cfg/x.cfg").contents
    with pytest.raises(ValueError, match="its tree has 8 classes, not 3"):
        darknet_detector(num_classes=3, cfg=(folder / "cfg/x.cfg").read_text(), contents=contents)


def test_a_softmax_over_a_tree_has_one_group(folder):
    net = "[net]\nwidth=8\nheight=8\nchannels=3\n\n"
    text = f"{net}[convolutional]\nfilters=8\nsize=1\n\n[avgpool]\n\n[softmax]\n"
    (folder / "cfg/y.cfg").write_text(f"{text}tree=data/x.tree\n")
    assert read_cfg(folder / "cfg/y.cfg").layers[-1].settings.tree == trees.SMALL
    (folder / "cfg/y.cfg").write_text(f"{text}groups=2\ntree=data/x.tree\n")
    with pytest.raises(ValueError, match="with a tree, groups must be 1"):
        read_cfg(folder / "cfg/y.cfg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes=8", "classes=7"), "needs|need"),
        (("tree=data/x.tree\n", ""), r"\[region\] map=data/x.map: only supported together with tree="),
        (("x.tree", "y.tree"), r"\[region\] tree=data/y.tree: data/y.tree: no such tree file"),
    ],
)
def test_a_cfg_whose_files_do_not_fit(change, message, folder):
    (folder / "cfg/x.cfg").write_text((folder / "cfg/x.cfg").read_text().replace(*change))
    with pytest.raises(ValueError, match=message):
        read_cfg(folder / "cfg/x.cfg")


def test_a_tree_of_another_size_is_refused(folder):
    (folder / "data/x.tree").write_text("a -1\nb -1\n")
    with pytest.raises(
        ValueError, match=r"\[region\] tree=data/x.tree: the tree has 2 nodes, and the layer 8"
    ):
        read_cfg(folder / "cfg/x.cfg")


def test_predict_takes_a_cfg_with_a_tree(folder, tmp_path, capsys):
    save_weights(small(), folder / "x.weights")
    (folder / "data/x.names").write_text("animal\nthing\ncat\ndog\ncow\ncup\ndog\npoodle\n")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "a.png")
    start = [
        "--cfg",
        str(folder / "cfg/x.cfg"),
        "--weights",
        str(folder / "x.weights"),
        str(folder / "a.png"),
    ]
    start += ["--names", str(folder / "data/x.names"), "--score", "0.1", "--output", str(tmp_path / "out")]
    lines = {}
    for rule in ("darknet", "as_meant"):
        predict.main([*start, "--tree-rule", rule, "--hier", "0.1"])
        lines[rule] = capsys.readouterr().out
    assert lines["darknet"] != lines["as_meant"]
    predict.main([*start, "--map", str(folder / "data/x.map")])
    found = capsys.readouterr().out
    assert "dog (dog)" in found or "cup" in found
    assert "poodle" not in found and "animal" not in found


def test_a_converted_checkpoint_holds_its_tree(folder, tmp_path):
    """So that it can be used where the files of the cfg are not."""
    model = small().eval()
    save_weights(model, folder / "x.weights")
    convert.main([str(folder / "x.weights"), str(folder / "x.pt"), "--cfg", str(folder / "cfg/x.cfg")])
    (folder / "data/x.tree").unlink()
    (folder / "cfg/x.cfg").unlink()
    checkpoint = load_checkpoint(folder / "x.pt")
    assert checkpoint.class_names == trees.NAMES
    detector, config = assemble.load_detector(checkpoint, torch.device("cpu"))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ours, theirs = model(images), detector(images)
    assert_close(ours.class_logits, theirs.class_logits, atol=1e-5, rtol=1e-4)
    assert detector.postprocess.score_rule.tree == detector.loss.tree.softmax.tree == trees.SMALL
    assert detector.loss.tree.label_map.tolist() == [3, 5]
    assert config.loss["class_only_objectness"] == "darknet"
