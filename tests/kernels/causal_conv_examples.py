"""Random filters and inputs for the tests of the causal convolution."""

from __future__ import annotations

import torch
from torch import Tensor


def example(shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, weight, bias, state."""
    batch, length, channels, width = shape
    g = torch.Generator().manual_seed(length)
    sizes = ((batch, length, channels), (channels, width), (channels,), (batch, width - 1, channels))
    return tuple(torch.randn(*size, generator=g, dtype=torch.float64).to(dtype) for size in sizes)
