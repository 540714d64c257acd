"""SSD's weights from and for other programs: names against recorded maps, equal outputs, the way back bit for bit, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection import SSD300_VGG16_Weights, ssd300_vgg16
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList

from detectors.commands.convert import parameter_names, ssd_ports
from detectors.data.class_names import COCO_CLASSES
from detectors.models.ssd import ssd160, ssd300, ssd512
from detectors.training.transfer import fit_tensors


@pytest.fixture(scope="module")
def recorded(fixtures) -> dict:
    return json.loads((fixtures / "ssd/name_maps.json").read_text())


@pytest.fixture(scope="module", params=[21, 91])
def theirs(request) -> nn.Module:
    """torchvision's SSD300 with 21 or 91 outputs, every parameter random, a few units at the heads."""
    generator = torch.Generator().manual_seed(request.param)
    with torch.device("meta"):  # every parameter is set below
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=request.param)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        limit = (6 / parameter[0].numel()) ** 0.5 if parameter.ndim == 4 else 0.05
        parameter.data.uniform_(-limit, limit, generator=generator)
    model.backbone.features[0].weight.data /= 128  # for pixels of 0..255
    model.backbone.scale_weight.data.uniform_(15, 25, generator=generator)
    return model


def loaded(found: ssd_ports.PortWeights, detector: nn.Module) -> nn.Module:
    """Our detector with all the weights of a file."""
    state = detector.state_dict()
    tensors = {name: found.tensors[parameter_names.ours(name)] for name in state}
    transfer = fit_tensors(state, tensors, where="x.pth", twin={})
    assert not transfer.left
    detector.load_state_dict(transfer.state)
    return detector.eval()


def on_meta(build, **keywords) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(**keywords).state_dict()


@pytest.mark.parametrize("program", ["torchvision", "ssd_pytorch"])
def test_names_are_the_recorded_ones(recorded, program):
    assert getattr(parameter_names, program)(6) == recorded[program]


@pytest.mark.parametrize("outputs", [21, 91])
def test_names_come_in_the_order_of_torchvisions_state_dict(outputs):
    with torch.device("meta"):
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=outputs)
    assert list(parameter_names.torchvision(6)) == list(model.state_dict())


def test_names_of_the_classifier_are_torchvisions():
    with torch.device("meta"):
        assert list(parameter_names.vgg16()) == list(torchvision.models.vgg16(weights=None).state_dict())


@pytest.mark.parametrize(("build", "levels", "recording"), [(ssd300, 6, "mmdet300"), (ssd512, 7, "mmdet512")])
def test_our_names_lead_to_caffes(recorded, build, levels, recording):
    """Each to one, and to all; in both sizes."""
    mine = [parameter_names.ours(name) for name in on_meta(build, num_classes=20)]
    assert sorted(mine) == sorted(recorded[recording].values())
    for rule in (parameter_names.torchvision, parameter_names.ssd_pytorch):
        assert sorted(rule(levels).values()) == sorted(mine)


def test_batch_norm_has_no_name_in_caffe():
    unnamed = [
        name for name in on_meta(ssd160, num_classes=1, batch_norm=True) if parameter_names.ours(name) is None
    ]
    assert unnamed
    assert all(".norm." in name for name in unnamed)


def test_coco_columns(recorded):
    """Against the recorded rows, and against the names in torchvision's own table."""
    columns = ssd_ports.used_coco_columns()
    assert columns == recorded["coco91_rows_for_81"]
    table = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    assert ["__background__", *COCO_CLASSES] == [table[column] for column in columns]
    assert {table[column] for column in ssd_ports.COCO_UNUSED} == {"N/A"}


def test_outputs_equal_torchvisions(theirs):
    """The whole of it: pixels, network, default boxes. Raw head outputs within 1e-4; boxes within 1e-3 pixels."""
    outputs = theirs.head.classification_head.num_columns
    found = ssd_ports.read_port(theirs.state_dict(), "torchvision", "x.pth")
    assert (found.levels, found.outputs) == (6, outputs)
    ours = loaded(found, ssd300(num_classes=outputs - 1, sizes="coco", **found.settings))
    images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine = ours(images * 255)
        normalized, _ = theirs.transform(list(images))
        features = list(theirs.backbone(normalized.tensors).values())
        expected = theirs.head(features)
    assert expected["cls_logits"].std() > 1  # the comparison would mean little on outputs near 0
    assert_close(mine.offsets, expected["bbox_regression"], atol=1e-4, rtol=0)
    assert_close(mine.class_logits, expected["cls_logits"], atol=1e-4, rtol=0)
    generator: DefaultBoxGenerator = theirs.anchor_generator
    corners = generator(ImageList(normalized.tensors, [(300, 300)]), features)[0]
    wh = corners[:, 2:] - corners[:, :2]
    boxes_cxcywh = ours.grid((300, 300)).boxes_cxcywh
    assert_close(boxes_cxcywh, torch.cat([corners[:, :2] + wh / 2, wh], 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["torchvision", "ssd.pytorch"])
def test_the_way_back_is_bit_for_bit(theirs, kind):
    """their state dict -> ours -> theirs: the same keys in the same order, the same bits; and torchvision loads it."""
    state = theirs.state_dict()
    if kind == "ssd.pytorch":
        caffe = parameter_names.torchvision(6)
        by_layer = {caffe[name]: tensor for name, tensor in state.items()}
        state = {name: by_layer[layer] for name, layer in parameter_names.ssd_pytorch(6).items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    found = ssd_ports.read_port(state, kind, "x.pth")
    ours = loaded(found, ssd300(num_classes=found.outputs - 1))
    back = ssd_ports.write_port(ours.state_dict(), kind)
    assert list(back) == list(state)
    for name, tensor in back.items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.is_contiguous()
        assert torch.equal(state[name], before[name]), f"{name} was changed"
    if kind == "torchvision":
        with torch.device("meta"):
            again = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=found.outputs)
        again.load_state_dict(back, assign=True)


@pytest.mark.parametrize("kind", ["torchvision", "ssd.pytorch"])
def test_ssd512_goes_there_and_back(kind):
    """With one level more, and 4x4 windows at the end."""
    ours = ssd512(num_classes=3).state_dict()
    found = ssd_ports.read_port(ssd_ports.write_port(ours, kind), kind, "x.pth")
    assert (found.levels, found.outputs) == (7, 4)
    for name, tensor in ours.items():
        assert torch.equal(found.tensors[parameter_names.ours(name)], tensor), name


def test_kinds_are_told_apart():
    with torch.device("meta"):
        classifier = torchvision.models.vgg16(weights=None).state_dict()
        lite = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None
        ).state_dict()
    assert ssd_ports.identify(dict.fromkeys(parameter_names.torchvision(6))) == "torchvision"
    assert ssd_ports.identify(dict.fromkeys(parameter_names.ssd_pytorch(7))) == "ssd.pytorch"
    assert ssd_ports.identify(classifier) == "vgg16"
    assert ssd_ports.identify(dict.fromkeys(parameter_names.vgg16_reduced())) == "vgg16_reduced"
    assert ssd_ports.identify(lite) is None
    assert ssd_ports.identify(on_meta(ssd300, num_classes=1)) is None


def test_91_outputs_become_81():
    """Row by row: output `column` of anchor k is channel k * 91 + column."""
    tensors = {
        f"fc7_mbox_conf.{part}": torch.arange(6.0 * 91).reshape(-1, *[1] * ndim)
        for part, ndim in (("weight", 3), ("bias", 0))
    }
    tensors["fc7_mbox_loc.weight"] = torch.zeros(6 * 4, 1, 1, 1)
    found = ssd_ports.PortWeights("torchvision", tensors, {}, {})
    chosen = ssd_ports.select_outputs(found, ssd_ports.used_coco_columns())
    assert (found.outputs, chosen.outputs) == (91, 81)
    for part in ("weight", "bias"):
        after = chosen.tensors[f"fc7_mbox_conf.{part}"]
        assert after.ndim == found.tensors[f"fc7_mbox_conf.{part}"].ndim
        for anchor in range(6):
            for new, old in enumerate(ssd_ports.used_coco_columns()):
                assert after[anchor * 81 + new].item() == anchor * 91 + old
    assert chosen.tensors["fc7_mbox_loc.weight"] is tensors["fc7_mbox_loc.weight"]


def classifier_state(*, finite: bool = True) -> dict[str, Tensor]:
    """torchvision's vgg16 with small whole numbers in it; large layers without memory of their own."""
    with torch.device("meta"):
        shapes = {
            name: tensor.shape for name, tensor in torchvision.models.vgg16(weights=None).state_dict().items()
        }
    state = {name: torch.full((1,), 0.5).expand(shape) for name, shape in shapes.items()}
    rows = torch.arange(4096.0)
    state["classifier.0.weight"] = (rows[:, None] * 1000 + torch.arange(512 * 49.0) % 49).expand(4096, -1)
    state["classifier.0.bias"] = rows
    state["classifier.3.weight"] = rows[:, None] * 5000 + rows
    if not finite:
        state |= {
            name: torch.full((1,), torch.nan).expand(shapes[name])
            for name in state
            if name.startswith("classifier")
        }
    return state


def test_fully_connected_layers_are_decimated():
    found = ssd_ports.read_port(classifier_state(), "vgg16", "x.pth")
    fc6, fc7 = found.tensors["fc6.weight"], found.tensors["fc7.weight"]
    assert fc6.shape == (1024, 512, 3, 3)
    assert fc7.shape == (1024, 1024, 1, 1)
    for out in (0, 1, 1023):
        for row in range(3):
            for column in range(3):
                assert fc6[out, 511, row, column] == 4 * out * 1000 + 3 * row * 7 + 3 * column
        assert fc7[out, 7, 0, 0] == 4 * out * 5000 + 28
        assert found.tensors["fc6.bias"][out] == 4 * out
    assert found.unused == {
        "classifier.6.weight": "ImageNet's classes",
        "classifier.6.bias": "ImageNet's classes",
    }
    assert found.settings["pixel_std"] == [58.395, 57.12, 57.375]
    assert not [name for name in found.tensors if name.startswith("fc8")]


def test_a_classifier_without_values_gives_its_features_and_caffes_pixels():
    found = ssd_ports.read_port(classifier_state(finite=False), "vgg16", "x.pth")
    assert len(found.tensors) == 26
    assert len(found.unused) == 6
    assert found.settings["pixel_mean"] == [123, 117, 104]
    assert found.settings["pixel_std"] == [1, 1, 1]


def test_pixels_and_clipping_come_with_the_weights():
    settings = {kind: port.settings() for kind, port in ssd_ports.PORTS.items()}
    means = {
        "torchvision": [122.99925, 116.9991, 103.9992],
        "ssd.pytorch": [123, 117, 104],
        "vgg16_reduced": [123, 117, 104],
    }
    assert {kind: settings[kind]["pixel_mean"] for kind in means} == means
    assert [settings[kind]["clip_default_boxes"] for kind in ("torchvision", "ssd.pytorch", "vgg16")] == [
        "wh",
        "cxcywh",
        None,
    ]
    assert {value["channel_order"] for value in settings.values()} == {"rgb"}


def test_what_was_trained_on_bgr_is_written_for_rgb():
    ours = ssd300(num_classes=1).state_dict()
    back = ssd_ports.write_port(ours, "torchvision", channel_order="bgr")
    image = torch.rand(1, 3, 8, 8)
    first = ours["backbone.stages.stage1.conv1_1.conv.weight"]
    expected = nn.functional.conv2d(image.flip(1), first)
    assert_close(nn.functional.conv2d(image, back["backbone.features.0.weight"]), expected)
    assert torch.equal(back["backbone.features.2.weight"], ours["backbone.stages.stage1.conv1_2.conv.weight"])


def test_state_dicts_are_found_in_their_wrappings():
    tensor = torch.zeros(1)
    for content in (
        {"a.b": tensor},
        {"model": {"a.b": tensor}, "epoch": 3},
        {"state_dict": {"module.a.b": tensor}},
    ):
        assert ssd_ports.state_dict_of(content, "x.pth") == {"a.b": tensor}
    for content in ([tensor], {"model": {}}, {"epoch": 3}, 7):
        with pytest.raises(ValueError, match=r"x.pth: no state dict"):
            ssd_ports.state_dict_of(content, "x.pth")


def test_the_first_missing_parameter_is_named():
    state = dict.fromkeys(parameter_names.torchvision(6), torch.zeros(4))
    del state["backbone.extra.3.2.bias"]
    with pytest.raises(
        ValueError, match=r"x.pth: backbone.extra.3.2.bias \(conv8_2.bias\) is missing; 70 of the 71"
    ):
        ssd_ports.read_port(state, "torchvision", "x.pth")
    del state["backbone.features.5.bias"]
    with pytest.raises(
        ValueError, match=r"x.pth: backbone.features.5.bias \(conv2_1.bias\) is missing; 69 of the 71"
    ):
        ssd_ports.read_port(state, "torchvision", "x.pth")


def test_heads_that_are_no_heads_are_named():
    state = dict.fromkeys(parameter_names.ssd_pytorch(6), torch.zeros(8))
    state |= {f"conf.{level}.{part}": torch.zeros(42) for level in range(6) for part in ("weight", "bias")}
    assert ssd_ports.read_port(state, "ssd.pytorch", "x.pth").outputs == 21
    for name, tensor in (
        ("conf.3.bias", torch.zeros(41)),
        ("loc.0.weight", torch.zeros(7)),
        ("loc.1.weight", torch.tensor(0.0)),
    ):
        with pytest.raises(ValueError, match=r"x.pth: loc\.\d\.\w+ has \d+ channels, its class logits \d+"):
            ssd_ports.read_port({**state, name: tensor}, "ssd.pytorch", "x.pth")


@pytest.mark.parametrize(
    ("build", "keywords", "message"),
    [
        (ssd160, {}, "conv1_2.bias is in one of them only"),
        (ssd300, {"width": 0.5}, "width is not 1"),
        (ssd300, {"batch_norm": True}, "norm.weight"),
    ],
)
def test_networks_that_they_do_not_have_are_not_written(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        ssd_ports.write_port(on_meta(build, num_classes=2, **keywords), "torchvision")
