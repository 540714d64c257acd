"""Parts from a configuration: sizes of a step in multi-scale training, and weights that a new run starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from detectors import checkpoint as ckpt
from detectors import parts
from detectors.config import Config, to_plain
from tests.test_configs import checked

NAMES = ("a", "b", "c")


def configured(*overrides: str, model: str = "ssd160") -> Config:
    return checked(f"model={model}", "model.width=0.125", *overrides)


def stored(config: Config, path: Path, class_names: tuple[str, ...] = NAMES) -> ckpt.Checkpoint:
    """A checkpoint of a detector that was drawn from another seed and has seen 1,000 images."""
    detector = parts.build_detector(config, len(class_names))
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter += 1
    model = detector.state_dict()
    if "loss.images_seen" in model:
        model["loss.images_seen"] = torch.tensor(1000)
    empty = {"progress": {}, "optimizer": {}, "random": {}}
    ckpt.save(ckpt.Checkpoint(path=path, step=7, config=to_plain(config), class_names=class_names, model=model, **empty))
    return ckpt.load(path)


def started(config: Config, checkpoint: ckpt.Checkpoint, class_names: tuple[str, ...] = NAMES) -> tuple[dict, dict, str]:
    """State dicts before and after, and what was printed."""
    detector = parts.build_detector(config, len(class_names))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    lines = parts.start_from(detector, checkpoint, config, class_names)
    return before, detector.state_dict(), "\n".join(lines)


@pytest.mark.parametrize("model", ["ssd160", "yolov2_160"])
def test_the_same_network_is_loaded_whole(model, tmp_path):
    """All but what the loss counts: the prior term looks at the images of this run."""
    config = configured(model=model)
    checkpoint = stored(config, tmp_path / "a.pt")
    before, after, text = started(config, checkpoint)
    ours = {name for name in after if not name.startswith("loss.")}
    assert_close({name: after[name] for name in ours}, {name: checkpoint.model[name] for name in ours}, rtol=0, atol=0)
    assert all(after[name].equal(before[name]) for name in after.keys() - ours)
    assert text == f"weights of {tmp_path / 'a.pt'}: {len(ours)} of {len(ours)} tensors loaded"


@pytest.mark.parametrize(
    ("model", "anew"), [("ssd160", {f"head.class_logits.{i}.{n}" for i in range(4) for n in ("weight", "bias")}), ("yolov2_160", None)]
)
def test_another_number_of_classes_starts_the_head_anew(model, anew, tmp_path):
    """Pain 18. In SSD only the class outputs; YOLOv2's one head is all of it."""
    config = configured(model=model)
    anew = anew or {"head.conv.weight", "head.conv.bias"}
    checkpoint = stored(config, tmp_path / "a.pt")
    before, after, text = started(config, checkpoint, ("a", "b", "c", "d", "e"))
    for name, tensor in after.items():
        if not name.startswith("loss."):
            assert tensor.equal(before[name] if name in anew else checkpoint.model[name]), name
    count = sum(not name.startswith("loss.") for name in after)
    assert f"{count - len(anew)} of {count} tensors loaded\ninitialised anew: {sorted(anew, key=list(after).index)[0]}" in text
    assert "(its size depends on the number of classes)" in text


def test_other_sizes_and_names_are_told_apart(tmp_path):
    """A wider backbone does not fit; the file's batch norm has no place in a network without."""
    checkpoint = stored(configured(), tmp_path / "a.pt")
    _, _, text = started(configured("model.batch_norm=false"), checkpoint)
    assert "in the file, but not used: backbone.stages.stage1.conv1_1.norm.weight" in text
    assert "(nothing here has this name)" in text
    assert "initialised anew: backbone.stages.stage1.conv1_1.conv.bias" in text and "(not in the file)" in text
    _, _, text = started(configured("model.width=0.25"), checkpoint)
    assert "(the file's has another size)" in text


def test_parts_can_be_held_back(tmp_path):
    """The originals took the backbone only."""
    config = configured("trainer.init_without=[neck,head]")
    checkpoint = stored(config, tmp_path / "a.pt")
    before, after, text = started(config, checkpoint)
    for name, tensor in after.items():
        assert tensor.equal((checkpoint.model if name.startswith("backbone.") else before)[name]), name
    assert "initialised anew: neck.conv4_3_norm.scale" in text and "(trainer.init_without)" in text
    with pytest.raises(ValueError, match=r"a\.pt: none of its \d+ tensors fits ssd160; set trainer\.init_from to weights of this network"):
        started(configured("trainer.init_without=[backbone,neck,head]"), checkpoint)
    with pytest.raises(ValueError, match=r"none of its \d+ tensors fits yolov2_160"):
        started(configured("model.width=1", model="yolov2_160"), checkpoint)


def test_a_head_of_other_classes_is_told(tmp_path):
    checkpoint = stored(configured(), tmp_path / "a.pt")
    assert "another order" in started(configured(), checkpoint, ("c", "b", "a"))[2]
    assert "another order" not in started(configured("trainer.init_without=[head]"), checkpoint, ("c", "b", "a"))[2]
    assert "another order" not in started(configured(), checkpoint, ("c", "b"))[2]  # told by the sizes


def test_pixels_of_another_scale_are_told(tmp_path):
    """A VGG-16 of torchvision wants mean and standard deviation, one of Caffe BGR."""
    checkpoint = stored(configured("model.pixel_std=[58,57,57]", "model.channel_order=bgr"), tmp_path / "a.pt")
    text = started(configured(), checkpoint)[2]
    assert "trained with pixel_std=[58, 57, 57], but model.pixel_std=[1, 1, 1] here; make them equal" in text
    assert "trained with channel_order=bgr, but model.channel_order=rgb here" in text
    assert "pixel_mean" not in text
    assert "trained with" not in started(configured("model.pixel_std=[58.0,57,57]", "model.channel_order=bgr"), checkpoint)[2]


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_wrong_file_is_named_with_the_way_out(content, tmp_path):
    if content:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=r"^trainer\.init_from: \S*a\.pt: .*; python -m detectors\.convert makes"):
        parts.initial_weights(str(tmp_path / "a.pt"))


def test_sizes_of_a_step():
    """Darknet's rule for the configuration's own numbers; nothing where it is off."""
    config = configured("input.multi_scale={min: 96, max: 160, every: 3, final_steps: 4}", "trainer.steps=200", model="yolov2_160")
    scales = parts.multi_scale(config)
    sizes = [scales(step) for step in range(200)]
    assert set(sizes) == {(96, 96), (128, 128), (160, 160)}
    assert sizes[0:195:3] == sizes[1:195:3] == sizes[2:195:3]
    assert sizes[196:] == [(160, 160)] * 4
    assert parts.multi_scale(configured()) is None
    assert parts.multi_scale(configured("input.multi_scale=null")) is None
