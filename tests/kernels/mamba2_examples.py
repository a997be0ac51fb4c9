"""Inputs and parameters of Mamba-2 layers of many shapes, for the tests of its operator."""

from __future__ import annotations

import torch
from torch import Tensor

# batch, L, heads, head dimension, groups, N, width of the convolution
SHAPES = [
    (2, 9, 2, 4, 1, 3, 4),
    (1, 33, 6, 5, 2, 7, 4),
    (3, 70, 4, 16, 4, 16, 3),
    (8, 40, 12, 4, 1, 20, 2),  # heads of a group in more than one task
    (8, 40, 12, 4, 2, 7, 4),
    (8, 1, 2, 4, 1, 3, 1),
    (16, 100, 2, 64, 1, 70, 4),
]
WHOLE = [  # with rows of projections that are whole lines
    (2, 9, 2, 8, 1, 3, 4),
    (1, 33, 6, 16, 2, 7, 4),
    (3, 150, 4, 16, 4, 16, 3),
    (8, 71, 12, 8, 1, 20, 2),
]


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Columns and inner parameters."""
    batch, length, heads, P, groups, N, width = shape
    inner, mixed = heads * P, heads * P + 2 * groups * N
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    zxbcdt = normal(batch, length, inner + mixed + heads)
    conv = normal(mixed, 1, width), normal(mixed)
    tensors = zxbcdt, *conv, normal(heads) - 2, normal(heads) * 0.3, normal(heads), normal(inner)
    return tuple(t.to(dtype) for t in tensors)


def projected(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, d_model: int = 32, d_out: int = 48
) -> tuple[Tensor, ...]:
    """Inputs and all parameters."""
    columns, *inner = example(shape)
    g = torch.Generator().manual_seed(1)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    into = normal(columns.shape[-1], d_model) / d_model**0.5, normal(columns.shape[-1])
    out = normal(d_out, len(inner[-1])) / len(inner[-1]) ** 0.5, normal(d_out)
    return tuple(t.to(dtype) for t in (normal(*shape[:2], d_model), *into, *inner, *out))
