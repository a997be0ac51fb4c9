"""Mamba's selective scan in plain torch, chunk after chunk of time: any device, and any transformation of `torch.func`.

The states of all steps, ``(batch, L, channels, N)``, never exist together: only those at the ends of chunks are kept,
and the backward pass computes a chunk again before it differentiates it. Within a chunk, windows of 1, 2, 4, ... steps
are summed up, in a logarithmic number of passes that a GPU does in parallel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels.selective_reference import gated, step_sizes

__all__ = ["selective_scan_by_chunks"]

_NUMBERS = 1 << 22  # states of a chunk, about
_STEPS = (8, 128)  # a chunk, at least and at most


def selective_scan_by_chunks(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state; shapes as in `gramian.kernels.selective_scan`, B and C ``(batch, L, groups, N)``."""
    delta, outputs = step_sizes(dt, dt_bias, softplus), []
    steps = _steps(u.shape[0] * u.shape[2] * A.shape[1])
    chunks = zip(*(t.split(steps, 1) for t in (delta, delta * u, B, C)), strict=True)
    for delta_c, x_c, B_c, C_c in chunks:
        y, state = _Chunk.apply(delta_c, x_c, A, B_c, C_c, state)
        outputs.append(y)
    return gated(torch.cat(outputs, 1), u, D, z), state


def _steps(numbers: int) -> int:
    """Steps a chunk, when the states of one step are so many numbers: a power of two."""
    least, most = _STEPS
    return min(max(1 << (_NUMBERS // max(numbers, 1)).bit_length() >> 1, least), most)


def _chunk(delta: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``h[t] = exp(delta[t] A) h[t-1] + x[t] B[t]``, and ``C[t] h[t]``, from a state.

    delta and x ``(batch, T, channels)``; B, C ``(batch, T, groups, N)``.
    """
    split = (B.shape[2], -1)  # channels of a group side by side
    decay = torch.exp(delta.unflatten(2, split)[..., None] * A.unflatten(0, split))  # (batch, T, groups, each, N)
    h = x.unflatten(2, split)[..., None] * B[:, :, :, None]
    h = torch.cat([(h[:, 0] + decay[:, 0] * state.unflatten(1, split))[:, None], h[:, 1:]], 1)
    window, steps = 1, h.shape[1]
    while window < steps:
        h = torch.cat([h[:, :window], h[:, window:] + decay[:, window:] * h[:, :-window]], 1)
        window *= 2
        if window < steps:
            half = window // 2
            decay = torch.cat([decay[:, :half], decay[:, half:] * decay[:, :-half]], 1)
    y = (h @ C[..., None])[..., 0]
    return y.flatten(2), h[:, -1].flatten(1, 2)


class _Chunk(torch.autograd.Function):
    """`_chunk`, of which only the arguments are kept."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Tensor) -> tuple[Tensor, Tensor]:
        return _chunk(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_state: Tensor) -> Any:
        return torch.func.vjp(_chunk, *ctx.saved_tensors)[1]((g, g_state))
