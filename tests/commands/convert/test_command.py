"""detectors convert: predict and evaluate take its checkpoints, round trips are exact, errors say why."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16

from detectors.commands.convert.options import SOURCE_KINDS
from detectors.commands.predict import command
from detectors.data.class_names import COCO_CLASSES, VOC_CLASSES, read_names
from detectors.metrics.report import report
from detectors.models.ssd import ssd300, ssd512
from detectors.training import assemble, ground_truth
from detectors.training import checkpoint as ckpt
from detectors.training.detection import detect
from detectors.training.initial import parameter_names, ssd_ports
from detectors.training.saving import restore
from tests.commands.convert.commands import NARROW, refused, run


def test_from_names_every_port():
    """The options are a module without PyTorch, so the names stand there once more."""
    assert ("checkpoint", "darknet", *ssd_ports.PORTS) == SOURCE_KINDS


def renamed(detector: nn.Module, names: Callable[[int], dict[str, str]]) -> dict[str, Tensor]:
    """Our weights under another program's names, in any width. names: a function of parameter_names."""
    caffe = {parameter_names.ours(name): tensor for name, tensor in detector.state_dict().items()}
    return {name: caffe[layer] for name, layer in names(len(detector.head.offsets)).items()}


@pytest.fixture
def narrow(tmp_path) -> Path:
    """A file with torchvision's names and 91 outputs, at an eighth of its width."""
    path = tmp_path / "tv.pth"
    torch.save(renamed(ssd300(num_classes=90, width=NARROW), parameter_names.torchvision), path)
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "image.png"
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 90, 120), generator=generator, dtype=torch.uint8)
    torchvision.io.write_png(pixels, str(path))
    return path


def test_round_trip_of_torchvisions_file(tmp_path, image, capsys):
    """In full size, with all 91 outputs: the same bits. predict takes the checkpoint in between."""
    with torch.device("meta"):
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.empty_like(tensor).uniform_(-0.02, 0.02, generator=generator)
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, tmp_path / "tv.pth")
    run(tmp_path / "tv.pth", tmp_path / "ours.pt", "--keep-91")
    assert "71 of 71 tensors loaded" in capsys.readouterr().out
    run(tmp_path / "ours.pt", tmp_path / "back.pth")
    call = "ssd300_vgg16(weights=None, weights_backbone=None, num_classes=91)"
    assert f"{call} takes it" in capsys.readouterr().out
    back = ckpt.read_tensors(tmp_path / "back.pth")
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    options = ["--score", "0.01", "--output", str(tmp_path / "drawn"), "--device", "cpu"]
    command.main([str(tmp_path / "ours.pt"), str(image), *options])
    assert (tmp_path / "drawn/image.png").is_file()


def test_91_outputs_become_cocos_80_classes(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "ours.pt", f"model.width={NARROW}")
    assert "81 of 91 outputs are kept" in capsys.readouterr().out
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    assert stored.class_names == COCO_CLASSES
    model = stored.config["model"]
    assert model["sizes"] == "coco"
    assert model["clip_default_boxes"] == "wh"
    assert model["pixel_mean"] == [122.99925, 116.9991, 103.9992]
    assert stored.config["data"]["name"] == "coco2017"
    file_biases = ckpt.read_tensors(narrow)["head.classification_head.module_list.1.bias"].view(-1, 91)
    biases = stored.model["head.class_logits.1.bias"].view(-1, 81)
    assert torch.equal(biases, file_biases[:, ssd_ports.used_coco_columns()])

    run(narrow, tmp_path / "all.pt", f"model.width={NARROW}", "--keep-91")
    stored = ckpt.load_checkpoint(tmp_path / "all.pt")
    unused = [n for n, name in enumerate(stored.class_names, 1) if name.startswith("unused")]
    assert unused == list(ssd_ports.COCO_UNUSED)
    assert [name for name in stored.class_names if not name.startswith("unused")] == list(COCO_CLASSES)


def test_a_converted_checkpoint_can_be_evaluated(tmp_path, narrow):
    """As evaluate.py does, on data with other classes than the checkpoint."""
    run(
        narrow,
        tmp_path / "ours.pt",
        f"model.width={NARROW}",
        "data=shapes",
        f"paths.cache={tmp_path}",
        "data.shapes.train=1",
        "data.shapes.val=2",
    )
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    detector, config = assemble.load_detector(stored, torch.device("cpu"))
    annotations = ground_truth.read_annotations(config.data, "val")
    detections, _ = detect(
        detector, assemble.eval_loader(config, annotations, batch_size=2), torch.device("cpu"), progress=False
    )
    assert len(detections.scores) == 2 * 200  # random weights: the maximum per image
    assert detections.labels.max() < 80
    detections = type(detections)(
        detections.image,
        detections.boxes,
        detections.scores,
        detections.labels % len(annotations.class_names),
    )
    assert report(annotations, detections).scalars["AP"] is not None


@pytest.mark.parametrize(
    ("build", "outputs", "model", "sizes"),
    [(ssd300, 21, "ssd300", "voc"), (ssd300, 4, "ssd300_coco", "coco"), (ssd512, 21, "ssd512", "voc")],
)
def test_ssd_pytorch_chooses_its_default_boxes_by_the_number_of_classes(
    tmp_path, build, outputs, model, sizes
):
    (tmp_path / "abc.names").write_text("a\nb\nc\n")
    torch.save(
        renamed(build(num_classes=outputs - 1, width=NARROW), parameter_names.ssd_pytorch), tmp_path / "x.pth"
    )
    names = [] if outputs == 21 else ["--names", tmp_path / "abc.names"]
    run(tmp_path / "x.pth", tmp_path / "ours.pt", *names, f"model.width={NARROW}")
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    assert stored.config["name"] == model
    assert stored.config["model"]["sizes"] == sizes
    assert stored.config["model"]["clip_default_boxes"] == "cxcywh"
    assert stored.class_names == (VOC_CLASSES if outputs == 21 else ("a", "b", "c"))
    assert stored.config["input"]["size"] == ([512, 512] if build is ssd512 else [300, 300])


def test_other_classes_reinitialise_the_class_logits(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "ours.pt", "--names", "voc", f"model.width={NARROW}", "--report")
    lines = capsys.readouterr().out.splitlines()
    reason = "initialised: its size depends on the number of classes"
    initialised = [line.split()[0] for line in lines if reason in line]
    class_logits = [f"head.class_logits.{level}.{part}" for level in range(6) for part in ("weight", "bias")]
    assert initialised == class_logits
    assert sum(" from " in line for line in lines) == 71 - 12
    stored = ckpt.load_checkpoint(tmp_path / "ours.pt")
    assert stored.class_names == VOC_CLASSES
    assemble.load_detector(stored, torch.device("cpu"))


def test_our_own_checkpoint_for_other_classes(tmp_path, narrow, capsys):
    """What fits is kept, and the checkpoint contains the new class names."""
    run(narrow, tmp_path / "coco.pt", f"model.width={NARROW}")
    (tmp_path / "two.names").write_text("cat\ndog\n")
    capsys.readouterr()
    run(tmp_path / "coco.pt", tmp_path / "two.pt", "--names", tmp_path / "two.names")
    assert "59 of 71 tensors loaded" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"two.pt: it holds weights alone.*init.from"):
        restore(None, ckpt.load_checkpoint(tmp_path / "two.pt"))
    before = ckpt.load_checkpoint(tmp_path / "coco.pt")
    after = ckpt.load_checkpoint(tmp_path / "two.pt")
    assert after.class_names == ("cat", "dog")
    assert after.config["data"]["class_names"] == ["cat", "dog"]
    assert torch.equal(after.model["head.offsets.3.weight"], before.model["head.offsets.3.weight"])
    assert after.model["head.class_logits.3.bias"].shape == (6 * 3,)


def test_ssd300_initialises_ssd512(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "coco.pt", f"model.width={NARROW}")
    message = refused(
        capsys, tmp_path / "coco.pt", tmp_path / "x.pt", "--model", "ssd512_coco", f"model.width={NARROW}"
    )
    assert "is" in message and "--partial" in message
    options = ["--model", "ssd512_coco", "--partial", f"model.width={NARROW}"]
    run(tmp_path / "coco.pt", tmp_path / "x.pt", *options)
    output = capsys.readouterr().out
    assert "(not in the file)" in output and "(the file's has another size)" in output
    model = ckpt.load_checkpoint(tmp_path / "x.pt").config["model"]
    assert model["pixel_mean"] == [122.99925, 116.9991, 103.9992]


def classifier(path: Path) -> None:
    """Writes VGG-16's state dict in little memory: each tensor is a view of one number."""
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in torchvision.models.vgg16(weights=None).state_dict().items()
        }
    torch.save({name: torch.full((1,), 0.25).expand(shape) for name, shape in shapes.items()}, path)


def test_a_classifier_becomes_the_backbone(tmp_path, capsys):
    classifier(tmp_path / "vgg16.pth")
    message = refused(capsys, tmp_path / "vgg16.pth", tmp_path / "x.pt")
    assert "a backbone has no classes; name them with --names" in message
    run(tmp_path / "vgg16.pth", tmp_path / "x.pt", "--names", "voc")
    output = capsys.readouterr().out
    assert "30 of 71 tensors loaded" in output
    assert "in the file, but not used: classifier.6.weight, classifier.6.bias (ImageNet's classes)" in output
    stored = ckpt.load_checkpoint(tmp_path / "x.pt")
    assert stored.config["name"] == "ssd300"
    assert stored.config["model"]["pixel_std"] == [58.395, 57.12, 57.375]
    assert (stored.model["backbone.fc7.conv.weight"] == 0.25).all()
    assert not (stored.model["neck.levels.0.conv6_1.conv.weight"] == 0.25).any()


def test_overrides_of_pixel_settings(tmp_path, narrow):
    overrides = [f"model.width={NARROW}", "model.channel_order=bgr", "model.pixel_mean=[104,117,123]"]
    run(narrow, tmp_path / "x.pt", *overrides)
    model = ckpt.load_checkpoint(tmp_path / "x.pt").config["model"]
    assert (model["channel_order"], model["pixel_mean"]) == ("bgr", [104, 117, 123])


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_unsafe_damaged_and_unknown_files_are_refused(tmp_path, narrow, capsys):
    target = tmp_path / "x.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    message = refused(capsys, tmp_path / "a.pth", target)
    assert (
        "a.pth: refused, because it is not a plain file of tensors (it asks for argparse.Namespace" in message
    )
    torch.save({"a": Harmful()}, tmp_path / "b.pth")
    assert "b.pth: refused" in refused(capsys, tmp_path / "b.pth", target)
    (tmp_path / "c.pth").write_bytes(narrow.read_bytes()[:-1000])
    message = refused(capsys, tmp_path / "c.pth", target)
    assert "c.pth: cannot be read as a checkpoint, it may be truncated" in message
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "d.pth")
    message = refused(capsys, tmp_path / "d.pth", target)
    assert (
        "d.pth: unknown network, with conv.weight as its first parameter of 1; known are, by their" in message
    )
    assert "ssd.pytorch (L2Norm.weight, vgg.0.weight)" in message
    assert "nothing.pth" in refused(capsys, tmp_path / "nothing.pth", target)
    assert not target.exists()


def test_partial_needs_a_tensor_that_fits(tmp_path, narrow, capsys):
    """Also where the names are all there, in other sizes."""
    state = {
        name: torch.zeros(0)
        for name in renamed(ssd300(num_classes=90, width=NARROW), parameter_names.torchvision)
    }
    state |= {name: torch.zeros(4 * 91, 1, 1, 1) for name in state if "classification" in name}
    state |= {name: torch.zeros(16, 1, 1, 1) for name in state if "regression" in name}
    torch.save(state, tmp_path / "odd.pth")
    message = refused(capsys, tmp_path / "odd.pth", tmp_path / "x.pt", "--partial", f"model.width={NARROW}")
    assert "odd.pth: no tensor of torchvision's SSD fits ssd300_coco (backbone." in message
    assert "the file's has another size); choose the model of the file" in message
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("model", [None, 3, "x", []])
def test_a_checkpoint_without_a_model_is_refused(tmp_path, narrow, capsys, model):
    run(narrow, tmp_path / "ours.pt", f"model.width={NARROW}")
    content = ckpt.read_tensors(tmp_path / "ours.pt")
    content["config"]["model"] = model
    torch.save(content, tmp_path / "odd.pt")
    capsys.readouterr()
    for options in ([], ["--model", "ssd512"]):
        message = refused(capsys, tmp_path / "odd.pt", tmp_path / "x.pt", *options)
        assert message.startswith("error: ") and "Traceback" not in message
    assert message.startswith(f"error: {tmp_path / 'odd.pt'}: its configuration has no model;")


def test_a_wrapped_state_dict_is_converted(tmp_path, narrow):
    tensors = {f"module.module.{name}": tensor for name, tensor in ckpt.read_tensors(narrow).items()}
    torch.save({"net": tensors, "acc": 0.5}, tmp_path / "wrapped.pth")
    for source in (narrow, tmp_path / "wrapped.pth"):
        run(source, tmp_path / f"{source.stem}.pt", f"model.width={NARROW}")
    one, other = (ckpt.load_checkpoint(tmp_path / f"{name}.pt").model for name in ("tv", "wrapped"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "content", [[], "text", 3, torch.zeros(2), [[torch.zeros(1)]], {}, {"model": [1]}, None]
)
def test_files_of_anything_but_named_tensors_are_refused(tmp_path, capsys, content):
    torch.save(content, tmp_path / "odd.pth")
    for kind in ([], ["--from", "torchvision"], ["--from", "checkpoint"]):
        message = refused(capsys, tmp_path / "odd.pth", tmp_path / "x.pt", *kind)
        assert message.startswith(f"error: {tmp_path / 'odd.pth'}: ")
        assert "no state dict" in message or "no checkpoint that train.py wrote" in message


def test_unsuitable_arguments_are_refused(tmp_path, narrow, capsys):
    target = tmp_path / "x.pt"
    assert "the same file" in refused(capsys, narrow, narrow)
    run_file = tmp_path / "last.pt"
    run_file.write_bytes(b"precious")
    text = f"error: {run_file}: is the checkpoint of a run; give the target another name\n"
    assert refused(capsys, narrow, run_file).startswith(text) and run_file.read_bytes() == b"precious"
    assert "the suffix does not say what to write" in refused(capsys, narrow, tmp_path / "x.onnx")
    message = refused(capsys, narrow, target, "--model", "yolov2")
    assert "torchvision's SSD has no backbone.stages.0.0.conv.weight, which yolov2 needs" in message
    assert "64x3x3x3 here and 8x3x3x3 in the file" in refused(capsys, narrow, target)
    assert "Darknet's weights do not say" in refused(capsys, narrow, target, "--from", "darknet")
    assert "ssd30" in refused(capsys, narrow, target, "--model", "ssd30")
    message = refused(capsys, narrow, target, "trainer.stpes=3")
    assert "there is no such setting; did you mean trainer.steps" in message
    assert not target.exists()


def test_networks_that_the_target_does_not_have_are_refused(tmp_path, narrow, capsys):
    run(narrow, tmp_path / "x.pt", f"model.width={NARROW}")
    capsys.readouterr()
    assert "its width is not 1" in refused(capsys, tmp_path / "x.pt", tmp_path / "x.pth")
    assert "is not a Darknet network" in refused(capsys, tmp_path / "x.pt", tmp_path / "x.weights")
    assert not (tmp_path / "x.pth").exists() and not (tmp_path / "x.weights").exists()


def test_names_files(tmp_path):
    path = tmp_path / "x.names"
    path.write_text("a\r\nb c\n\n")
    assert read_names(path) == ("a", "b c")
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="x.names: names 'a' twice"):
        read_names(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="x.names: is empty"):
        read_names(path)
    with pytest.raises(FileNotFoundError, match="nothing.names"):
        read_names(tmp_path / "nothing.names")


@pytest.mark.data
def test_a_truncated_file_from_the_wild(tmp_path, shared, capsys):
    path = shared / "bad-input/checkpoints/vgg16_reducedfc_truncated_196608.pth"
    message = refused(capsys, path, tmp_path / "x.pt", "--names", "voc")
    assert f"{path.name}: cannot be read as a checkpoint, it may be truncated" in message
