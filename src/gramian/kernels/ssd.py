"""State space duality: one recurrence for Mamba-2 and for linear attention with a decay a head."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.operators import operator
from gramian.kernels.ssd_chunked import ssd_backward_by_chunks, ssd_by_chunks
from gramian.kernels.ssd_compiled import ssd_backward_compiled, ssd_compiled
from gramian.kernels.ssd_reference import ssd_by_steps

__all__ = ["SSD_BACKENDS", "ssd"]

SSD_BACKENDS = ("numba", "chunked", "torch", "reference")


def ssd(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    *,
    chunk: int | None = None,
    final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A recurrence whose state is a matrix a head, with one decay for all of it::

        S[t] = exp(log_decay[t]) S[t-1] + x[t] B[t]^T
        y[t] = S[t] C[t]

    Gradients are known for every tensor, and through the final state.

    Parameters
    ----------
    x
        ``(batch, L, heads, P)``: values, in Mamba-2 times the step size. ``L`` may be 0.
    log_decay
        At most zero, ``(batch, L, heads)``.
    B, C
        Keys and queries, ``(batch, L, groups, N)``: heads split evenly over groups, in order.
    state
        ``S[-1]``, ``(batch, heads, P, N)``; zero if not given.
    chunk
        Steps that are computed as one matrix; by the sizes if not given. It changes speed, and results by rounding.
    final_state
        Whether the final state is wanted.
    backend
        ``"numba"`` (compiled loops over chunks that stay in the caches, CPU), ``"chunked"`` (matrix products over all
        chunks at once, with a gradient that stores little: any device), ``"torch"`` (the same, with autograd's
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
    _check(x, log_decay, B, C, state, chunk)
    name = ssd_backend(backend, x.device)
    given = [t for t in (x, log_decay, B, C, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    if state is None:
        state = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[3], dtype=wide)
    dtype = x.dtype
    x, log_decay, B, C, state = (t.to(wide) for t in (x, log_decay, B, C, state))
    T = max(1, min(x.shape[1], chunk or _chunk_length(name, B.shape[3])))
    if name == "reference" or x.numel() == 0 or B.numel() == 0:
        y, final = ssd_by_steps(x, log_decay, B, C, state)
    elif name == "torch":
        y, final, _ = ssd_by_chunks(x, log_decay, B, C, state, T)
    else:
        y, final, _ = _ssd(x, log_decay, B, C, state, T, name)
    return y.to(dtype), final if final_state else None


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


def _chunk_length(backend: str, order: int) -> int:
    """A step costs about ``T P + T N + 2 N P`` multiply-adds, a chunk ``N P`` numbers to be kept, and short products
    are slow ones; measured with P = 64."""
    return 32 if order <= (64 if backend == "numba" else 32) else 64


@operator("ssd")
def _ssd(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "numba":
        return ssd_compiled(x, log_decay, B, C, state, chunk)
    y, final, before = ssd_by_chunks(x, log_decay, B, C, state, chunk)
    return y.contiguous(), final.contiguous(), before


@_ssd.register_fake
def _(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    chunks = -(-length // chunk)
    if backend == "numba":
        before = x.new_empty(batch, heads, chunks + 1, N, P)
    else:
        before = x.new_empty(batch, chunks, groups, N, heads // groups, P)
    return x.new_empty(x.shape), x.new_empty(state.shape), before


@operator("ssd_backward")
def _ssd_backward(
    g_y: Tensor,
    g_final: Tensor,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    before: Tensor,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    run = ssd_backward_compiled if backend == "numba" else ssd_backward_by_chunks
    return run(g_y, g_final, x, log_decay, B, C, before, chunk)


@_ssd_backward.register_fake
def _(
    g_y: Tensor,
    g_final: Tensor,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    before: Tensor,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, log_decay, B, C, g_final))  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, ctx.chunk, ctx.backend = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, g_y: Tensor, g_final: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_ssd_backward(g_y, g_final, *ctx.saved_tensors, ctx.chunk, ctx.backend), None, None


_ssd.register_autograd(_differentiate, setup_context=_save)


def _check(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor | None, chunk: int | None) -> None:
    if x.ndim != 4 or log_decay.shape != x.shape[:3]:
        raise ShapeError(
            f"x {tuple(x.shape)} and log_decay {tuple(log_decay.shape)} were given.",
            "Needed: x (batch, L, heads, P), log_decay (batch, L, heads).",
        )
    check_keys(x, B, C, state)
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
