"""Gated root mean square normalisation, a row at a time: twice through a row that stays in the first cache.

Tasks are blocks of rows of one sequence; each leaves its own sum for the gradient of the weight. Rows of values and
gates, and of the gates' gradients, may be columns of larger matrices.
"""

from __future__ import annotations

import math

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.rms_norm_native import ROWS, block
from gramian.kernels.selective_math import logistic
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["ROWS", "backward_entry", "forward_entry"]


@compiled
def _forward_group(y, i, z, j, weight, o, size, out, k, eps, first, real):  # type: ignore[no-untyped-def]
    """One group of one row; the factor that normalises it."""
    W, s = lanes(real), splat(real)
    for c in range(0, size, W):
        v = load(y, i + c, i + size)
        if first:
            gate = load(z, j + c, j + size)
            v = v * gate * logistic(gate)
        s = s + v * v
        store(out, k + c, k + size, v)
    scale = 1 / math.sqrt(total(s) / size + eps)
    for c in range(0, size, W):
        v = load(out, k + c, k + size) * load(weight, o + c, o + size) * scale
        if not first:
            gate = load(z, j + c, j + size)
            v = v * gate * logistic(gate)
        store(out, k + c, k + size, v)
    return scale


@compiled
def _backward_group(y, i, z, j, g, k, weight, o, size, scale, g_y, g_z, n, g_w, first, real):  # type: ignore[no-untyped-def]
    """Gradients for one group of one row, with ``v`` what is normalised: once for ``<dv, v>``, and once for all.

    In between, the gradient of the gates holds their logistic function.
    """
    W, s = lanes(real), splat(real)
    for c in range(0, size, W):
        v, gate = load(y, i + c, i + size), load(z, j + c, j + size)
        sigma = logistic(gate)
        store(g_z, n + c, n + size, sigma)
        d = load(g, k + c, k + size)
        gated = v * gate * sigma
        store(g_w, o + c, o + size, load(g_w, o + c, o + size) + d * gated * scale)
        s = s + d * gated * load(weight, o + c, o + size)
    mean = total(s) * scale * scale / size
    for c in range(0, size, W):
        v, gate = load(y, i + c, i + size), load(z, j + c, j + size)
        sigma = load(g_z, n + c, n + size)
        silu, slope = gate * sigma, sigma + gate * sigma * (1.0 - sigma)
        d = load(g, k + c, k + size) * load(weight, o + c, o + size) * scale
        if first:
            d = d - v * silu * (mean * scale)
            d_y, d_z = d * silu, d * v * slope
        else:
            d_y, d_z = d * silu - v * (mean * scale), d * v * slope
        store(g_y, k + c, k + size, d_y)
        store(g_z, n + c, n + size, d_z)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    rows, length, channels, groups, first, y_row, z_row = args[0], args[1], args[2], args[3], args[4], args[5], args[6]
    y, z = array(args[7], rows * y_row, real), array(args[8], rows * z_row, real)
    weight, eps = array(args[9], channels, real), array(args[10], 1, real)[0]
    out, scales = array(args[11], rows * channels, real), array(args[12], rows * groups, real)
    size, (start, stop) = channels // groups, block(index, length)
    for r in range(start, stop):
        for q in range(groups):
            o = q * size
            scales[r * groups + q] = _forward_group(
                y, r * y_row + o, z, r * z_row + o, weight, o, size, out, r * channels + o, eps, first, real
            )


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    rows, length, channels, groups, first, y_row, z_row = args[0], args[1], args[2], args[3], args[4], args[5], args[6]
    y, z = array(args[7], rows * y_row, real), array(args[8], rows * z_row, real)
    weight, scales = array(args[9], channels, real), array(args[10], rows * groups, real)
    g, g_y = array(args[11], rows * channels, real), array(args[12], rows * channels, real)
    g_w = array(args[13], (index + 1, channels), real)[index]
    g_z_row, g_z = args[14], array(args[15], rows * args[14], real)
    size, (start, stop) = channels // groups, block(index, length)
    for c in range(0, channels, lanes(real)):
        store(g_w, c, channels, splat(real))
    for r in range(start, stop):
        for q in range(groups):
            o = q * size
            i, j, k, n = r * y_row + o, r * z_row + o, r * channels + o, r * g_z_row + o
            scale = scales[r * groups + q]
            _backward_group(y, i, z, j, g, k, weight, o, size, scale, g_y, g_z, n, g_w, first, real)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
