"""Linear attention with a gate for every key channel: one entrance to every version of it."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.gated_attention_chunked import gated_attention_by_chunks
from gramian.kernels.gated_attention_compiled import gated_attention_compiled
from gramian.kernels.ssd import check_keys
from gramian.kernels.ssd_reference import ssd_by_steps

__all__ = ["GATED_ATTENTION_BACKENDS", "gated_attention"]

GATED_ATTENTION_BACKENDS = ("numba", "torch", "reference")

_CHUNKS = {"numba": 16, "torch": 64}  # steps


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
        Steps between states that are computed; 16, or 64 of ``"torch"``, if not given. It changes speed, and results by
        rounding.
    final_state
        Whether the final state is wanted.
    backend
        ``"numba"`` (compiled loops over chunks that stay in the caches, CPU), ``"torch"`` (chunks in plain torch: any
        device, `torch.func`), ``"reference"`` (the loop that specifies it), or ``"auto"``.

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
    _check(v, log_gate, k, q, state, chunk)
    name = gated_attention_backend(backend, v.device)
    given = [t for t in (v, log_gate, k, q, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    if state is None:
        state = v.new_zeros(v.shape[0], *v.shape[2:], k.shape[3], dtype=wide)
    dtype = v.dtype
    v, log_gate, k, q, state = (t.to(wide) for t in (v, log_gate, k, q, state))
    if name == "reference" or v.numel() == 0 or k.numel() == 0:
        y, final = ssd_by_steps(v, log_gate, k, q, state)
    else:
        run = gated_attention_compiled if name == "numba" else gated_attention_by_chunks
        y, final = run(v, log_gate, k, q, state, min(v.shape[1], chunk or _CHUNKS[name]))
    return y.to(dtype), final if final_state else None


def gated_attention_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means on `device`."""
    if name == "auto":
        return "numba" if device.type == "cpu" else "torch"
    if name not in GATED_ATTENTION_BACKENDS:
        known = GATED_ATTENTION_BACKENDS
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(known)}.{did_you_mean(name, known)}"
        )
    if name == "numba" and device.type != "cpu":
        raise ConfigError(f"backend 'numba' computes on the CPU; the tensors are on '{device}'.", cure="backend='auto'")
    return name


def _check(v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor | None, chunk: int | None) -> None:
    if v.ndim != 4 or k.ndim != 4 or log_gate.shape != k.shape or k.shape[:3] != v.shape[:3]:
        raise ShapeError(
            f"v {tuple(v.shape)}, log_gate {tuple(log_gate.shape)}, k {tuple(k.shape)} were given.",
            "Needed: v (batch, L, heads, P), log_gate and k (batch, L, heads, N).",
        )
    check_keys(v, k, q, state)
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk} was given; needed: at least 1.", cure="chunk=None")
