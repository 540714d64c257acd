"""init.from with checkpoints of ours: what is loaded, what is left, and what is said about it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.config.check import check
from detectors.config.schema import to_plain
from detectors.training.initial.initial_weights import initial_weights
from tests.training.initial.starts import NAMES, configured, started, stored


@pytest.mark.parametrize("model", ["ssd160", "yolov2_160"])
def test_the_same_network_is_loaded_whole(model, tmp_path):
    """All but what the loss counts: the prior term looks at the images of this run."""
    config = configured(model=model)
    checkpoint = stored(config, tmp_path / "a.pt")
    before, after, text = started(config, checkpoint.path)
    ours = {name for name in after if not name.startswith("loss.")}
    assert_close(
        {name: after[name] for name in ours}, {name: checkpoint.model[name] for name in ours}, rtol=0, atol=0
    )
    assert all(after[name].equal(before[name]) for name in after.keys() - ours)
    assert text == f"weights of {tmp_path / 'a.pt'}: {len(ours)} of {len(ours)} tensors loaded"


def test_other_sizes_and_names_are_told_apart(tmp_path):
    """A wider backbone does not fit; the file's batch norm has no place in a network without."""
    path = stored(configured(), tmp_path / "a.pt").path
    _, _, text = started(configured("model.batch_norm=false"), path)
    assert "in the file, but not used: backbone.stages.stage1.conv1_1.norm.weight" in text
    assert "(nothing here has this name)" in text
    assert (
        "initialised anew: backbone.stages.stage1.conv1_1.conv.bias" in text and "(not in the file)" in text
    )
    _, _, text = started(configured("model.width=0.25"), path)
    assert "(the file's has another size)" in text


def test_parts_can_be_held_back(tmp_path):
    """The originals took the backbone only."""
    config = configured("init.without=[neck,head]")
    checkpoint = stored(config, tmp_path / "a.pt")
    for names in (NAMES, ("c", "d")):
        before, after, text = started(config, checkpoint.path, names)
        for name, tensor in after.items():
            assert tensor.equal((checkpoint.model if name.startswith("backbone.") else before)[name]), name
        assert "initialised anew: neck.conv4_3_norm.scale" in text and "(init.without)" in text
        assert "loaded in part" not in text
    with pytest.raises(
        ValueError, match=r"a\.pt: none of its \d+ tensors fits ssd160; set init\.from to weights of this"
    ):
        started(configured("init.without=[backbone,neck,head]"), checkpoint.path)
    with pytest.raises(ValueError, match=r"none of its \d+ tensors fits yolov2_160"):
        started(configured("model.width=1", model="yolov2_160"), checkpoint.path)


def test_pixels_and_anchors_of_other_weights_are_named(tmp_path):
    """A VGG-16 of torchvision wants mean and standard deviation, one of Caffe BGR."""
    other = configured("model.pixel_std=[58,57,57]", "model.channel_order=bgr", "model.sizes=coco")
    path = stored(other, tmp_path / "a.pt").path
    text = started(configured(), path)[2]
    assert "trained with pixel_std=[58, 57, 57], but model.pixel_std=[1, 1, 1] here; make them equal" in text
    assert "trained with channel_order=bgr, but model.channel_order=rgb here" in text
    assert "trained with sizes=coco, but model.sizes=voc here" in text
    assert "pixel_mean" not in text
    same = configured("model.pixel_std=[58.0,57,57]", "model.channel_order=bgr", "model.sizes=coco")
    assert "trained with" not in started(same, path)[2]


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_wrong_file_is_named_with_the_way_out(content, tmp_path):
    if content:
        (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(
        (FileNotFoundError, ValueError), match=r"^init\.from: \S*a\.pt: .*; docs/transfer\.md lists what"
    ):
        initial_weights(str(tmp_path / "a.pt"))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = {name: torch.full((8,), torch.nan) for name in ("backbone.stages.stage1.conv1_1.norm.bias",)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: backbone\.stages\S*norm\.bias holds NaN or infinity"):
        started(configured(), tmp_path / "a.pth")


def test_stored_configurations_of_before_have_their_settings_in_trainer():
    """A run that began with trainer.init_from can be resumed, evaluated and started from."""
    settings = to_plain(configured())
    del settings["init"]
    settings["trainer"] |= {"init_from": "a.pt", "init_without": ["head"]}
    config = check(settings)
    assert (config.init.from_, config.init.without, config.init.randomize) == ("a.pt", ["head"], "none")
    assert to_plain(config)["init"] == {"from": "a.pt", "without": ["head"], "randomize": "none"}
    assert settings["trainer"]["init_from"] == "a.pt"  # what was given is not changed


def test_stored_configurations_of_before_have_a_file_of_the_backbone():
    """model.backbone_weights is init.from, unless that named another file, which came later."""
    settings = to_plain(configured())
    for before, given, expected in (("a.pth", None, "a.pth"), ("a.pth", "b.pt", "b.pt"), (None, None, None)):
        settings["model"]["backbone_weights"] = before
        settings["init"]["from"] = given
        assert check(settings).init.from_ == expected
