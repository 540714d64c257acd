"""model.layers: each switch against a formula that is not ours, and off by default."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from detectors.config.check import ConfigError
from detectors.layers import ConvBNLeaky, ConvReLU
from detectors.models.ssd import ssd160
from detectors.models.switches import PAPER, LayerSwitches, LpPool, SpatialPyramid
from detectors.models.yolov2 import yolov2, yolov2_tiny
from detectors.training.batch_size import made_up_batch
from tests.test_configs import checked

FORMULAS = {  # of one number
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "relu": lambda x: max(x, 0),
    "prelu": lambda x: x if x > 0 else 0.25 * x,
    "elu": lambda x: x if x > 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (math.exp(x) - 1)),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
}
EVERY = [
    *({"activation": name} for name in FORMULAS),
    *({"normalization": name} for name in ("batch", "group", "none")),
    {"separable": True},
    {"pooling_power": 2.0},
    {"dilation": 2},
    {"spp": [5, 9]},
    {"dropout": 0.5},
    {"spatial_dropout": 0.5},
    {"initialization": "xavier"},
    {"initialization": "he"},
]


@pytest.mark.parametrize("name", FORMULAS)
def test_activations(name):
    block = LayerSwitches(activation=name, normalization="none").darknet_block(8, 8, 1)
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64)
    block = block.double()
    expected = [FORMULAS[name](value) for value in block.conv(x).flatten().tolist()]
    assert_close(block(x).flatten(), torch.tensor(expected, dtype=torch.float64))


def test_normalizations():
    x = torch.randn(4, 24, 5, 5) * 3 + 1
    group = LayerSwitches(normalization="group", activation="relu").darknet_block(24, 24, 1)
    y = group.conv(x)
    parts = y.view(4, 8, 3, 5, 5)  # the greatest common divisor of 24 channels and 32 groups
    mean, var = parts.mean((2, 3, 4), keepdim=True), parts.var((2, 3, 4), keepdim=True, unbiased=False)
    assert_close(group(x), ((parts - mean) / (var + 1e-5).sqrt()).view_as(y).relu())
    none = LayerSwitches(normalization="none").caffe_block(24, 8, 3, batch_norm=True, padding=1)
    assert isinstance(none.norm, nn.Identity)
    assert none.conv.bias is not None
    batch = LayerSwitches(normalization="batch").caffe_block(24, 8, 3, padding=1)
    usual = ConvReLU(24, 8, 3, padding=1, batch_norm=True)
    usual.load_state_dict(batch.state_dict())
    assert_close(batch(x), usual(x))


def test_a_separable_convolution_is_a_product_of_two():
    """Its kernel is pointwise[o, i] * depthwise[i, :, :], channel by channel."""
    block = LayerSwitches(separable=True).darknet_block(8, 16, 3)
    depthwise, pointwise = block.conv
    whole = pointwise.weight * depthwise.weight[:, 0][None]
    x = torch.randn(2, 8, 6, 7)
    assert_close(block.conv(x), F.conv2d(x, whole, padding=1), atol=1e-5, rtol=1e-5)
    assert isinstance(LayerSwitches(separable=True).darknet_block(8, 16, 1).conv, nn.Conv2d)
    assert isinstance(LayerSwitches(separable=True).darknet_block(3, 16, 3).conv, nn.Conv2d)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 8.0])
def test_lp_pooling(power):
    x = torch.randn(1, 2, 5, 6)
    pool = LpPool(power, 2, 2)(x)
    for row, column in ((0, 0), (1, 2), (2, 1)):  # the last row of windows holds two values
        window = x[0, 1, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].abs().double()
        expected = ((window**power).mean() ** (1 / power)).float()
        assert_close(pool[0, 1, row, column], expected, atol=1e-4, rtol=1e-3)
    assert LpPool(power, 2, 1, right=True)(x).shape == x.shape
    assert_close(LpPool(2.0, 3, 1, padding=1)(x)[0, 0, 0, 0], x[0, 0, :2, :2].square().mean().sqrt())


def test_the_gradient_of_lp_pooling_is_finite_at_zero():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    LpPool(2.0, 2, 2)(x).sum().backward()
    assert_close(x.grad, torch.zeros_like(x))


def test_a_pyramid_is_the_maxima_of_its_neighbourhoods():
    pyramid = SpatialPyramid(2, [3], lambda channels, out, kernel: nn.Identity())
    x = torch.randn(1, 2, 5, 5)
    pooled, same = pyramid(x).split(2, 1)
    assert_close(same, x)
    assert pooled[0, 1, 2, 3] == x[0, 1, 1:4, 2:5].max()
    assert pooled[0, 0, 0, 4] == x[0, 0, 0:2, 3:5].max()


def test_dilation_spreads_the_kernel():
    block = LayerSwitches(dilation=2).darknet_block(8, 8, 3, neck=True)
    wide = torch.zeros(8, 8, 5, 5)
    wide[..., ::2, ::2] = block.conv.weight.detach()
    x = torch.randn(1, 8, 7, 7)
    assert_close(block.conv(x), F.conv2d(x, wide, padding=2), atol=1e-5, rtol=1e-5)
    assert ssd160(num_classes=1, width=0.1, layers={"dilation": 2}).backbone.fc6.conv.dilation == (2, 2)


@pytest.mark.parametrize("kind", ["dropout", "spatial_dropout"])
def test_dropout_acts_in_front_of_the_head_in_training_only(kind):
    torch.manual_seed(0)
    for build, side in ((yolov2_tiny, 64), (ssd160, 160)):
        head = build(num_classes=1, width=0.25, layers={kind: 0.5}).head
        x = head.dropout(torch.ones(2, 64, 8, 8))
        kept = (x != 0).float()
        assert_close(x, 2 * kept)
        assert 0.3 < kept.mean() < 0.7
        whole = bool((kept.mean((2, 3)) % 1 == 0).all())  # channels are whole or empty
        assert whole == (kind == "spatial_dropout")
        assert head.eval().dropout(x) is x
        assert side


@pytest.mark.parametrize(
    ("rule", "variance"), [("xavier", lambda i, o: 2 / (i + o)), ("he", lambda i, o: 2 / i)]
)
def test_initializations(rule, variance):
    """Glorot and Bengio 2010, He et al. 2015: the variance of weights from the numbers of inputs, outputs."""
    torch.manual_seed(0)
    conv = yolov2(num_classes=20, width=0.25, layers={"initialization": rule}).neck.fuse.conv
    out, inputs, rows, columns = conv.weight.shape
    expected = variance(inputs * rows * columns, out * rows * columns)
    assert_close(conv.weight.var().item(), expected, rtol=0.02, atol=0)
    if rule == "xavier":
        assert conv.weight.abs().max() <= math.sqrt(3 * expected)


def test_without_switches_the_blocks_are_the_papers():
    assert type(PAPER.darknet_block(8, 8, 3, neck=True)) is ConvBNLeaky
    assert type(PAPER.caffe_block(8, 8, 3)) is ConvReLU
    assert isinstance(PAPER.before_head(), nn.Identity)
    torch.manual_seed(0)
    plain = yolov2_tiny(num_classes=2, width=0.1).state_dict()
    torch.manual_seed(0)
    assert_close(yolov2_tiny(num_classes=2, width=0.1, layers={}).state_dict(), plain, rtol=0, atol=0)


@pytest.mark.parametrize("layers", EVERY, ids=str)
@pytest.mark.parametrize("build", [yolov2_tiny, pytest.param(ssd160, marks=pytest.mark.slow)])
def test_every_switch_trains_a_step(build, layers):
    torch.manual_seed(0)
    detector = build(num_classes=2, width=0.05, layers=layers)
    batch = made_up_batch(2, 2, (160, 160))
    grid = detector.grid((160, 160))
    outputs = detector(torch.randint(0, 256, (2, 3, 160, 160)))
    terms = detector.loss(outputs, detector.encoder(batch.targets, grid, outputs), grid)
    sum(terms.values()).backward()
    grads = [p.grad for p in detector.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("activation", "swish", "='swish': choose leaky, relu"),
        ("normalization", "layer", "='layer': choose batch, group, none, or null"),
        ("initialization", "zero", "='zero': choose xavier, he, or null"),
        ("separable", 3, "=3: must be true or false"),
        ("pooling_power", 0.5, "=0.5: must be from 1 to 8"),
        ("dilation", 0, "=0: must be a whole number of 1 or more"),
        ("spp", [4], r"=\[4\]: must be a list of odd sides"),
        ("spp", 5.5, "=5.5: must be a list of odd sides"),
        ("dropout", 1.5, "=1.5: must be from 0 to 0.99"),
    ],
)
def test_a_wrong_switch_is_named(name, value, message):
    with pytest.raises(ValueError, match=f"^layers.{name}{message}"):
        LayerSwitches.of({name: value})


def test_a_wrong_switch_is_one_problem_of_the_configuration():
    with pytest.raises(ConfigError, match="has 1 problem:\n  model: layers.activation='swish': choose leaky"):
        checked("model.layers.activation=swish")


@pytest.mark.parametrize(
    ("build", "keywords", "message"),
    [
        (yolov2, {"layers": {"dropout": 0.1, "spatial_dropout": 0.1}}, "choose one, and set the other to 0"),
        (yolov2, {"layers": {"dropout": 0.1, "activation": "selu"}}, "layers.dropout: a SELU"),
        (yolov2, {"layers": {"nothing": 1}}, "layers.nothing: no such switch; there are activation"),
        (
            yolov2,
            {"backbone": "resnet18", "layers": {"pooling_power": 2}},
            "backbone=resnet18 keeps its own pools",
        ),
        (ssd160, {"backbone": "resnet18", "layers": {"dilation": 2}}, "layers.dilation=2: it is fc6's"),
    ],
)
def test_what_does_not_go_together_is_named(build, keywords, message):
    with pytest.raises(ValueError, match=message):
        build(num_classes=1, **keywords)
