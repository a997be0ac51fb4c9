"""The diagonal state space recurrence as matrix products over chunks of time.

Within a chunk of T steps the output is a block-Toeplitz matrix of the impulse response applied to the inputs, plus
what the state at the start of the chunk still contributes; only the states at chunk boundaries are ever computed::

    y[t]  = sum_{s <= t} K[t - s] u[s] + Re(C l^(t+1) x_start),      K[d] = Re(C l^d B)
    x_end = l^T x_start + sum_s l^(T-1-s) B u[s]

So a layer with N states stores ``2N`` numbers a chunk instead of a step, and nearly all work is in two matrix products.
This is the chunk-wise form of linear recurrences that Mamba-2 uses for scalar decay (see ``docs/bibliography.md``); T
is chosen so that a Toeplitz block has about 128 columns, where CPU matrix products are at full speed.

With very many channels, chunks of one step are best: then every state is computed, by a product, a scan and a product.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.kernels.response import pole_powers, times

__all__ = ["chunk_length", "diagonal_ssm_by_chunks", "diagonal_ssm_by_products"]

_COLUMNS = 128  # of a Toeplitz block: chunk length times channels

Scan = Callable[[Tensor, Tensor, Tensor], Tensor]  # all states, from inputs, poles and the first state, as pairs


def chunk_length(length: int, channels: int) -> int:
    """Steps a chunk: about ``128 / channels``, so that the matrix products are neither thin nor wasteful."""
    return max(1, min(length, _COLUMNS // max(1, channels)))


def diagonal_ssm_by_chunks(
    u: Tensor, decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, state: Tensor, lengths: Tensor | None, scan: Scan
) -> tuple[Tensor, Tensor]:
    """The recurrence by chunks, for complex numbers as pairs.

    Parameters
    ----------
    B, C
        ``(H_in, N, 2)`` and ``(H_out, N, 2)``.
    state, lengths
        As in `gramian.kernels.diagonal_ssm`.
    scan
        Makes the states at chunk boundaries.
    """
    batch, length, channels = u.shape
    T = chunk_length(length, max(channels, C.shape[0]))
    padding = -length % T
    chunks = (length + padding) // T
    blocks = torch.nn.functional.pad(u, (0, 0, 0, padding)).reshape(batch * chunks, T * channels)
    powers = pole_powers(decay, angle, torch.arange(T + 1, device=u.device))  # (T+1, N, 2)
    ends = (blocks @ _collect(powers[:T], B)).reshape(batch, chunks, -1, 2)
    starts = torch.cat([state[:, None], scan(ends, powers[T], state)], 1)  # the states before each chunk, and after all
    carried = starts[:, :-1].reshape(batch * chunks, -1)
    y = torch.addmm(blocks @ _toeplitz(powers[:T], B, C), carried, _release(powers[1:], C))
    y = y.reshape(batch, chunks * T, -1)[:, :length]
    if lengths is None:
        lengths = torch.full((batch,), length, device=u.device)
    return y, _state_at(lengths, u, starts, powers, B, T)


def diagonal_ssm_by_products(
    u: Tensor, poles: Tensor, B: Tensor, C: Tensor, state: Tensor, scan: Scan
) -> tuple[Tensor, Tensor]:
    """All states by a product, a scan and a product, as pairs: outputs ``(batch, L, H_out)``, final state."""
    batch, length, _ = u.shape
    driven = (u.reshape(batch * length, -1) @ B.flatten(1)).reshape(batch, length, -1, 2)
    states = scan(driven, poles, state)
    y = states.reshape(batch * length, -1) @ _conjugated(C).flatten(1).mT
    return y.reshape(batch, length, -1), states[:, -1]


def _conjugated(pairs: Tensor) -> Tensor:
    return pairs * torch.tensor([1.0, -1.0], dtype=pairs.dtype, device=pairs.device)


def _collect(powers: Tensor, B: Tensor) -> Tensor:
    """What a chunk's inputs add to its final state: rows (s, h), columns (n, re | im); ``(T H, 2N)``."""
    return times(powers.flip(0)[:, None], B).reshape(powers.shape[0] * B.shape[0], -1)


def _release(powers: Tensor, C: Tensor) -> Tensor:
    """What a starting state adds to a chunk's outputs: rows (n, re | im), columns (t, h); ``(2N, T H)``."""
    return _conjugated(times(powers[:, None], C)).reshape(powers.shape[0] * C.shape[0], -1).mT


def _toeplitz(powers: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Impulse responses ``K[t - s]`` on and below the diagonal: rows (s, h_in), columns (t, h_out)."""
    T = powers.shape[0]
    kernel = (_release(powers, C).mT @ B.flatten(1).mT).reshape(T, C.shape[0], B.shape[0])
    lag = torch.arange(T, device=B.device)
    lag = lag[None, :] - lag[:, None]  # (s, t)
    blocks = torch.where((lag >= 0)[..., None, None], kernel[lag.clamp(min=0)], 0.0)
    return blocks.permute(0, 3, 1, 2).reshape(T * B.shape[0], -1)


def _state_at(lengths: Tensor, u: Tensor, starts: Tensor, powers: Tensor, B: Tensor, T: int) -> Tensor:
    """The state after ``lengths`` steps of each sequence, from the last chunk boundary before it; ``(batch, N, 2)``."""
    chunk = (lengths // T).clamp(max=starts.shape[1] - 1)
    steps = lengths - chunk * T  # since the boundary
    rows = torch.arange(u.shape[0], device=u.device)
    s = torch.arange(max(T - 1, 0), device=u.device)
    inside = s < steps[:, None]  # (batch, T-1)
    position = (chunk[:, None] * T + s).clamp(max=max(u.shape[1] - 1, 0))
    recent = torch.where(inside[..., None], u[rows[:, None], position], 0.0)
    age = (steps[:, None] - 1 - s).clamp(min=0)
    driven = (recent @ B.flatten(1)).unflatten(-1, B.shape[1:])  # (batch, T-1, N, 2)
    return times(powers[steps], starts[rows, chunk]) + times(powers[age], driven).sum(1)
