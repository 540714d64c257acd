"""Layers against Darknet's C code and Caffe's formula (recorded numbers) and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detectors.layers import (
    ConvBNLeaky,
    ConvReLU,
    DarknetMaxPool,
    DarknetReorg,
    L2Norm,
    darknet_reorg,
    darknet_reorg_reverse,
    init_caffe_xavier,
    scale_channels,
)


def reorg(x: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's index arithmetic (src/blas.c, reorg_cpu), one element at a time."""
    batch, channels, height, width = x.shape
    flat = x.reshape(-1)
    out = np.empty_like(flat)
    narrow = channels // stride**2
    for b in range(batch):
        for k in range(channels):
            for j in range(height):
                for i in range(width):
                    row = j * stride + k // narrow // stride
                    column = i * stride + k // narrow % stride
                    source = column + width * stride * (row + height * stride * (k % narrow + narrow * b))
                    out[i + width * (j + height * (k + channels * b))] = flat[source]
    return out.reshape(batch, channels * stride**2, height // stride, width // stride)


def max_pool(x: np.ndarray, stride: int) -> np.ndarray:
    """Windows of 2 x 2 that begin at (row * stride, column * stride); pixels outside do not count."""
    rows, columns = (-(-side // stride) for side in x.shape[2:])
    out = np.empty((*x.shape[:2], rows, columns), x.dtype)
    for r in range(rows):
        for c in range(columns):
            out[:, :, r, c] = x[:, :, r * stride : r * stride + 2, c * stride : c * stride + 2].max((2, 3))
    return out


@pytest.fixture(scope="module")
def recorded(fixtures) -> dict[str, np.ndarray]:
    """From Darknet f6afaab.

    reorgN: the input is arange, delta (the gradient from above) is arange reversed. maxpoolN: the inputs are
    negative.
    """
    return dict(np.load(fixtures / "darknet/ops.npz"))


@pytest.mark.parametrize(("case", "stride"), [("reorg0", 2), ("reorg2", 3), ("reorg3", 2)])
def test_reorg_equals_darknet(case, stride, recorded):
    output = torch.from_numpy(recorded[f"{case}/output"]).float()
    delta_in = torch.from_numpy(recorded[f"{case}/delta_in"]).float()
    x = torch.arange(output.numel(), dtype=torch.float32).reshape(delta_in.shape).requires_grad_()
    ours = DarknetReorg(stride)(x)
    assert_close(ours, output, atol=0, rtol=0)
    ours.backward(torch.arange(output.numel() - 1, -1, -1, dtype=torch.float32).reshape(output.shape))
    assert_close(x.grad, delta_in, atol=0, rtol=0)


@pytest.mark.parametrize(("shape", "stride"), [((1, 64, 26, 26), 2), ((2, 8, 4, 6), 2), ((1, 9, 3, 6), 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reorg_equals_a_loop(shape, stride, layout):
    x = torch.arange(np.prod(shape)).reshape(shape)
    expected = torch.from_numpy(reorg(x.numpy(), stride))
    assert_close(darknet_reorg(x.to(memory_format=layout), stride), expected)


def test_reorg_is_no_ordinary_space_to_depth():
    """The share of equal elements is 1/128 with pixel_unshuffle, and 1/2 with space-to-depth."""
    x = torch.arange(64 * 26 * 26).reshape(1, 64, 26, 26)
    unshuffled = nn.functional.pixel_unshuffle(x, 2)
    to_depth = x.reshape(1, 64, 13, 2, 13, 2).permute(0, 3, 5, 1, 2, 4).reshape(1, 256, 13, 13)
    equal = [(darknet_reorg(x) == other).float().mean().item() for other in (unshuffled, to_depth)]
    assert_close(equal, [1 / 128, 0.5], atol=1e-9, rtol=0)


@pytest.mark.parametrize("stride", [2, 3])
def test_reverse_reorg_equals_a_loop(stride):
    x = torch.arange(2 * 18 * 4 * 3 * 2).reshape(2, 36, 4, 3)
    narrow = 36 // stride**2
    reversed_reorg = darknet_reorg_reverse(x, stride)
    assert reversed_reorg.shape == (2, narrow, 4 * stride, 3 * stride)
    for k in range(36):
        offset, channel = divmod(k, narrow)
        pixels = reversed_reorg[:, channel, offset // stride :: stride, offset % stride :: stride]
        assert_close(pixels, x[:, k])
    with pytest.raises(ValueError, match=r"darknet_reorg_reverse: input \(1, 6, 2, 2\).*multiple of 4"):
        darknet_reorg_reverse(torch.zeros(1, 6, 2, 2))


@pytest.mark.parametrize("shape", [(1, 6, 4, 4), (1, 8, 5, 4), (1, 8, 4, 5)])
def test_reorg_names_the_shape_that_does_not_divide(shape):
    with pytest.raises(ValueError, match=r"darknet_reorg: input \(1, .*multiple of 4"):
        darknet_reorg(torch.zeros(shape))


@pytest.mark.parametrize(
    ("case", "size", "stride"),
    [("maxpool0", 2, 1), ("maxpool1", 2, 2), ("maxpool2", 2, 2), ("maxpool3", 3, 2), ("maxpool4", 3, 1)],
)
def test_max_pool_equals_darknet(case, size, stride, recorded):
    x = torch.from_numpy(recorded[f"{case}/input"]).requires_grad_()
    ours = DarknetMaxPool(stride, size=size)(x)
    assert_close(ours, torch.from_numpy(recorded[f"{case}/output"]), atol=0, rtol=0)
    ours.backward(torch.from_numpy(recorded[f"{case}/delta"]))
    assert_close(x.grad, torch.from_numpy(recorded[f"{case}/delta_in"]))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(5, 4), (1, 1), (6, 6)])
def test_max_pool_equals_a_loop(stride, size):
    x = -torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 1
    assert_close(DarknetMaxPool(stride)(x), torch.from_numpy(max_pool(x.numpy(), stride)))


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 2, 0), (4, 3, 1), (5, 1, 4), (2, 2, 0), (3, 3, 4), (1, 2, 0)]
)
@pytest.mark.parametrize("shape", [(7, 5), (12, 6), (5, 9)])
def test_max_pool_of_any_size_equals_darknets_loop(size, stride, padding, shape):
    """src/maxpool_layer.c: windows begin at i * stride - padding / 2; pixels outside do not count."""
    x = -torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0)) - 1
    rows, columns = ((side + padding - size) // stride + 1 for side in shape)
    expected = torch.empty(1, 2, rows, columns)
    for r in range(rows):
        for c in range(columns):
            top = r * stride - padding // 2
            left = c * stride - padding // 2
            expected[:, :, r, c] = x[:, :, max(top, 0) : top + size, max(left, 0) : left + size].amax((2, 3))
    assert_close(DarknetMaxPool(stride, size=size, padding=padding)(x), expected, atol=0, rtol=0)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"size": 0}, {"size": 2, "padding": 3}])
def test_max_pool_refuses_windows_outside_the_image(settings):
    with pytest.raises(ValueError, match="DarknetMaxPool: size="):
        DarknetMaxPool(**settings)


def test_l2norm_equals_the_exact_values_and_gradients(fixtures):
    """One pixel of the recording is all zero and one is tiny, where the epsilon matters."""
    recorded = {
        name: torch.from_numpy(value)
        for name, value in np.load(fixtures / "ssd/l2norm.npz").items()
        if name != "notes"
    }
    layer = L2Norm(24)
    assert_close(layer.scale.detach(), torch.full((24,), 20.0))
    layer.scale.data = recorded["scale"]
    x = recorded["x"].clone().requires_grad_()
    y = layer(x)
    (y * recorded["w"]).sum().backward()
    for ours, key in ((y, "y"), (x.grad, "grad_x"), (layer.scale.grad, "grad_scale")):
        expected = recorded[key].float()
        assert_close(ours.detach(), expected, rtol=2e-5, atol=1e-6 * expected.abs().median().item())


def test_l2norm_survives_float16():
    """512 channels of 40 have 819,200 as their sum of squares, which float16 cannot hold."""
    y = L2Norm(512)(torch.full((1, 512, 2, 2), 40.0, dtype=torch.float16))
    assert y.dtype == torch.float16
    assert_close(y.float(), torch.full((1, 512, 2, 2), 20 / 512**0.5), rtol=1e-3, atol=0)


def test_conv_bn_leaky_is_convolution_norm_and_leaky_relu():
    layer = ConvBNLeaky(3, 8, 3)
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = nn.functional.leaky_relu(
        nn.functional.batch_norm(layer.conv(x), None, None, training=True, eps=1e-5), 0.1
    )
    assert_close(layer(x), expected)
    assert_close(layer.norm.running_mean, 0.01 * layer.conv(x).mean((0, 2, 3)))
    assert layer.conv.bias is None
    assert ConvBNLeaky(3, 8, 1)(x).shape == (2, 8, 5, 6)


def test_conv_relu_has_a_bias_only_without_batch_norm():
    plain = ConvReLU(3, 8, 3, stride=2, padding=1)
    normed = ConvReLU(3, 8, 3, batch_norm=True)
    x = torch.randn(2, 3, 5, 6)
    assert_close(plain(x), plain.conv(x).clamp(min=0))
    assert plain(x).shape == (2, 8, 3, 3)
    assert (plain.conv.bias is None, normed.conv.bias is None) == (False, True)


def test_initial_weights_have_the_spread_of_darknet_and_caffe():
    torch.manual_seed(0)
    darknet = ConvBNLeaky(64, 256, 3).conv.weight
    assert_close(darknet.std().item(), (2 / (64 * 9)) ** 0.5, rtol=0.02, atol=0)
    caffe = nn.Conv2d(64, 256, 3)
    init_caffe_xavier(caffe)
    limit = (3 / (64 * 9)) ** 0.5
    assert 0.99 * limit < caffe.weight.abs().max() <= limit
    assert_close(caffe.weight.std().item(), limit / 3**0.5, rtol=0.02, atol=0)
    assert not caffe.bias.any()


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(1024, 1, 1024), (64, 0.25, 16), (16, 0.25, 8), (512, 0.3, 152), (32, 0.01, 8)],
)
def test_scaled_channels_are_multiples_of_eight(channels, width, expected):
    assert scale_channels(channels, width) == expected


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width=0"):
        scale_channels(64, 0)
