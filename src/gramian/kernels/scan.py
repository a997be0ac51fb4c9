"""The scan: all states of a diagonal complex recurrence, as an operator that torch.compile and autograd know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.operators import operator
from gramian.kernels.scan_native import scan_backward_native, scan_native

__all__ = ["SCAN_BACKENDS", "scan", "scan_by_doubling", "scan_pairs"]

SCAN_BACKENDS = ("numba", "triton", "torch", "reference")


def scan(x: Tensor, poles: Tensor, state: Tensor | None = None, backend: str = "auto") -> Tensor:
    """``h[t] = poles * h[t-1] + x[t]`` for all t.

    Parameters
    ----------
    x
        Complex, ``(batch, L, N)``; ``L`` may be 0.
    poles
        Complex, ``(N,)``.
    state
        ``h[-1]``, complex ``(batch, N)``; zero if not given.
    backend
        ``"numba"`` (compiled loops, CPU), ``"triton"`` (CUDA; not measured on a GPU), ``"torch"`` (logarithmically
        many passes, any device), ``"reference"`` (the loop that specifies it), or ``"auto"``.

    Returns
    -------
    Tensor
        The states, complex ``(batch, L, N)``, contiguous.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot run here, and for shapes or types that do not fit.
    """
    if x.ndim != 3 or not x.is_complex() or poles.shape != x.shape[-1:]:
        raise ShapeError(
            f"x {tuple(x.shape)} {x.dtype} and poles {tuple(poles.shape)} {poles.dtype} were given.",
            "Needed: x complex (batch, L, N), poles complex (N,).",
        )
    pairs = torch.view_as_real(x.resolve_conj())
    start = None if state is None else torch.view_as_real(state.to(x.dtype).resolve_conj())
    states = scan_pairs(pairs, torch.view_as_real(poles.to(x.dtype).resolve_conj()), start, backend)
    return torch.view_as_complex(states)


def scan_pairs(x: Tensor, poles: Tensor, state: Tensor | None = None, backend: str = "auto") -> Tensor:
    """`scan` for complex numbers as pairs of reals in the last dimension: ``(batch, L, N, 2)``, ``(N, 2)``."""
    if state is None:
        state = x.new_zeros(x.shape[0], *x.shape[2:])
    states: Tensor = _scan(x, poles, state, scan_backend(backend, x.device))
    return states


def scan_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means on `device`."""
    if name == "auto":
        if device.type == "cpu":
            return "numba"
        from gramian.kernels.scan_triton import why_not

        return "triton" if device.type == "cuda" and not why_not() else "torch"
    if name not in SCAN_BACKENDS:
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(SCAN_BACKENDS)}."
            f"{did_you_mean(name, SCAN_BACKENDS)}"
        )
    if name == "numba" and device.type != "cpu":
        raise ConfigError(f"backend 'numba' computes on the CPU; the tensors are on '{device}'.", cure="backend='auto'")
    return name


@operator("scan")
def _scan(x: Tensor, poles: Tensor, state: Tensor, backend: str) -> Tensor:
    x, poles, state = x.contiguous(), poles.contiguous(), state.contiguous()
    if x.numel() == 0:
        return torch.empty_like(x)
    if backend == "numba":
        return scan_native(x, poles, state)
    if backend == "triton":
        from gramian.kernels.scan_triton import scan_triton

        return scan_triton(x, poles, state)
    forward = _by_doubling if backend == "torch" else _by_steps
    states = forward(*(torch.view_as_complex(t) for t in (x, poles, state)))
    return torch.view_as_real(states)


@_scan.register_fake
def _(x: Tensor, poles: Tensor, state: Tensor, backend: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator("scan_backward")
def _scan_backward(
    g: Tensor, states: Tensor, state: Tensor, poles: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    g, states, state, poles = (t.contiguous() for t in (g, states, state, poles))
    if g.numel() == 0:
        return torch.empty_like(g), torch.zeros_like(poles), torch.zeros_like(state)
    if backend == "numba":
        return scan_backward_native(g, states, state, poles)
    if backend == "triton":
        from gramian.kernels.scan_triton import scan_backward_triton

        return scan_backward_triton(g, states, state, poles)
    g, states, state, poles = (torch.view_as_complex(t) for t in (g, states, state, poles))
    forward = _by_doubling if backend == "torch" else _by_steps
    w = forward(g.flip(1), poles.conj(), torch.zeros_like(state)).flip(1)
    before = torch.cat([state[:, None], states[:, :-1]], 1)
    g_poles, g_state = (before.conj() * w).sum((0, 1)), poles.conj() * w[:, 0]
    return torch.view_as_real(w.contiguous()), torch.view_as_real(g_poles), torch.view_as_real(g_state)


@_scan_backward.register_fake
def _(g: Tensor, states: Tensor, state: Tensor, poles: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (g, poles, state))  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    _, poles, state, ctx.backend = inputs
    ctx.save_for_backward(output, state, poles)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    states, state, poles = ctx.saved_tensors
    return *_scan_backward(g, states, state, poles, ctx.backend), None


_scan.register_autograd(_differentiate, setup_context=_save)


def _by_steps(x: Tensor, poles: Tensor, state: Tensor) -> Tensor:
    """The specification: one step after the other."""
    states = []
    for x_t in x.unbind(1):
        state = poles * state + x_t
        states.append(state)
    return torch.stack(states, 1)


def _by_doubling(x: Tensor, poles: Tensor, state: Tensor) -> Tensor:
    """Windows of 1, 2, 4, ... steps are summed up: log2(L) passes over the array, each of them parallel."""
    states = torch.cat([(x[:, 0] + poles * state)[:, None], x[:, 1:]], 1)
    window, power = 1, poles
    while window < x.shape[1]:
        states = torch.cat([states[:, :window], states[:, window:] + power * states[:, :-window]], 1)
        window, power = 2 * window, power * power
    return states


def scan_by_doubling(x: Tensor, poles: Tensor, state: Tensor) -> Tensor:
    """`scan_pairs` in plain torch: any device, any transformation of `torch.func`, gradients of any order."""
    return torch.view_as_real(_by_doubling(*(torch.view_as_complex(t.contiguous()) for t in (x, poles, state))))
