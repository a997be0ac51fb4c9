"""One step of a diagonal recurrence in one compiled pass: what inference repeats, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.scan_native import complex_product, pair_signs
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["diagonal_step"]


@compiled
def _step(b, args, real):  # type: ignore[no-untyped-def]
    """One sequence; rows of B and C hold a channel's coefficients for all states, those of C conjugated."""
    H_in, H_out, M = args[0], args[1], args[2]
    u, y = array(args[3], args[9] * H_in, real), array(args[4], args[9] * H_out, real)
    poles, B, C = array(args[5], M, real), array(args[6], H_in * M, real), array(args[7], H_out * M, real)
    state = array(args[8], args[9] * M, real)
    sign = pair_signs(real)
    for m in range(0, M, lanes(real)):
        x = complex_product(load(poles, m, M), load(state, b * M + m, b * M + M), sign)
        for h in range(H_in):
            x = x + splat(u[b * H_in + h]) * load(B, h * M + m, h * M + M)
        store(state, b * M + m, b * M + M, x)
    for h in range(H_out):
        even, odd, last = splat(real), splat(real), M - M % (2 * lanes(real))
        for m in range(0, last, 2 * lanes(real)):
            i, j = h * M + m, b * M + m
            even = even + load(C, i, h * M + M) * load(state, j, b * M + M)
            i, j = i + lanes(real), j + lanes(real)
            odd = odd + load(C, i, h * M + M) * load(state, j, b * M + M)
        for m in range(last, M, lanes(real)):
            even = even + load(C, h * M + m, h * M + M) * load(state, b * M + m, b * M + M)
        y[b * H_out + h] = total(even + odd)


@entry
def _step_entry(data):  # type: ignore[no-untyped-def]
    run(_step, data)


def diagonal_step(u: Tensor, poles: Tensor, B: Tensor, C_conj: Tensor, state: Tensor) -> Tensor:
    """``x <- l x + B u`` in place, and ``Re(C x)``.

    Parameters
    ----------
    u
        ``(batch, H_in)``.
    poles, B, C_conj
        Pairs ``(N, 2)``, ``(H_in, N, 2)``, and the conjugate of C, ``(H_out, N, 2)``; contiguous, without gradients.
    state
        Pairs ``(batch, N, 2)``, contiguous; changed in place.

    Returns
    -------
    Tensor
        ``(batch, H_out)``.
    """
    if u.device.type != "cpu":
        lifted = torch.view_as_complex(poles) * torch.view_as_complex(state)
        state.copy_(torch.view_as_real(lifted) + (u @ B.flatten(1)).view_as(state))
        return state.flatten(1) @ C_conj.flatten(1).mT
    u, (H_in, N), H_out = u.contiguous(), B.shape[:2], C_conj.shape[0]
    y = u.new_empty(len(u), H_out)
    launch(_step_entry, len(u), u.dtype, H_in, H_out, 2 * N, u, y, poles, B, C_conj, state, len(u))
    return y
