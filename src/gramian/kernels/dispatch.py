"""One entrance to every version of the recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.chunked import diagonal_ssm_by_chunks
from gramian.kernels.reference import diagonal_ssm_by_steps

__all__ = ["BACKENDS", "diagonal_ssm"]

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

BACKENDS: dict[str, Kernel] = {"chunked": diagonal_ssm_by_chunks, "reference": diagonal_ssm_by_steps}


def diagonal_ssm(
    u: Tensor,
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """``x[k] = l x[k-1] + B u[k]``, ``y[k] = Re(C x[k])`` for a whole sequence, ``l = exp(-decay + i angle)``.

    Parameters
    ----------
    u
        Inputs, ``(batch, L, H_in)``, float32 or float64. ``L`` may be 0.
    decay, angle
        ``(N,)``: ``-log|l|`` (positive) and the angle of the poles.
    B, C
        Complex, ``(N, H_in)`` and ``(H_out, N)``.
    state
        State before the first step, complex ``(batch, N)``; zero if not given.
    lengths
        How many steps of each sequence are real, int64 ``(batch,)``; all if not given. Outputs beyond are those of
        the padding and mean nothing.
    backend
        ``"auto"``, ``"chunked"`` (matrix products, any device) or ``"reference"`` (the loop that specifies it).

    Returns
    -------
    y, state
        ``(batch, L, H_out)``, real, and the state after the last real step, complex ``(batch, N)``.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend, and for shapes that do not fit.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise ConfigError(
            f"backend '{backend}' was asked for; needed: auto, {', '.join(BACKENDS)}.{did_you_mean(backend, BACKENDS)}"
        )
    if u.ndim != 3 or u.shape[-1] != B.shape[-1] or B.shape[0] != C.shape[-1]:
        raise ShapeError(
            f"u {tuple(u.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)} were given.",
            "Needed: u (batch, L, H_in), B (N, H_in), C (H_out, N).",
        )
    batch, length, _ = u.shape
    if state is None:
        state = torch.zeros(batch, B.shape[0], dtype=B.dtype, device=u.device)
    if lengths is None:
        lengths = torch.full((batch,), length, device=u.device)
    if length == 0:
        return u.new_zeros(batch, 0, C.shape[0]), state
    kernel = BACKENDS["chunked" if backend == "auto" else backend]
    return kernel(u, decay, angle, B, C, state, lengths)
