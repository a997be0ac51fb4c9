"""The norm of blocks is torch's module with another forward pass."""

from __future__ import annotations

import torch
from torch import nn

from gramian.layers.rms_norm import RMSNorm


def test_weights_load_both_ways_and_values_are_those_of_torch() -> None:
    mine, other = RMSNorm(12, eps=1e-3), nn.RMSNorm(12, eps=1e-3)
    nn.init.uniform_(other.weight, 0.5, 1.5)
    mine.load_state_dict(other.state_dict())
    other.load_state_dict(mine.state_dict())
    x = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mine(x), other(x))
    assert isinstance(mine, nn.RMSNorm)
    assert repr(mine) == repr(other)
