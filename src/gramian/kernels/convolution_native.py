"""Between sequences and channels, and products of spectra: what a convolution needs around its FFTs."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.scan_native import pair_signs
from gramian.kernels.transposition import transpose
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import duplicate_even, duplicate_odd, lanes, splat, swap_pairs

__all__ = ["correlate_native", "from_channels", "mix_native", "to_channels"]

_FREQUENCIES = 64  # of a task: two pieces of all spectra then fit into the first caches


@compiled
def _to_channels(b, args, real):  # type: ignore[no-untyped-def]
    B, L, H, n = args[0], args[1], args[2], args[3]
    u, out = array(args[4], B * L * H, real), array(args[5], B * H * n, real)
    W = lanes(real)
    for h in range(0, H, W):
        for t in range(0, L, W):
            transpose(u, (b * L + t) * H + h, H, L - t, H - h, out, (b * H + h) * n + t, n, min(W, n - t))
        for c in range(h, min(h + W, H)):
            out[(b * H + c) * n + L : (b * H + c + 1) * n] = real


@entry
def _to_channels_entry(data):  # type: ignore[no-untyped-def]
    run(_to_channels, data)


@compiled
def _from_channels(b, args, real):  # type: ignore[no-untyped-def]
    B, L, H, n = args[0], args[1], args[2], args[3]
    v, out = array(args[4], B * H * n, real), array(args[5], B * L * H, real)
    W = lanes(real)
    for h in range(0, H, W):
        for t in range(0, L, W):
            transpose(v, (b * H + h) * n + t, n, H - h, L - t, out, (b * L + t) * H + h, H, min(W, H - h))


@entry
def _from_channels_entry(data):  # type: ignore[no-untyped-def]
    run(_from_channels, data)


@compiled
def _four_products(x, k, i, j, step_i, step_j, across, count, m, last, real):  # type: ignore[no-untyped-def]
    """Sums over `count` products of spectra at ``x[i + step_i n]`` with those at ``k[j + step_j n + across q]``, q < 4.

    For each q a sum of straight and one of crossed products, ``(x_re k_re, x_im k_re)`` and ``(x_im k_im, x_re k_im)``.
    """
    a0, a1, a2, a3 = splat(real), splat(real), splat(real), splat(real)
    b0, b1, b2, b3 = splat(real), splat(real), splat(real), splat(real)
    for _ in range(count):
        value = load(x, i + m, i + last)
        swapped = swap_pairs(value)
        k0, k1 = load(k, j + m, j + last), load(k, j + across + m, j + across + last)
        a0, b0 = a0 + value * duplicate_even(k0), b0 + swapped * duplicate_odd(k0)
        a1, b1 = a1 + value * duplicate_even(k1), b1 + swapped * duplicate_odd(k1)
        e = j + 2 * across
        k2, k3 = load(k, e + m, e + last), load(k, e + across + m, e + across + last)
        a2, b2 = a2 + value * duplicate_even(k2), b2 + swapped * duplicate_odd(k2)
        a3, b3 = a3 + value * duplicate_even(k3), b3 + swapped * duplicate_odd(k3)
        i += step_i
        j += step_j
    return a0, a1, a2, a3, b0, b1, b2, b3


@compiled
def _store_four(y, at, step, count, sign, sums, m, last):  # type: ignore[no-untyped-def]
    a0, a1, a2, a3, b0, b1, b2, b3 = sums
    store(y, at + m, at + last, a0 + sign * b0)
    if count > 1:
        store(y, at + step + m, at + step + last, a1 + sign * b1)
    if count > 2:
        store(y, at + 2 * step + m, at + 2 * step + last, a2 + sign * b2)
    if count > 3:
        store(y, at + 3 * step + m, at + 3 * step + last, a3 + sign * b3)


@compiled
def _mix(index, args, real):  # type: ignore[no-untyped-def]
    """``y[b, g] = sum_h x[b, h] k[h, g]``, or with ``conj(k[g, h])``, at a piece of the frequencies."""
    B, H, G, M, adjoint = args[0], args[1], args[2], args[3], args[4]
    x, y = array(args[5], B * H * M, real), array(args[7], B * G * M, real)
    k = array(args[6], H * G * M, real)
    h_step, g_step = (M, H * M) if adjoint else (G * M, M)
    sign = pair_signs(real)
    if adjoint:
        sign = sign * -1
    first = index * 2 * _FREQUENCIES
    last = min(first + 2 * _FREQUENCIES, M)
    for g in range(0, G, 4):
        across, step = (g_step, 4) if g + 4 <= G else (0, 1)  # four outputs at once, or each of the last ones alone
        for q in range(g, min(g + 4, G), step):
            for b in range(B):
                for m in range(first, last, lanes(real)):
                    sums = _four_products(x, k, b * H * M, q * g_step, M, h_step, across, H, m, last, real)
                    _store_four(y, (b * G + q) * M, M, step, sign, sums, m, last)


@entry
def _mix_entry(data):  # type: ignore[no-untyped-def]
    run(_mix, data)


@compiled
def _correlate(index, args, real):  # type: ignore[no-untyped-def]
    """``k[h, g] = sum_b conj(x[b, h]) y[b, g]`` at a piece of the frequencies."""
    B, H, G, M = args[0], args[1], args[2], args[3]
    x, y, k = array(args[4], B * H * M, real), array(args[5], B * G * M, real), array(args[6], H * G * M, real)
    conjugate = pair_signs(real) * -1
    first = index * 2 * _FREQUENCIES
    last = min(first + 2 * _FREQUENCIES, M)
    for h in range(0, H, 4):
        across, step = (M, 4) if h + 4 <= H else (0, 1)
        for q in range(h, min(h + 4, H), step):
            for g in range(G):
                for m in range(first, last, lanes(real)):
                    sums = _four_products(y, x, g * M, q * M, G * M, H * M, across, B, m, last, real)
                    _store_four(k, (q * G + g) * M, G * M, step, conjugate, sums, m, last)


@entry
def _correlate_entry(data):  # type: ignore[no-untyped-def]
    run(_correlate, data)


def to_channels(u: Tensor, n: int) -> Tensor:
    """``(batch, L, H)`` as ``(batch, H, n)``, zero from L on."""
    B, L, H = u.shape
    out = u.new_empty(B, H, n)
    launch(_to_channels_entry, B, u.dtype, B, L, H, n, u.contiguous(), out)
    return out


def from_channels(v: Tensor, length: int) -> Tensor:
    """The first `length` steps of ``(batch, H, n)`` as ``(batch, length, H)``."""
    B, H, n = v.shape
    out = v.new_empty(B, length, H)
    launch(_from_channels_entry, B, v.dtype, B, length, H, n, v.contiguous(), out)
    return out


def mix_native(x: Tensor, k: Tensor, adjoint: bool = False) -> Tensor:
    """At every frequency ``y[b, g] = sum_h x[b, h] k[h, g]`` (`adjoint`: ``conj(k[g, h])``); complex, ``(B, G, F)``."""
    B, H, F = x.shape
    G = k.shape[0 if adjoint else 1]
    y = x.new_empty(B, G, F)
    tasks = -(-F // _FREQUENCIES)
    launch(_mix_entry, tasks, x.dtype, B, H, G, 2 * F, int(adjoint), *map(torch.view_as_real, (x, k, y)))
    return y


def correlate_native(x: Tensor, y: Tensor) -> Tensor:
    """At every frequency ``k[h, g] = sum_b conj(x[b, h]) y[b, g]``; complex, ``(H, G, F)``."""
    B, H, F = x.shape
    k = x.new_empty(H, y.shape[1], F)
    tasks = -(-F // _FREQUENCIES)
    launch(_correlate_entry, tasks, x.dtype, B, H, y.shape[1], 2 * F, *map(torch.view_as_real, (x, y, k)))
    return k
