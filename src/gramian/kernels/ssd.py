"""State space duality: one recurrence for Mamba-2 and for linear attention with a decay a head."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.ssd_chunked import ssd_by_chunks
from gramian.kernels.ssd_compiled import ssd_compiled
from gramian.kernels.ssd_recomputed import ssd_recomputed
from gramian.kernels.ssd_reference import ssd_by_steps

__all__ = ["SSD_BACKENDS", "check_chunk", "chunk_length", "ssd"]

SSD_BACKENDS = ("numba", "chunked", "torch", "reference")


def ssd(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    *,
    dt: Tensor | None = None,
    D: Tensor | None = None,
    chunk: int | None = None,
    final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A recurrence whose state is a matrix a head, with one decay for all of it::

        S[t] = exp(log_decay[t]) S[t-1] + dt[t] x[t] B[t]^T
        y[t] = S[t] C[t] + D x[t]

    Gradients are known for every tensor, and through the final state.

    Parameters
    ----------
    x
        Values, ``(batch, L, heads, P)``; ``L`` may be 0.
    log_decay
        At most zero, ``(batch, L, heads)``.
    B, C
        Keys and queries, ``(batch, L, groups, N)``: heads split evenly over groups, in order.
    state
        ``S[-1]``, ``(batch, heads, P, N)``; zero if not given.
    dt
        Step sizes, ``(batch, L, heads)``; one if not given. They have no part in the decay.
    D
        Feed-through, ``(heads,)``; none if not given.
    chunk
        Steps that are computed as one matrix; by the sizes if not given. It changes speed, and results by rounding.
    final_state
        Whether the final state is wanted.
    backend
        ``"numba"`` (compiled loops over chunks that stay in the caches, CPU), ``"chunked"`` (matrix products over all
        chunks at once, which store the states between chunks: any device), ``"torch"`` (the same, with autograd's
        gradient: `torch.func`), ``"reference"`` (the loop that specifies it), or ``"auto"``.

    Returns
    -------
    y, state
        ``(batch, L, heads, P)`` of the dtype of x, and the last state, ``(batch, heads, P, N)``, or None. Half
        precision is computed in float32.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot run here, and for shapes that do not fit.

    References
    ----------
    Dao and Gu, Transformers are SSMs: generalized models and efficient algorithms through structured state space
    duality, arXiv 2405.21060, section 6.
    """
    _check(x, log_decay, B, C, state, dt, D, chunk)
    name, (batch, length, heads, P), dtype = ssd_backend(backend, x.device), x.shape, x.dtype
    given = [t for t in (x, log_decay, B, C, state, dt, D) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    x, log_decay, B, C = (t.to(wide) for t in (x, log_decay, B, C))
    state = None if state is None else state.to(wide)
    T = max(1, min(length, chunk or chunk_length(B.shape[3])))
    if name == "numba" and x.numel() and B.numel():
        dt = x.new_ones(batch, length, heads) if dt is None else dt.to(wide)
        D = x.new_zeros(heads) if D is None else D.to(wide)
        y, final = ssd_compiled(x, log_decay, B, C, state, dt, D, T, final_state)
    else:
        state = x.new_zeros(batch, heads, P, B.shape[3]) if state is None else state
        values = x if dt is None else x * dt.to(wide)[..., None]
        y, final = _in_torch(name, values, log_decay, B, C, state, T)
        y = y if D is None else torch.addcmul(y, D.to(wide)[:, None], x)
    return y.to(dtype), final if final_state else None


def _in_torch(
    backend: str, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor]:
    if backend == "reference" or x.numel() == 0 or B.numel() == 0:
        return ssd_by_steps(x, log_decay, B, C, state)
    if backend == "torch":
        return ssd_by_chunks(x, log_decay, B, C, state, T)[:2]
    return ssd_recomputed(x, log_decay, B, C, state, T)


def ssd_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means on `device`."""
    if name == "auto":
        return "numba" if device.type == "cpu" else "chunked"
    if name not in SSD_BACKENDS:
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(SSD_BACKENDS)}."
            f"{did_you_mean(name, SSD_BACKENDS)}"
        )
    if name == "numba" and device.type != "cpu":
        raise ConfigError(f"backend 'numba' computes on the CPU; the tensors are on '{device}'.", cure="backend='auto'")
    return name


def chunk_length(order: int) -> int:
    """A step costs about ``T P + T N + 2 N P`` multiply-adds, a chunk ``N P`` numbers to be kept, and short products
    are slow ones; measured with P = 64."""
    return 32 if order <= 32 else 64


def _check(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    dt: Tensor | None,
    D: Tensor | None,
    chunk: int | None,
) -> None:
    if x.ndim != 4 or log_decay.shape != x.shape[:3]:
        raise ShapeError(
            f"x {tuple(x.shape)} and log_decay {tuple(log_decay.shape)} were given.",
            "Needed: x (batch, L, heads, P), log_decay (batch, L, heads).",
        )
    check_keys(x, B, C, state)
    for name, tensor, shape in (("dt", dt, x.shape[:3]), ("D", D, x.shape[2:3])):
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(
                f"{name} {tuple(tensor.shape)} was given, with x {tuple(x.shape)}; needed: {tuple(shape)}."
            )
    check_chunk(chunk)


def check_chunk(chunk: int | None) -> None:
    """Raise for a chunk of no steps."""
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk} was given; needed: at least 1.", cure="chunk=None")


def check_keys(x: Tensor, B: Tensor, C: Tensor, state: Tensor | None) -> None:
    """Raise for keys, queries and a state that do not fit to values ``(batch, L, heads, P)``."""
    batch, length, heads, P = x.shape
    if B.ndim != 4 or B.shape[:2] != x.shape[:2] or B.shape != C.shape:
        raise ShapeError(
            f"B {tuple(B.shape)} and C {tuple(C.shape)} were given, with x {tuple(x.shape)}.",
            f"Needed: both ({batch}, {length}, groups, N).",
        )
    if B.shape[2] == 0 or heads % B.shape[2]:
        raise ShapeError(f"{heads} heads and {B.shape[2]} groups were given.", "Needed: as many heads a group.")
    wanted = (batch, heads, P, B.shape[3])
    if state is not None and state.shape != wanted:
        raise ShapeError(f"state {tuple(state.shape)} was given; needed: (batch, heads, P, N) = {wanted}.")
