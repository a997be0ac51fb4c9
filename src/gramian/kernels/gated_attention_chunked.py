"""Linear attention with a gate for every key channel, in chunks and sub-chunks, in plain torch.

The gates do not factor out of a product over key channels, unless one is divided by another, which overflows. So a
chunk of T steps is cut into sub-chunks. For a query at t and a key at s in an earlier sub-chunk, the gates between them
are split where the sub-chunk of t begins: the query takes those up to t, the key those from s on, and what is left is
a product of matrices. Within a sub-chunk the exponentials are computed for every pair.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels.ssd_chunked import in_chunks

__all__ = ["gated_attention_by_chunks"]

_PIECE = 8  # steps
_FORGOTTEN = -100.0  # gates beyond are as good as this one, and do not take the digits of those beside them


def gated_attention_by_chunks(
    v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor]:
    """Outputs and final state by chunks of T steps, in plain torch."""
    piece = min(T, _PIECE)
    T, length = T // piece * piece, v.shape[1]
    gates = log_gate.clamp(min=_FORGOTTEN)
    v, gates, k, q = (in_chunks(m, T).transpose(2, 3) for m in (v, gates, k, q))  # (batch, c, heads, T, P or N)
    weights, to_end = _within(q, k, gates, piece)
    local, across = (k * to_end.exp()).mT @ v, gates.sum(-2, keepdim=True).exp().mT
    S, before = state.mT, []
    for i in range(v.shape[1]):
        before.append(S)
        S = torch.addcmul(local[:, i], across[:, i], S)
    y = (q * gates.cumsum(-2).exp()) @ torch.stack(before, 1) + weights @ v
    return y.transpose(2, 3).flatten(1, 2)[:, :length], S.mT


def _within(q: Tensor, k: Tensor, gates: Tensor, piece: int) -> tuple[Tensor, Tensor]:
    """What each step of a chunk takes from each, ``(..., T, T)``; and the sum of the gates after each step."""
    q, g = (m.unflatten(-2, (-1, piece)) for m in (q, gates))  # (..., T / piece, piece, N)
    sums, near = g.cumsum(-2), _pairs(q, k.unflatten(-2, (-1, piece)), g)
    from_start, total = q * sums.exp(), sums[..., -1:, :]
    after = F.pad(g[..., 1:, :], (0, 0, 0, 1)).flip(-2).cumsum(-2).flip(-2)  # to the end of the piece
    rows, to_here = [], k.new_zeros(*k.shape[:-2], 0, k.shape[-1])
    for i in range(g.shape[-3]):
        start = i * piece
        far = from_start[..., i, :, :] @ (k[..., :start, :] * to_here.exp()).mT
        rows.append(F.pad(torch.cat([far, near[..., i, :, :]], -1), (0, k.shape[-2] - start - piece)))
        to_here = torch.cat([to_here + total[..., i, :, :], after[..., i, :, :]], -2)
    return torch.cat(rows, -2), to_here


def _pairs(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """The same for a few steps, exponentials for every pair."""
    n, b = q.shape[-2], g.cumsum(-2)
    later = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)[..., None]
    gates = (b[..., :, None, :] - b[..., None, :, :]).masked_fill(later, -torch.inf).exp()
    return ((k[..., None, :, :] * gates) @ q[..., :, :, None])[..., 0]
