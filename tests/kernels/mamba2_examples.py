"""Inputs and parameters of Mamba-2 layers of many shapes, and what they specify, for the tests of its operator."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels import causal_conv1d, ssd
from gramian.kernels.gated_norm import gated_rms_norm_in_torch

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


def block_example(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Inputs, the weight of the norm before, and all parameters but the last bias."""
    u, *parameters = projected(shape, dtype, d_out=32)
    prenorm = torch.randn(32, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)
    return u, prenorm, *parameters[:-1]


def specification(t: tuple[Tensor, ...], groups: int) -> Tensor:
    """Loops over time, and torch."""
    zxbcdt, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight = t
    inner, heads = len(norm_weight), len(A_log)
    keys = (len(conv_weight) - inner) // 2
    z, xBC, dt = zxbcdt.split([inner, inner + 2 * keys, heads], -1)
    x, B, C = causal_conv1d(xBC, conv_weight[:, 0], conv_bias, backend="reference")[0].split([inner, keys, keys], -1)
    delta = F.softplus(dt + dt_bias)
    x, B, C = x.unflatten(-1, (heads, -1)), B.unflatten(-1, (groups, -1)), C.unflatten(-1, (groups, -1))
    y, _ = ssd(x, -A_log.exp() * delta, B, C, dt=delta, D=D, backend="reference")
    return gated_rms_norm_in_torch(y.flatten(2), z, norm_weight, groups, True, 1e-5)


def whole_specification(t: tuple[Tensor, ...], groups: int) -> Tensor:
    u, in_weight, in_bias, *inner, out_weight, out_bias = t
    return F.linear(specification((F.linear(u, in_weight, in_bias), *inner), groups), out_weight, out_bias)
