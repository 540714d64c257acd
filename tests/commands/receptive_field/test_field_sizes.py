"""Receptive fields against the formula for chains, against the spread of NaN, and against a Gaussian."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from detectors.commands.receptive_field.command import main
from detectors.commands.receptive_field.field_sizes import effective_square, gradient_maps, theoretical_fields
from detectors.models.ssd import ssd160, ssd300
from detectors.models.yolov2 import yolov2, yolov2_tiny

CONV, POOL, POINT = (3, 1, 1), (2, 1, 2), (1, 1, 1)  # kernel, dilation, stride


def chain(*layers: tuple[int, int, int]) -> tuple[int, int]:
    """Field and stride of a chain of layers, from the first on."""
    field, stride = 1, 1
    for kernel, dilation, step in layers:
        field += (kernel - 1) * dilation * stride
        stride *= step
    return field, stride


def test_ssd160_by_the_formula():
    conv4 = (CONV, POOL, CONV, POOL, CONV, POOL, CONV)
    fc7 = (*conv4, POOL, CONV, (3, 1, 1), (3, 3, 1), POINT)
    conv6 = (*fc7, POINT, (3, 1, 2))
    expected = [chain(*layers, CONV) for layers in (conv4, fc7, conv6, (*conv6, POINT, (3, 1, 2)))]
    fields = theoretical_fields(ssd160(num_classes=2, width=0.05))
    assert [(field.height, field.stride) for field in fields] == expected
    assert all(field.height == field.width for field in fields)


@pytest.mark.slow
def test_ssd300_by_the_formula():
    """conv4_3 has 92 px (VGG-16), fc7 420, and each head another 3x3."""
    conv4 = (CONV, CONV, POOL, CONV, CONV, POOL, CONV, CONV, CONV, POOL, CONV, CONV, CONV)
    assert chain(*conv4)[0] == 92
    fc7 = (*conv4, POOL, CONV, CONV, CONV, (3, 1, 1), (3, 6, 1), POINT)
    conv6 = (*fc7, POINT, (3, 1, 2))
    conv7 = (*conv6, POINT, (3, 1, 2))
    conv8 = (*conv7, POINT, CONV)
    conv9 = (*conv8, POINT, CONV)
    expected = [chain(*layers, CONV) for layers in (conv4, fc7, conv6, conv7, conv8, conv9)]
    fields = theoretical_fields(ssd300(num_classes=2, width=0.05))
    assert [(field.height, field.stride) for field in fields] == expected
    assert all(field.height == field.width for field in fields)


def test_yolov2_by_the_formula():
    """Along its longest path; the passthrough sees less."""
    stage = {1: (CONV,), 3: (CONV, POINT, CONV), 5: (CONV, POINT, CONV, POINT, CONV)}
    layers = [*stage[1], POOL, *stage[1], POOL, *stage[3], POOL, *stage[3], POOL, *stage[5], POOL, *stage[5]]
    ((height, width, stride),) = theoretical_fields(yolov2(num_classes=2, width=0.05))
    assert (height, stride) == (width, stride) == chain(*layers, CONV, CONV, CONV, POINT)


@pytest.mark.parametrize(
    ("build", "level", "side"), [(lambda: yolov2_tiny(num_classes=1, width=0.05, stride=16), 0, 512)]
)
def test_a_field_is_where_nan_comes_from(build, level, side):
    """A row of NaN reaches the unit if the unit can see the row: found by halving, above and below."""
    detector = build().eval()
    field = theoretical_fields(detector)[level]
    row = side // field.stride // 2
    unit = (row * (side // field.stride) + row) * detector.anchors.per_location[level]

    @torch.no_grad()
    def sees(line: int) -> bool:
        image = torch.full((1, 3, side, side), 100.0)
        image[:, :, line] = torch.nan
        return bool(detector(image).offsets[0, unit].isnan().any())

    edges = []
    for outside in (-1, side):
        inside = row * field.stride
        while abs(outside - inside) > 1:
            middle = (outside + inside) // 2
            outside, inside = (outside, middle) if sees(middle) else (middle, inside)
        edges.append(inside)
    assert edges[1] - edges[0] + 1 == field.height


def test_a_detector_is_as_before():
    detector = ssd160(num_classes=1, width=0.05)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    theoretical_fields(detector)
    assert all(tensor.equal(before[name]) for name, tensor in detector.state_dict().items())


def test_the_square_of_a_gaussian():
    """P(|x| < a)^2 = .95 at a = 2.236 deviations; sums of uniform squares by counting."""
    rows, columns = np.mgrid[:201, :201]
    gradient = torch.from_numpy(np.exp(-((rows - 90) ** 2 + (columns - 110) ** 2) / 200)).float()
    column, row, side = effective_square(gradient)
    assert_allclose((column, row, side), (110.5, 90.5, 2 * 2.2365 * 10), atol=1)
    flat = torch.zeros(50, 50)
    flat[10:21, 20:31] = 1
    assert effective_square(flat) == (25.5, 15.5, 11)
    assert effective_square(torch.zeros(4, 4))[2] == 0


def test_a_gradient_stays_in_its_field():
    """No pixel outside of the theoretical field has a gradient."""
    detector = ssd160(num_classes=1, width=0.05)
    images = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    gradient, field = gradient_maps(detector, images)[0], theoretical_fields(detector)[0]
    rows = gradient.sum(1).nonzero()
    assert 0 < int(rows[-1] - rows[0]) + 1 <= field.height
    halves = gradient_maps(detector, images[:1])[0] / 2 + gradient_maps(detector, images[1:])[0] / 2
    assert_allclose(gradient.numpy(), halves.numpy(), rtol=1e-4, atol=1e-12)


def test_the_command(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((80, 120, 3), 90, np.uint8))
    words = ["ssd160", "model.width=0.05", "--count", "1", "--output", str(tmp_path / "out.png")]
    main([*words, "--images", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["level", "cells", "anchors"] and len(lines) == 1 + 4 + 2
    assert lines[1].split()[:7] == ["1", "20", "x", "20", "4", "8", "54"]
    assert cv2.imread(str(tmp_path / "out.png")).shape[1] > 3 * 480


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: no such run folder or checkpoint; nor is it a model: "),
        (["runs/a", "model.width=1"], "model.width=1: a run keeps its settings; only a model takes others: "),
        (["ssd160", "model.width=0.05", "--images", "no.png"], "no.png: no such image or folder"),
    ],
)
def test_wrong_places(words, message, capsys):
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err
