"""The diagonal state space recurrence as matrix products over chunks of time, in plain torch.

Within a chunk of T steps the output is a block-Toeplitz matrix of the impulse response applied to the inputs, plus
what the state at the start of the chunk still contributes; only the states at chunk boundaries are ever computed::

    y[t]  = sum_{s <= t} K[t - s] u[s] + Re(C l^(t+1) x_start),      K[d] = Re(C l^d B)
    x_end = l^T x_start + sum_s l^(T-1-s) B u[s]

So a layer with N states stores ``2N`` numbers a chunk instead of a step, and nearly all work is in two matrix
products. The boundary states follow a recurrence of their own, a loop over chunks with a hand-written gradient;
everything else is differentiated by autograd.

This is the chunk-wise form of linear recurrences that Mamba-2 uses for scalar decay (see ``docs/bibliography.md``);
T is chosen so that a Toeplitz block has about 128 columns, where CPU matrix products are at full speed.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["chunk_length", "diagonal_ssm_by_chunks"]

_COLUMNS = 128  # of a Toeplitz block: chunk length times channels


def chunk_length(length: int, channels: int) -> int:
    """Steps a chunk: about ``128 / channels``, so that the matrix products are neither thin nor wasteful."""
    return max(1, min(length, _COLUMNS // max(1, channels)))


def diagonal_ssm_by_chunks(
    u: Tensor, decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence of `gramian.kernels.diagonal_ssm` by chunks; shapes and meaning as there."""
    batch, length, channels = u.shape
    T = chunk_length(length, max(channels, C.shape[0]))
    padding = -length % T
    chunks = (length + padding) // T
    blocks = torch.nn.functional.pad(u, (0, 0, 0, padding)).reshape(batch * chunks, T * channels)
    powers = _powers(decay, angle, T + 1)  # (T+1, N)
    collected = blocks @ _collect(powers[:T], B)  # (batch * chunks, 2N)
    ends = torch.view_as_complex(collected.reshape(batch, chunks, -1, 2))
    starts = _ScanChunks.apply(ends, powers[T], state)  # (batch, chunks + 1, N): state before each chunk, and after all
    carried = torch.view_as_real(starts[:, :-1]).reshape(batch * chunks, -1)
    y = torch.addmm(blocks @ _toeplitz(powers[:T], B, C), carried, _release(powers[1:], C))
    y = y.reshape(batch, chunks * T, -1)[:, :length]
    return y, _state_at(lengths, u, starts, powers, B, T)


def _powers(decay: Tensor, angle: Tensor, count: int) -> Tensor:
    """``l^d`` for ``d < count``, shape ``(count, N)``."""
    d = torch.arange(count, dtype=decay.dtype, device=decay.device)[:, None]
    lowest = math.log(torch.finfo(decay.dtype).tiny) + 1  # the gradient of polar is infinite at subnormal numbers
    return torch.polar(torch.exp((-d * decay).clamp(min=lowest)), d * angle)


def _collect(powers: Tensor, B: Tensor) -> Tensor:
    """What a chunk's inputs add to its final state: rows (s, h), columns (n, re | im); real, (T H, 2N)."""
    weights = powers.flip(0)[:, None, :] * B.mT  # (T, H, N)
    return torch.view_as_real(weights).reshape(weights.shape[0] * weights.shape[1], -1)


def _release(powers: Tensor, C: Tensor) -> Tensor:
    """What a starting state adds to a chunk's outputs: rows (n, re | im), columns (t, h); real, (2N, T H)."""
    weights = (powers[:, None, :] * C).permute(2, 0, 1)  # (N, T, H)
    return torch.stack([weights.real, -weights.imag], 1).reshape(2 * weights.shape[0], -1)


def _toeplitz(powers: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Impulse responses ``K[t - s]`` on and below the diagonal: rows (s, h_in), columns (t, h_out)."""
    T = powers.shape[0]
    kernel = torch.view_as_real(powers[:, None, :] * C).flatten(-2) @ _stacked(B)  # (T, H_out, H_in)
    lag = torch.arange(T, device=B.device)
    lag = lag[None, :] - lag[:, None]  # (s, t)
    blocks = torch.where((lag >= 0)[..., None, None], kernel[lag.clamp(min=0)], 0.0)
    return blocks.permute(0, 3, 1, 2).reshape(T * B.shape[1], -1)


def _stacked(B: Tensor) -> Tensor:
    """``Re(c B) = [Re c, Im c] [Re B; -Im B]`` with real and imaginary parts interleaved: (2N, H)."""
    return torch.stack([B.real, -B.imag], 1).flatten(0, 1)


def _state_at(lengths: Tensor, u: Tensor, starts: Tensor, powers: Tensor, B: Tensor, T: int) -> Tensor:
    """The state after ``lengths`` steps of each sequence, from the last chunk boundary before it; (batch, N)."""
    chunk = (lengths // T).clamp(max=starts.shape[1] - 1)
    steps = lengths - chunk * T  # since the boundary
    rows = torch.arange(u.shape[0], device=u.device)
    s = torch.arange(max(T - 1, 0), device=u.device)
    inside = s < steps[:, None]  # (batch, T-1)
    position = (chunk[:, None] * T + s).clamp(max=max(u.shape[1] - 1, 0))
    recent = torch.where(inside[..., None], u[rows[:, None], position], 0.0)
    age = (steps[:, None] - 1 - s).clamp(min=0)
    driven = recent.to(B.dtype) @ B.mT  # (batch, T-1, N)
    return powers[steps] * starts[rows, chunk] + (powers[age] * driven).sum(1)


class _ScanChunks(torch.autograd.Function):
    """``x[c+1] = a x[c] + e[c]``: states at all chunk boundaries, with the reverse scan as gradient."""

    @staticmethod
    def forward(ctx: Any, ends: Tensor, a: Tensor, state: Tensor) -> Tensor:
        states = ends.new_empty(ends.shape[0], ends.shape[1] + 1, ends.shape[2])
        states[:, 0] = state
        for c in range(ends.shape[1]):
            torch.addcmul(ends[:, c], states[:, c], a, out=states[:, c + 1])
        ctx.save_for_backward(states, a)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states, a = ctx.saved_tensors
        adjoint = grads[0].clone()
        a_conj = a.conj().resolve_conj()
        for c in range(adjoint.shape[1] - 2, -1, -1):
            torch.addcmul(adjoint[:, c], adjoint[:, c + 1], a_conj, out=adjoint[:, c])
        grad_a = (adjoint[:, 1:] * states[:, :-1].conj()).sum((0, 1))
        return adjoint[:, 1:], grad_a, adjoint[:, 0]
