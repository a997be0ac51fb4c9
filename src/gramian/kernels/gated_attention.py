"""Linear attention with a gate for every key channel, in chunks and sub-chunks.

The gates do not factor out of a product over key channels, unless one is divided by another, which overflows. So a
chunk of T steps is cut into sub-chunks. For a query at t and a key at s in an earlier sub-chunk, the gates between them
are split where the sub-chunk of t begins: the query takes those up to t, the key those from s on, and what is left is
a product of matrices. Within a sub-chunk the exponentials are computed for every pair.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.ssd import check_keys
from gramian.kernels.ssd_chunked import in_chunks
from gramian.kernels.ssd_reference import ssd_by_steps

__all__ = ["GATED_ATTENTION_BACKENDS", "gated_attention"]

GATED_ATTENTION_BACKENDS = ("torch", "reference")

_CHUNK, _PIECE = 64, 8  # steps
_FORGOTTEN = -100.0  # gates beyond are as good as this one, and do not take the digits of those beside them


def gated_attention(
    v: Tensor,
    log_gate: Tensor,
    k: Tensor,
    q: Tensor,
    state: Tensor | None = None,
    *,
    chunk: int | None = None,
    final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A recurrence whose state is a matrix a head, every column of which has a decay of its own::

        S[t] = S[t-1] diag(exp(log_gate[t])) + v[t] k[t]^T
        y[t] = S[t] q[t]

    Gradients are known for every tensor, and through the final state.

    Parameters
    ----------
    v
        Values, ``(batch, L, heads, P)``. ``L`` may be 0.
    log_gate
        At most zero, ``(batch, L, heads, N)``.
    k, q
        Keys and queries, ``(batch, L, heads, N)``.
    state
        ``S[-1]``, ``(batch, heads, P, N)``; zero if not given.
    chunk
        Steps between computed states, cut to a multiple of 8 if above; 64 if not given. It changes speed, and results
        by rounding.
    final_state
        Whether the final state is wanted.
    backend
        ``"torch"`` (chunks in plain torch: any device, `torch.func`), ``"reference"`` (the loop that specifies it),
        or ``"auto"``.

    Returns
    -------
    y, state
        ``(batch, L, heads, P)`` of the dtype of v, and the last state, ``(batch, heads, P, N)``, or None. Half
        precision is computed in float32.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot run here, and for shapes that do not fit.

    References
    ----------
    Yang et al., Gated linear attention transformers with hardware-efficient training, arXiv 2312.06635, section 4.
    """
    _check(v, log_gate, k, q, state, chunk, backend)
    given = [t for t in (v, log_gate, k, q, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    if state is None:
        state = v.new_zeros(v.shape[0], *v.shape[2:], k.shape[3], dtype=wide)
    dtype = v.dtype
    v, log_gate, k, q, state = (t.to(wide) for t in (v, log_gate, k, q, state))
    if backend == "reference" or v.numel() == 0 or k.numel() == 0:
        y, final = ssd_by_steps(v, log_gate, k, q, state)
    else:
        y, final = gated_attention_by_chunks(v, log_gate, k, q, state, min(v.shape[1], chunk or _CHUNK))
    return y.to(dtype), final if final_state else None


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


def _check(
    v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor | None, chunk: int | None, backend: str
) -> None:
    if v.ndim != 4 or k.ndim != 4 or log_gate.shape != k.shape or k.shape[:3] != v.shape[:3]:
        raise ShapeError(
            f"v {tuple(v.shape)}, log_gate {tuple(log_gate.shape)}, k {tuple(k.shape)} were given.",
            "Needed: v (batch, L, heads, P), log_gate and k (batch, L, heads, N).",
        )
    check_keys(v, k, q, state)
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk} was given; needed: at least 1.", cure="chunk=None")
    if backend != "auto" and backend not in GATED_ATTENTION_BACKENDS:
        known = GATED_ATTENTION_BACKENDS
        raise ConfigError(
            f"backend '{backend}' was asked for; needed: auto, {', '.join(known)}.{did_you_mean(backend, known)}"
        )
