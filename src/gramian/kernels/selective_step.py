"""One step of a selective scan in one compiled pass: what inference repeats, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.selective_math import silu, softplus
from gramian.kernels.selective_reference import selective_scan_by_steps
from gramian.kernels.vector_memory import broadcast, load, store
from gramian.kernels.vector_power import power_of_two
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["selective_step"]

_CHANNELS, _ORDER, _GROUPS, _POSITIVE, _GATED = range(5)
_U, _DT, _Z, _A, _B, _C, _D, _BIAS, _STATE, _Y, _WORK = range(5, 16)


@compiled
def _step(b, args, real):  # type: ignore[no-untyped-def]
    """One sequence; states in the lanes."""
    channels, N, groups = args[_CHANNELS], args[_ORDER], args[_GROUPS]
    u, dt, z = (
        array(args[_U], (b + 1, channels), real)[b],
        array(args[_DT], (b + 1, channels), real)[b],
        array(args[_Z], (b + 1, channels), real)[b],
    )
    A, state = array(args[_A], channels * N, real), array(args[_STATE], (b + 1, channels * N), real)[b]
    B, C = array(args[_B], (b + 1, groups * N), real)[b], array(args[_C], (b + 1, groups * N), real)[b]
    D, bias = array(args[_D], channels, real), array(args[_BIAS], channels, real)
    y = array(args[_Y], (b + 1, channels), real)[b]
    work = array(args[_WORK], (b + 1, 2 * channels), real)[b]
    x, each = work[channels:], channels // groups
    for c in range(0, channels, lanes(real)):
        d = load(dt, c, channels) + load(bias, c, channels)
        if args[_POSITIVE]:
            d = softplus(d)
        store(work, c, channels, d * 1.4426950408889634)
        store(x, c, channels, d * load(u, c, channels))
    for c in range(channels):
        g, i, s = c // each * N, c * N, splat(real)
        d, v = broadcast(work, c), broadcast(x, c)
        for n in range(0, N, lanes(real)):
            h = power_of_two(d * load(A, i + n, i + N)) * load(state, i + n, i + N) + v * load(B, g + n, g + N)
            store(state, i + n, i + N, h)
            s = s + h * load(C, g + n, g + N)
        y[c] = total(s)
    for c in range(0, channels, lanes(real)):
        v = load(y, c, channels) + load(D, c, channels) * load(u, c, channels)
        if args[_GATED]:
            v = v * silu(load(z, c, channels))
        store(y, c, channels, v)


@entry
def _step_entry(data):  # type: ignore[no-untyped-def]
    run(_step, data)


def selective_step(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    *,
    state: Tensor,
    softplus: bool = True,
) -> Tensor:
    """One step of `gramian.kernels.selective_scan`; `state` is changed in place.

    Parameters
    ----------
    u, dt, z
        ``(batch, channels)``.
    A, D, dt_bias
        As there, ``(channels, N)`` and ``(channels,)``.
    B, C
        ``(batch, N)`` or ``(batch, groups, N)``.
    state
        ``(batch, channels, N)``, contiguous, of the dtype that is computed in; without gradients, as everything here.

    Returns
    -------
    Tensor
        ``(batch, channels)``, of the dtype of u.

    Raises
    ------
    ShapeError
        If the state is not one that can be changed in place.
    """
    wanted = (*u.shape, A.shape[1])
    if state.shape != wanted or not state.is_contiguous() or state.dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            f"state {tuple(state.shape)} {state.dtype} was given, with u {tuple(u.shape)} and A {tuple(A.shape)}.",
            f"Needed: state {wanted}, float32 or float64, contiguous: it is changed in place.",
        )
    wide = [None if t is None else t.detach().to(state.dtype) for t in (u, dt, z, A, B, C, D, dt_bias)]
    with torch.no_grad():
        compiled_here = state.device.type == "cpu" and state.numel() > 0
        return (_by_loops if compiled_here else _by_torch)(wide, state, softplus).to(u.dtype)


def _by_torch(tensors: Sequence[Any], state: Tensor, softplus: bool) -> Tensor:
    u, dt, z, A, B, C, D, dt_bias = tensors
    B, C = (m[:, None] if m.ndim == 3 else m[:, None, None] for m in (B, C))
    z = None if z is None else z[:, None]
    y, final = selective_scan_by_steps(u[:, None], dt[:, None], A, B, C, D, z, dt_bias, state, softplus)
    state.copy_(final)
    return y[:, 0]


def _by_loops(tensors: Sequence[Any], state: Tensor, softplus: bool) -> Tensor:
    batch, channels, order = state.shape
    groups, gated, zeros = tensors[4].numel() // (batch * order), tensors[2] is not None, state.new_zeros(channels)
    given = [zeros if t is None else t.contiguous() for t in tensors]
    y, work = state.new_empty(batch, channels), state.new_empty(batch, 2 * channels)
    sizes = (channels, order, groups, int(softplus), int(gated))
    launch(_step_entry, batch, state.dtype, *sizes, *given, state, y, work)
    return y
