"""SSD's weights of other programs: recorded names, equal outputs, exact round trips, and errors."""

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

from detectors.data.class_names import COCO_CLASSES
from detectors.models.ssd import ssd160, ssd300, ssd512
from detectors.training.initial import parameter_names, ssd_ports
from detectors.training.transfer import fit_tensors


@pytest.fixture(scope="module")
def recorded(fixtures) -> dict:
    return json.loads((fixtures / "ssd/name_maps.json").read_text())


@pytest.fixture(scope="module", params=[21, 91])
def torchvision_ssd(request) -> nn.Module:
    """torchvision's SSD300 with 21 or 91 outputs and random parameters. Its outputs are a few units large."""
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


def loaded(weights: ssd_ports.PortWeights, detector: nn.Module) -> nn.Module:
    """Our detector with all the weights of a file."""
    state = detector.state_dict()
    tensors = {name: weights.tensors[parameter_names.ours(name)] for name in state}
    transfer = fit_tensors(state, tensors, where="x.pth", twin={})
    assert not transfer.left
    detector.load_state_dict(transfer.state)
    return detector.eval()


def on_meta(build, **keywords) -> dict[str, Tensor]:
    with torch.device("meta"):
        return build(**keywords).state_dict()


@pytest.mark.parametrize("program", ["torchvision", "ssd_pytorch"])
def test_names_equal_the_recorded_ones(recorded, program):
    assert getattr(parameter_names, program)(6) == recorded[program]


@pytest.mark.parametrize("outputs", [21, 91])
def test_names_are_in_the_order_of_torchvisions_state_dict(outputs):
    with torch.device("meta"):
        model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=outputs)
    assert list(parameter_names.torchvision(6)) == list(model.state_dict())


def test_names_of_the_classifier_are_torchvisions():
    with torch.device("meta"):
        assert list(parameter_names.vgg16()) == list(torchvision.models.vgg16(weights=None).state_dict())


@pytest.mark.parametrize(("build", "levels", "recording"), [(ssd300, 6, "mmdet300"), (ssd512, 7, "mmdet512")])
def test_our_names_map_one_to_one_to_caffes(recorded, build, levels, recording):
    caffe = sorted(parameter_names.ours(name) for name in on_meta(build, num_classes=20))
    assert caffe == sorted(recorded[recording].values())
    for names in (parameter_names.torchvision, parameter_names.ssd_pytorch):
        assert sorted(names(levels).values()) == caffe


def test_batch_norm_has_no_name_in_caffe():
    unnamed = [
        name for name in on_meta(ssd160, num_classes=1, batch_norm=True) if parameter_names.ours(name) is None
    ]
    assert unnamed
    assert all(".norm." in name for name in unnamed)


def test_coco_columns(recorded):
    """Against the recorded columns, and against torchvision's class names."""
    columns = ssd_ports.used_coco_columns()
    assert columns == recorded["coco91_rows_for_81"]
    categories = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    assert ["__background__", *COCO_CLASSES] == [categories[column] for column in columns]
    assert {categories[column] for column in ssd_ports.COCO_UNUSED} == {"N/A"}


def test_outputs_and_default_boxes_equal_torchvisions(torchvision_ssd):
    """Including the normalization of pixels. Raw head outputs within 1e-4; boxes within 1e-3 pixels."""
    num_outputs = torchvision_ssd.head.classification_head.num_columns
    weights = ssd_ports.read_port(torchvision_ssd.state_dict(), "torchvision", "x.pth")
    assert (weights.levels, weights.outputs) == (6, num_outputs)
    ours = loaded(weights, ssd300(num_classes=num_outputs - 1, sizes="coco", **weights.settings))
    images = torch.rand(1, 3, 300, 300, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = ours(images * 255)
        normalized, _ = torchvision_ssd.transform(list(images))
        features = list(torchvision_ssd.backbone(normalized.tensors).values())
        expected = torchvision_ssd.head(features)
    assert expected["cls_logits"].std() > 1  # outputs near 0 would prove little
    assert_close(outputs.offsets, expected["bbox_regression"], atol=1e-4, rtol=0)
    assert_close(outputs.class_logits, expected["cls_logits"], atol=1e-4, rtol=0)
    generator: DefaultBoxGenerator = torchvision_ssd.anchor_generator
    corners = generator(ImageList(normalized.tensors, [(300, 300)]), features)[0]
    wh = corners[:, 2:] - corners[:, :2]
    boxes_cxcywh = ours.grid((300, 300)).boxes_cxcywh
    assert_close(boxes_cxcywh, torch.cat([corners[:, :2] + wh / 2, wh], 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["torchvision", "ssd.pytorch"])
def test_round_trips_are_bit_for_bit(torchvision_ssd, kind):
    """Another program's state dict -> ours -> the same keys, order and bits. torchvision loads the result."""
    state = torchvision_ssd.state_dict()
    if kind == "ssd.pytorch":
        caffe = parameter_names.torchvision(6)
        by_layer = {caffe[name]: tensor for name, tensor in state.items()}
        state = {name: by_layer[layer] for name, layer in parameter_names.ssd_pytorch(6).items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    weights = ssd_ports.read_port(state, kind, "x.pth")
    ours = loaded(weights, ssd300(num_classes=weights.outputs - 1))
    back = ssd_ports.write_port(ours.state_dict(), kind)
    assert list(back) == list(state)
    for name, tensor in back.items():
        assert torch.equal(tensor, before[name]), name
        assert tensor.is_contiguous()
        assert torch.equal(state[name], before[name]), f"{name} was changed"
    if kind == "torchvision":
        with torch.device("meta"):
            model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=weights.outputs)
        model.load_state_dict(back, assign=True)


@pytest.mark.parametrize("kind", ["torchvision", "ssd.pytorch"])
def test_round_trip_of_ssd512(kind):
    """It has one more level than SSD300, and a 4x4 kernel at the end."""
    ours = ssd512(num_classes=3).state_dict()
    weights = ssd_ports.read_port(ssd_ports.write_port(ours, kind), kind, "x.pth")
    assert (weights.levels, weights.outputs) == (7, 4)
    for name, tensor in ours.items():
        assert torch.equal(weights.tensors[parameter_names.ours(name)], tensor), name


def test_identify_recognises_each_kind():
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


def test_select_outputs_keeps_81_of_91():
    """Output `column` of anchor k is channel k * 91 + column."""
    tensors = {
        f"fc7_mbox_conf.{part}": torch.arange(6.0 * 91).reshape(-1, *[1] * ndim)
        for part, ndim in (("weight", 3), ("bias", 0))
    }
    tensors["fc7_mbox_loc.weight"] = torch.zeros(6 * 4, 1, 1, 1)
    weights = ssd_ports.PortWeights("torchvision", tensors, {}, {})
    selected = ssd_ports.select_outputs(weights, ssd_ports.used_coco_columns())
    assert (weights.outputs, selected.outputs) == (91, 81)
    for part in ("weight", "bias"):
        tensor = selected.tensors[f"fc7_mbox_conf.{part}"]
        assert tensor.ndim == weights.tensors[f"fc7_mbox_conf.{part}"].ndim
        for anchor in range(6):
            for new, old in enumerate(ssd_ports.used_coco_columns()):
                assert tensor[anchor * 81 + new].item() == anchor * 91 + old
    assert selected.tensors["fc7_mbox_loc.weight"] is tensors["fc7_mbox_loc.weight"]


def classifier_state(*, finite: bool = True) -> dict[str, Tensor]:
    """torchvision's vgg16 with known numbers. Large layers are views of few numbers, to save memory."""
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
    weights = ssd_ports.read_port(classifier_state(), "vgg16", "x.pth")
    fc6 = weights.tensors["fc6.weight"]
    fc7 = weights.tensors["fc7.weight"]
    assert fc6.shape == (1024, 512, 3, 3)
    assert fc7.shape == (1024, 1024, 1, 1)
    for out in (0, 1, 1023):
        for row in range(3):
            for column in range(3):
                assert fc6[out, 511, row, column] == 4 * out * 1000 + 3 * row * 7 + 3 * column
        assert fc7[out, 7, 0, 0] == 4 * out * 5000 + 28
        assert weights.tensors["fc6.bias"][out] == 4 * out
    fc8 = ("classifier.6.weight", "classifier.6.bias")
    assert weights.unused == dict.fromkeys(fc8, "ImageNet's classes")
    assert weights.settings["pixel_std"] == [58.395, 57.12, 57.375]
    assert not [name for name in weights.tensors if name.startswith("fc8")]


def test_a_classifier_of_nan_gives_its_features_and_caffes_pixel_values():
    weights = ssd_ports.read_port(classifier_state(finite=False), "vgg16", "x.pth")
    assert len(weights.tensors) == 26
    assert len(weights.unused) == 6
    assert weights.settings["pixel_mean"] == [123, 117, 104]
    assert weights.settings["pixel_std"] == [1, 1, 1]


def test_pixel_values_and_clipping_of_each_kind():
    settings = {kind: port.settings() for kind, port in ssd_ports.PORTS.items()}
    means = {
        "torchvision": [122.99925, 116.9991, 103.9992],
        "ssd.pytorch": [123, 117, 104],
        "vgg16_reduced": [123, 117, 104],
    }
    assert {kind: settings[kind]["pixel_mean"] for kind in means} == means
    assert settings["torchvision"]["clip_default_boxes"] == "wh"
    assert settings["ssd.pytorch"]["clip_default_boxes"] == "cxcywh"
    assert settings["vgg16"]["clip_default_boxes"] is None
    assert {value["channel_order"] for value in settings.values()} == {"rgb"}


def test_weights_for_bgr_are_written_for_rgb():
    ours = ssd300(num_classes=1).state_dict()
    back = ssd_ports.write_port(ours, "torchvision", channel_order="bgr")
    image = torch.rand(1, 3, 8, 8)
    first = ours["backbone.stages.stage1.conv1_1.conv.weight"]
    expected = nn.functional.conv2d(image.flip(1), first)
    assert_close(nn.functional.conv2d(image, back["backbone.features.0.weight"]), expected)
    assert torch.equal(back["backbone.features.2.weight"], ours["backbone.stages.stage1.conv1_2.conv.weight"])


def test_state_dict_of_unwraps_files():
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


REDUCED = {name: torch.zeros(1) for name in ("0.weight", "31.weight", "33.weight")}


@pytest.mark.parametrize("key", ["net", "model_state_dict", "network", "weights", "anything", None])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "module._orig_mod.", "model.", "a.net."])
def test_state_dicts_are_found_under_any_key_and_prefix(key, prefix):
    """Beside an optimiser's state, whose tensors have no names of parameters."""
    state = {f"{prefix}{name}": tensor for name, tensor in REDUCED.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    content = state if key is None else {"epoch": 3, key: state, "optimizer": optimizer}
    for wrapped in (content, {"model": content}, {"state_dict": {"model": content}}):
        assert ssd_ports.state_dict_of(wrapped, "x.pth") == REDUCED


def test_what_is_no_state_dict_is_refused_with_its_keys():
    tensor = torch.zeros(1)
    circle: dict = {"epoch": 3}
    circle["model"] = circle
    for content, held in (
        (tensor, "Tensor"),
        ("text", "str"),
        ([[tensor]], "list"),
        ({}, "an empty dict"),
        ({0: tensor, 1: tensor}, "a dict with the keys 0, 1"),
        ({"a.weight": [0.5], "b": None}, "a dict with the keys a.weight, b"),
        ({"G": {"a": tensor}, "D": {"a": tensor}}, "a dict with the keys G, D"),
        ({str(n): n for n in range(9)}, "a dict with the keys 0, 1, 2, 3, 4, 5, 6, 7, ..."),
        (circle, "a dict with the keys epoch, model"),
    ):
        with pytest.raises(ValueError) as raised:
            ssd_ports.state_dict_of(content, "x.pth")
        assert str(raised.value) == (
            "x.pth: no state dict, which is a dict of named tensors, alone or under one of the keys "
            f"state_dict, model_state_dict, model, net, network, weights; it holds {held}"
        )
    with pytest.raises(ValueError, match=r"with and without the prefix module\."):
        ssd_ports.state_dict_of({"a": tensor, "module.a": tensor}, "x.pth")


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(2).to_sparse(), "torch.sparse_coo, torch.float32"),
        (torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8), "torch.strided, torch.qint8"),
        (torch.eye(2, dtype=torch.complex64), "torch.strided, torch.complex64"),
        (torch.empty(2, device="meta"), "on the meta device, without numbers"),
    ],
)
def test_tensors_that_are_not_ordinary_are_refused(tensor, kind):
    with pytest.raises(ValueError) as raised:
        ssd_ports.state_dict_of({**REDUCED, "2.weight": tensor}, "x.pth")
    assert str(raised.value) == (
        f"x.pth: 2.weight is not an ordinary tensor ({kind}); save it dense, as float32"
    )


def test_a_huge_tensor_in_a_small_file_is_refused():
    with pytest.raises(
        ValueError, match=r"x\.pth: 2\.weight has 1,099,511,627,776 numbers, more than any layer"
    ):
        ssd_ports.state_dict_of({**REDUCED, "2.weight": torch.zeros(1).expand(2**40)}, "x.pth")


def test_whole_numbers_are_no_weights():
    with pytest.raises(ValueError, match=r"x\.pth: w is torch\.int64 in the file and torch\.float32 here"):
        fit_tensors({"w": torch.eye(2)}, {"w": torch.eye(2).long()}, where="x.pth", twin={})
    half = fit_tensors({"w": torch.eye(2)}, {"w": torch.eye(2).half()}, where="x.pth", twin={})
    assert torch.equal(half.state["w"], torch.eye(2))


def test_the_first_missing_parameter_is_named():
    state = dict.fromkeys(parameter_names.torchvision(6), torch.zeros(4))
    del state["backbone.extra.3.2.bias"]
    message = r"x.pth: backbone.extra.3.2.bias \(conv8_2.bias\) is missing; 70 of the 71"
    with pytest.raises(ValueError, match=message):
        ssd_ports.read_port(state, "torchvision", "x.pth")
    del state["backbone.features.5.bias"]
    message = r"x.pth: backbone.features.5.bias \(conv2_1.bias\) is missing; 69 of the 71"
    with pytest.raises(ValueError, match=message):
        ssd_ports.read_port(state, "torchvision", "x.pth")


def test_heads_of_wrong_sizes_are_named():
    state = dict.fromkeys(parameter_names.ssd_pytorch(6), torch.zeros(8))
    state |= {f"conf.{level}.{part}": torch.zeros(42) for level in range(6) for part in ("weight", "bias")}
    assert ssd_ports.read_port(state, "ssd.pytorch", "x.pth").outputs == 21
    for name, tensor in (
        ("conf.3.bias", torch.zeros(41)),
        ("loc.0.weight", torch.zeros(7)),
        ("loc.0.weight", torch.zeros(0)),
        ("loc.1.weight", torch.tensor(0.0)),
    ):
        with pytest.raises(ValueError, match=r"x.pth: loc\.\d\.\w+ has \d+ channels, its class logits \d+"):
            ssd_ports.read_port({**state, name: tensor}, "ssd.pytorch", "x.pth")


def test_a_detector_needs_a_class_besides_the_background():
    for logits in (0, 2):
        state = dict.fromkeys(parameter_names.ssd_pytorch(6), torch.zeros(8))
        state |= {f"conf.{n}.{part}": torch.zeros(logits) for n in range(6) for part in ("weight", "bias")}
        with pytest.raises(ValueError, match="not a whole number of boxes with a background and a class"):
            ssd_ports.read_port(state, "ssd.pytorch", "x.pth")


@pytest.mark.parametrize(
    ("build", "keywords", "message"),
    [
        (ssd160, {}, "only one of them has conv1_2.bias"),
        (ssd300, {"width": 0.5}, "width is not 1"),
        (ssd300, {"batch_norm": True}, "norm.weight"),
    ],
)
def test_networks_that_the_program_does_not_have_are_refused(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        ssd_ports.write_port(on_meta(build, num_classes=2, **keywords), "torchvision")
