"""The impulse response of a diagonal state space map, ``K[d] = Re(C l^d B)``, as one matrix product.

With ``d = i J + j`` it is ``(C l^(iJ)) (l^j B)``: a matrix of ``I H_out`` rows times one of ``J H_in`` columns, where
powers are needed for ``I + J``, about ``2 sqrt(L)``, exponents only. The two factors are an operator of their own:
a dozen small torch operations would take longer than the product.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.operators import operator
from gramian.kernels.scan_native import complex_product, pair_signs
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes

__all__ = ["impulse_response", "pole_powers", "times"]


def impulse_response(decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, length: int) -> Tensor:
    """``Re(C l^d B)`` for ``d < length``, with ``l = exp(-decay + i angle)``.

    Parameters
    ----------
    decay, angle
        ``(N,)``.
    B, C
        Pairs ``(H_in, N, 2)`` (inputs first) and ``(H_out, N, 2)``.

    Returns
    -------
    Tensor
        ``(H_in, H_out, length)``.
    """
    J = max(1, math.isqrt(length))
    I = -(-length // J)
    if decay.device.type == "cpu":
        late, early, _ = _factors(decay, angle, B, C, I, J)
    else:
        late, early = factors_in_torch(decay, angle, B, C, I, J)
    response = late @ early.mT
    response = response.reshape(I, C.shape[0], J, B.shape[0]).permute(3, 1, 0, 2)
    return response.reshape(B.shape[0], C.shape[0], I * J)[..., :length]


def pole_powers(decay: Tensor, angle: Tensor, exponents: Tensor) -> Tensor:
    """``l^d`` as pairs, ``(len(exponents), N, 2)``. Angles are multiplied in double precision where there is one."""
    lowest = math.log(torch.finfo(decay.dtype).tiny) + 1  # gradients of smaller numbers would be noise
    wide = decay.dtype if decay.device.type == "mps" else torch.float64
    size = torch.exp((-exponents[:, None].to(decay.dtype) * decay).clamp(min=lowest))
    phase = exponents[:, None].to(wide) * angle.to(wide)
    return size[..., None] * torch.stack([phase.cos(), phase.sin()], -1).to(decay.dtype)


def times(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex numbers as pairs in the last dimension."""
    (a_re, a_im), (b_re, b_im) = a.unbind(-1), b.unbind(-1)
    return torch.stack([a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re], -1)


def factors_in_torch(decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, I: int, J: int) -> tuple[Tensor, Tensor]:
    """``conj(C l^(iJ))``, ``(I H_out, 2N)``, and ``l^j B``, ``(J H_in, 2N)``: the twin of the operator."""
    steps = torch.arange(max(I, J), device=decay.device)
    late = times(pole_powers(decay, angle, steps[:I] * J)[:, None], C)
    late = late * torch.tensor([1.0, -1.0], dtype=late.dtype, device=late.device)  # Re(c b) = c_re b_re - c_im b_im
    early = times(pole_powers(decay, angle, steps[:J])[:, None], B)
    return late.reshape(I * C.shape[0], -1), early.reshape(J * B.shape[0], -1)


@compiled
def _powers(powers, decay, angle, first, last, I, J):  # type: ignore[no-untyped-def]
    """Rows ``l^(iJ)``, then ``l^j``, of `powers`, for states ``first ... last - 1``: repeated products in double."""
    for n in range(first, last):
        for row, count, step in ((0, I, J), (I, J, 1)):
            size = math.exp(-np.float64(decay[n]) * step)
            l_re, l_im = size * math.cos(np.float64(angle[n]) * step), size * math.sin(np.float64(angle[n]) * step)
            re, im = 1.0, 0.0
            for k in range(count):
                powers[row + k, 2 * n], powers[row + k, 2 * n + 1] = re, im
                re, im = re * l_re - im * l_im, re * l_im + im * l_re


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    N, I, J, H_in, H_out = args[0], args[1], args[2], args[3], args[4]
    M, width = 2 * N, lanes(real)
    c = index * width
    powers = array(args[9], (I + J, M), real)
    _powers(powers, array(args[5], N, real), array(args[6], N, real), c // 2, min((c + width) // 2, N), I, J)
    B, C = array(args[7], (H_in, M), real), array(args[8], (H_out, M), real)
    late, early = array(args[10], (I * H_out, M), real), array(args[11], (J * H_in, M), real)
    sign = pair_signs(real)
    for i in range(I):
        p = load(powers[i], c, M)
        for h in range(H_out):
            store(late[i * H_out + h], c, M, complex_product(p, load(C[h], c, M), sign) * sign * -1)
    for j in range(J):
        p = load(powers[I + j], c, M)
        for h in range(H_in):
            store(early[j * H_in + h], c, M, complex_product(p, load(B[h], c, M), sign))


@entry
def _forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _factor_gradient(g, M_rows, powers, row, count, step, flip, g_rows, c, M, conjugate):  # type: ignore[no-untyped-def]
    """Of ``l^(k step) m_h`` for rows ``m_h``: adds to their gradients, returns that of ``log l``."""
    g_log = flip * 0
    for h in range(len(M_rows)):
        m, g_m = load(M_rows[h], c, M), flip * 0
        for k in range(count):
            p, g_kh = load(powers[row + k], c, M), load(g[k * len(M_rows) + h], c, M) * flip
            back = complex_product(p, g_kh, conjugate)
            g_m = g_m + back
            g_log = g_log + complex_product(m, back, conjugate) * (k * step)
        store(g_rows[h], c, M, g_m)
    return g_log


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    N, I, J, H_in, H_out = args[0], args[1], args[2], args[3], args[4]
    M, c = 2 * N, index * lanes(real)
    B, C = array(args[5], (H_in, M), real), array(args[6], (H_out, M), real)
    powers = array(args[7], (I + J, M), real)
    g_late, g_early = array(args[8], (I * H_out, M), real), array(args[9], (J * H_in, M), real)
    g_B, g_C, g_log = array(args[10], (H_in, M), real), array(args[11], (H_out, M), real), array(args[12], M, real)
    conjugate = pair_signs(real) * -1
    one = conjugate * conjugate
    late = _factor_gradient(g_late, C, powers, 0, I, J, conjugate, g_C, c, M, conjugate)
    early = _factor_gradient(g_early, B, powers, I, J, 1, one, g_B, c, M, conjugate)
    store(g_log, c, M, late + early)


@entry
def _backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)


@operator("response_factors", cpu_only=True)
def _factors(
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    I: int,
    J: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `factors_in_torch`, and the powers for the backward pass."""
    decay, angle, B, C = (t.contiguous() for t in (decay, angle, B, C))
    H_in, N, H_out = *B.shape[:2], C.shape[0]
    late, early = B.new_empty(I * H_out, 2 * N), B.new_empty(J * H_in, 2 * N)
    powers = B.new_empty(I + J, 2 * N)
    tensors = (decay, angle, B, C, powers, late, early)
    launch(_forward_entry, _tiles(B), B.dtype, N, I, J, H_in, H_out, *tensors)
    return late, early, powers


def _tiles(B: Tensor) -> int:
    """Vectors that a row of pairs takes."""
    return -(-2 * B.shape[1] * B.element_size() // 64)


@_factors.register_fake
def _(decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, I: int, J: int) -> tuple[Tensor, Tensor, Tensor]:
    M = 2 * B.shape[1]
    return B.new_empty(I * C.shape[0], M), B.new_empty(J * B.shape[0], M), B.new_empty(I + J, M)


@operator("response_factors_backward", cpu_only=True)
def _factors_backward(
    g_late: Tensor,
    g_early: Tensor,
    B: Tensor,
    C: Tensor,
    powers: Tensor,
    I: int,
    J: int,
) -> tuple[Tensor, Tensor, Tensor]:
    g_late, g_early, B, C = (t.contiguous() for t in (g_late, g_early, B, C))
    H_in, N, H_out = *B.shape[:2], C.shape[0]
    g_B, g_C, g_log = torch.empty_like(B), torch.empty_like(C), B.new_empty(N, 2)
    tensors = (B, C, powers, g_late, g_early, g_B, g_C, g_log)
    launch(_backward_entry, _tiles(B), B.dtype, N, I, J, H_in, H_out, *tensors)
    return g_B, g_C, g_log


@_factors_backward.register_fake
def _(
    g_late: Tensor,
    g_early: Tensor,
    B: Tensor,
    C: Tensor,
    powers: Tensor,
    I: int,
    J: int,
) -> tuple[Tensor, Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(B, memory_format=contiguous),
        torch.empty_like(C, memory_format=contiguous),
        B.new_empty(B.shape[1], 2),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[2], inputs[3], output[2])
    ctx.sizes = inputs[4:]


def _differentiate(ctx: Any, g_late: Tensor, g_early: Tensor) -> tuple[Tensor | None, ...]:
    g_B, g_C, g_log = _factors_backward(g_late, g_early, *ctx.saved_tensors, *ctx.sizes)
    return -g_log[:, 0], g_log[:, 1], g_B, g_C, None, None


_factors.register_autograd(_differentiate, setup_context=_save, results=2)
