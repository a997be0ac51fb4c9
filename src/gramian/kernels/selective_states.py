"""States of a selective recurrence at a few steps: what a layer is judged by before it is cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.native import launch
from gramian.kernels.selective_states_native import CHANNELS, VECTORS, states_entry

__all__ = ["STATES_BACKENDS", "selective_states"]

STATES_BACKENDS = ("numba", "reference")

_LOG2_E = math.log2(math.e)  # powers of two are what the loops compute
_BYTES = 64  # of a vector


@torch.no_grad()
def selective_states(
    written: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    steps: Tensor,
    log_gate: Tensor | None = None,
    state: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The states at some steps of::

        h[t, g, p, n] = exp(dt[t, g, p] A[g, p, n] + log_gate[t, g, n]) h[t-1, g, p, n] + written[t, g, p] B[t, g, n]

    There are no gradients.

    Parameters
    ----------
    written, dt
        What channels write into their states, and step sizes: ``(batch, L, groups, P)``, float32 or float64.
    A
        ``(groups, P, N)``.
    B
        ``(batch, L, groups, N)``.
    steps
        Indices into time, ascending, int64 ``(S,)``.
    log_gate
        ``(batch, L, groups, N)``; zero if not given.
    state
        ``h[-1]``, ``(batch, groups, P, N)``; zero if not given.
    backend
        ``"numba"`` (compiled loops, CPU), ``"reference"`` (the loop that specifies it; any device), or ``"auto"``.

    Returns
    -------
    states, last
        ``(batch, S, groups, P, N)``, and the state after the last step of the sequence.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot run here, and for shapes that do not fit.
    """
    _check(written, dt, A, B, steps, log_gate, state)
    if backend not in ("auto", *STATES_BACKENDS):
        raise ConfigError(
            f"backend '{backend}' was asked for; needed: auto, {', '.join(STATES_BACKENDS)}."
            f"{did_you_mean(backend, STATES_BACKENDS)}"
        )
    on_cpu = written.device.type == "cpu"
    if backend == "numba" and not on_cpu:
        raise ConfigError(
            f"backend 'numba' was asked for; it computes on the CPU, and the tensors are on '{written.device}'.",
            cure="backend='auto'",
        )
    if state is None:
        state = written.new_zeros(len(written), *A.shape)
    if backend == "reference" or not on_cpu or 0 in (written.numel(), B.numel()):
        return _by_steps(written, dt, A, B, steps, log_gate, state)
    return _compiled(written, dt, A, B, steps, log_gate, state)


def _check(
    written: Tensor, dt: Tensor, A: Tensor, B: Tensor, steps: Tensor, log_gate: Tensor | None, state: Tensor | None
) -> None:
    if written.ndim != 4 or A.ndim != 3 or written.shape[2:] != A.shape[:2]:
        raise ShapeError(
            f"written {tuple(written.shape)} and A {tuple(A.shape)} were given.",
            "Needed: written (batch, L, groups, P), A (groups, P, N).",
        )
    entries, states = (*written.shape[:3], A.shape[2]), (len(written), *A.shape)
    wanted = {"dt": (dt, tuple(written.shape)), "B": (B, entries)}
    for name, (tensor, shape) in (wanted | {"log_gate": (log_gate, entries), "state": (state, states)}).items():
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(
                f"{name} {tuple(tensor.shape)} was given, with written {tuple(written.shape)} and A {tuple(A.shape)}.",
                f"Needed: {name} {shape}.",
            )
    inside = steps.ndim == 1 and ((steps >= 0) & (steps < written.shape[1])).all() and (steps.diff() > 0).all()
    if not inside:
        raise ShapeError(
            f"steps {steps.tolist()} were given, of a sequence of {written.shape[1]}.",
            "Needed: ascending indices into it.",
        )


def _by_steps(
    written: Tensor, dt: Tensor, A: Tensor, B: Tensor, steps: Tensor, log_gate: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    wanted, h, held = set(steps.tolist()), state, []
    for t in range(written.shape[1]):
        exponent = dt[:, t, :, :, None] * A
        exponent = exponent if log_gate is None else exponent + log_gate[:, t, :, None, :]
        h = torch.exp(exponent) * h + written[:, t, :, :, None] * B[:, t, :, None, :]
        if t in wanted:
            held.append(h)
    return torch.stack(held, 1) if held else h.new_empty(len(h), 0, *A.shape), h


def _compiled(
    written: Tensor, dt: Tensor, A: Tensor, B: Tensor, steps: Tensor, log_gate: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor]:
    (batch, length, groups, width), order = written.shape, A.shape[-1]
    block = VECTORS * _BYTES // written.element_size()
    missing = -order % block

    def filled(t: Tensor) -> Tensor:
        return pad(t, (0, missing)).contiguous()

    places = torch.full((length,), -1)
    places[steps] = torch.arange(len(steps))
    out = written.new_empty(batch, len(steps), groups, width, order)
    B, last = filled(B), filled(state).clone()
    launch(
        states_entry,
        batch * groups * -(-width // CHANNELS),
        written.dtype,
        *(length, groups, width, order, order + missing, len(steps), int(log_gate is not None)),
        *(places, written.contiguous(), dt.contiguous(), filled(A * _LOG2_E), B),
        *(B if log_gate is None else filled(log_gate * _LOG2_E), last, out),
    )
    return out, last[..., :order]
