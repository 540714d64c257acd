"""Numbers that go to the host together come there unchanged."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from detectors.training.host_copy import on_host


def test_values_shapes_and_types_stay():
    tensors = {
        "float32": torch.rand(3, 2, generator=torch.Generator().manual_seed(0)),
        "not finite": torch.tensor([torch.nan, -torch.inf]),
        ("a key", 1): torch.tensor(2**53 - 1, dtype=torch.int64),
        "bfloat16": torch.tensor(0.1, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "with gradient": torch.tensor(0.1, requires_grad=True),
    }
    fetched = on_host(tensors)
    expected = {name: tensor.detach() for name, tensor in tensors.items()}
    assert_close(fetched, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tensors", [{}, {"none": torch.zeros(0, 2)}])
def test_nothing_gives_nothing(tensors):
    assert_close(on_host(tensors), tensors)
