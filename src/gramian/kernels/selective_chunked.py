"""Mamba's selective scan in plain torch, chunk after chunk of time: any device, any reverse transformation of torch's.

The states of all steps, ``(batch, L, channels, N)``, never exist together: only those at the ends of chunks are kept,
and the backward pass computes a chunk again. Within a chunk, a CPU takes one step after the other, in its caches;
elsewhere windows of 1, 2, 4, ... steps are summed up, in a logarithmic number of passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels.selective_reference import gated, step_sizes

__all__ = ["selective_scan_by_chunks", "states_by_doubling", "states_by_steps"]

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
    delta, outputs, split = step_sizes(dt, dt_bias, softplus), [], (B.shape[2], -1)  # channels of a group side by side
    steps = _steps(u.shape[0] * u.shape[2] * A.shape[1])
    A, state = A.unflatten(0, split), state.unflatten(1, split)
    sequences = (delta.unflatten(2, split), (delta * u).unflatten(2, split), B, C)
    for delta_c, x_c, B_c, C_c in zip(*(t.split(steps, 1) for t in sequences), strict=True):
        y, state = _Chunk.apply(delta_c, x_c, A, B_c, C_c, state)
        outputs.append(y)
    return gated(torch.cat(outputs, 1).flatten(2), u, D, z), state.flatten(1, 2)


def _steps(numbers: int) -> int:
    """Steps a chunk, when the states of one step are so many numbers: a power of two."""
    least, most = _STEPS
    return min(max(1 << (_NUMBERS // max(numbers, 1)).bit_length() >> 1, least), most)


def states_by_steps(decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """``h[t] = decay[t] h[t-1] + x[t]`` for all t, in the second dimension, from a state without it."""
    states = []
    for a, x_t in zip(decay.unbind(1), x.unbind(1), strict=True):
        state = torch.addcmul(x_t, a, state)
        states.append(state)
    return torch.stack(states, 1)


def states_by_doubling(decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
    """`states_by_steps` in a logarithmic number of passes."""
    h = torch.cat([torch.addcmul(x[:, 0], decay[:, 0], state)[:, None], x[:, 1:]], 1)
    window, steps = 1, h.shape[1]
    while window < steps:
        h = torch.cat([h[:, :window], torch.addcmul(h[:, window:], decay[:, window:], h[:, :-window])], 1)
        decay = torch.cat([decay[:, :window], decay[:, window:] * decay[:, :-window]], 1)
        window *= 2
    return h


def _states(decay: Tensor, x: Tensor, state: Tensor) -> Tensor:
    return (states_by_steps if x.device.type == "cpu" else states_by_doubling)(decay, x, state)


class _Chunk(torch.autograd.Function):
    """``h[t] = exp(delta[t] A) h[t-1] + x[t] B[t]``, and ``C[t] h[t]``; of the results, none is kept.

    delta and x ``(batch, T, groups, each)``, B and C ``(batch, T, groups, N)``, A ``(groups, each, N)``, and a state
    ``(batch, groups, each, N)``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(delta: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h = _states(torch.exp(delta[..., None] * A), x[..., None] * B[..., None, :], state)
        return (h @ C[..., None])[..., 0], h[:, -1].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_state: Tensor) -> tuple[Tensor, ...]:
        delta, x, A, B, C, state = ctx.saved_tensors
        decay = torch.exp(delta[..., None] * A)
        h = _states(decay, x[..., None] * B[..., None, :], state)
        # The adjoint w[t] = C[t] g[t] + decay[t+1] w[t+1]; the final state's gradient comes after the last step.
        later = torch.cat([decay[:, 1:], torch.ones_like(decay[:, :1])], 1)
        w = _states(later.flip(1), (g[..., None] * C[..., None, :]).flip(1), g_state).flip(1)
        g_B, g_C = ((a[..., None, :] @ b)[..., 0, :] for a, b in ((x, w), (g, h)))
        g_x = (w @ B[..., None])[..., 0]
        back = decay * w
        q = back * torch.cat([state[:, None], h[:, :-1]], 1)
        return (q * A).sum(-1), g_x, (q * delta[..., None]).sum((0, 1)), g_B, g_C, back[:, 0]
