"""Mamba's selective scan: one entrance to every version of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.mamba_packages import scan_by_package, why_not_scan
from gramian.kernels.selective_chunked import selective_scan_by_chunks
from gramian.kernels.selective_compiled import selective_scan_compiled
from gramian.kernels.selective_reference import selective_scan_by_steps

__all__ = ["SELECTIVE_BACKENDS", "selective_scan"]

SELECTIVE_BACKENDS = ("numba", "mamba_ssm", "torch", "reference")


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    softplus: bool = True,
    final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """A state space layer whose step size, inputs and outputs depend on the sequence::

        delta[t]   = softplus(dt[t] + dt_bias)
        h[t, c, n] = exp(delta[t, c] A[c, n]) h[t-1, c, n] + delta[t, c] B[t, n] u[t, c]
        y[t, c]    = (sum_n C[t, n] h[t, c, n] + D[c] u[t, c]) silu(z[t, c])

    Gradients are known for every tensor, and through the final state.

    Parameters
    ----------
    u, dt
        Inputs and step sizes before softplus, ``(batch, L, channels)``; ``L`` may be 0. Columns of a larger matrix
        are read where they lie, here and in z, B and C.
    A
        Real, negative for a stable system, ``(channels, N)``.
    B, C
        ``(batch, L, N)``, or ``(batch, L, groups, N)``: channels split evenly over groups, in order.
    D
        Feed-through, ``(channels,)``; none if not given.
    z
        Gate, ``(batch, L, channels)``; none if not given.
    dt_bias
        ``(channels,)``; zero if not given.
    state
        ``h[-1]``, ``(batch, channels, N)``; zero if not given.
    softplus
        Whether delta is positive by softplus, or ``dt + dt_bias`` itself.
    final_state
        Whether the final state is wanted.
    backend
        ``"numba"`` (compiled loops with the states in registers, CPU), ``"mamba_ssm"`` (that package's kernel, where
        it is installed and fits; CUDA, not measured on a GPU), ``"torch"`` (chunks in plain torch: any device,
        `torch.func`), ``"reference"`` (the loop that specifies it), or ``"auto"``.

    Returns
    -------
    y, state
        ``(batch, L, channels)`` of the dtype of u, and the last state, ``(batch, channels, N)``, or None. Half
        precision is computed in float32.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot run here, and for shapes that do not fit.

    References
    ----------
    Gu and Dao, Mamba: linear-time sequence modeling with selective state spaces, arXiv 2312.00752, section 3.
    """
    _check(u, dt, A, B, C, D, z, dt_bias, state)
    name = selective_backend(backend, u, A, state, final_state)
    B, C = (m if m.ndim == 4 else m[:, :, None] for m in (B, C))
    if u.numel() == 0 or A.shape[1] == 0:
        name = "reference"
    if name == "mamba_ssm":
        y, final = scan_by_package(u, dt, A, B, C, D, z, dt_bias, softplus, final_state)
        return y, final if final_state else None
    given = [t for t in (u, dt, A, B, C, D, z, dt_bias, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    if state is None and name != "numba":
        state = u.new_zeros(u.shape[0], *A.shape, dtype=wide)
    tensors = [None if t is None else t.to(wide) for t in (u, dt, A, B, C, D, z, dt_bias, state)]
    wanted = (softplus, final_state) if name == "numba" else (softplus,)
    y, final = _RUN[name](*tensors, *wanted)
    return y.to(u.dtype), final if final_state else None


_RUN: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "numba": selective_scan_compiled,
    "torch": selective_scan_by_chunks,
    "reference": selective_scan_by_steps,
}


def selective_backend(name: str, u: Tensor, A: Tensor, state: Tensor | None, final_state: bool) -> str:
    """The backend that `name` means for these tensors."""
    if name == "auto":
        if u.device.type == "cpu":
            return "numba" if u.shape[1] > 1 else "reference"  # one step is one step, with fewer preparations
        return "torch" if why_not_scan(u, A, state, final_state) else "mamba_ssm"
    if name not in SELECTIVE_BACKENDS:
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(SELECTIVE_BACKENDS)}."
            f"{did_you_mean(name, SELECTIVE_BACKENDS)}"
        )
    reason = ""
    if name == "numba" and u.device.type != "cpu":
        reason = f"it computes on the CPU; the tensors are on '{u.device}'"
    elif name == "mamba_ssm":
        reason = why_not_scan(u, A, state, final_state)
    if reason:
        raise ConfigError(f"backend '{name}' was asked for, and cannot run: {reason}.", cure="backend='auto'")
    return name


def _check(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
) -> None:
    if u.ndim != 3 or A.ndim != 2 or A.shape[0] != u.shape[2]:
        raise ShapeError(
            f"u {tuple(u.shape)} and A {tuple(A.shape)} were given.", "Needed: u (batch, L, channels), A (channels, N)."
        )
    (batch, length, channels), order = u.shape, A.shape[1]
    groups = B.shape[2] if B.ndim == 4 else 1
    if (B.shape[:2], B.shape[3 if B.ndim == 4 else 2 :]) != ((batch, length), (order,)) or B.shape != C.shape:
        raise ShapeError(
            f"B {tuple(B.shape)} and C {tuple(C.shape)} were given, with u {tuple(u.shape)} and A {tuple(A.shape)}.",
            f"Needed: both ({batch}, {length}, {order}), or with groups ({batch}, {length}, groups, {order}).",
        )
    if groups == 0 or channels % groups:
        raise ShapeError(f"{channels} channels and {groups} groups were given.", "Needed: as many channels a group.")
    row, sequence = (channels,), (batch, length, channels)
    wanted = {"dt": (dt, sequence), "z": (z, sequence), "D": (D, row), "dt_bias": (dt_bias, row)}
    for name, (tensor, shape) in {**wanted, "state": (state, (batch, channels, order))}.items():
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(
                f"{name} {tuple(tensor.shape)} was given, with u {tuple(u.shape)} and A {tuple(A.shape)}.",
                f"Needed: {name} {shape}.",
            )
