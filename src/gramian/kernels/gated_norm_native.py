"""Gated root mean square normalisation, a row at a time: twice through a row that stays in the first cache.

Tasks are pieces of rows; each leaves its own sum for the gradient of the weight. Rows of values and gates may be
columns of larger matrices.
"""

from __future__ import annotations

import math

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_math import logistic
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["ROWS", "backward_entry", "forward_entry"]

ROWS = 64  # of a task


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
def _backward_group(y, i, z, j, g, k, weight, o, size, scale, g_y, g_z, g_w, first, real):  # type: ignore[no-untyped-def]
    """Gradients for one group of one row, with ``n`` what is normalised: once for ``<dn, n>``, and once for all."""
    W, s = lanes(real), splat(real)
    for c in range(0, size, W):
        v, gate = load(y, i + c, i + size), load(z, j + c, j + size)
        silu = gate * logistic(gate)
        d = load(g, k + c, k + size)
        gated = v * silu
        store(g_w, o + c, o + size, load(g_w, o + c, o + size) + d * gated * scale)
        s = s + d * gated * load(weight, o + c, o + size)
    mean = total(s) * scale * scale / size
    for c in range(0, size, W):
        v, gate = load(y, i + c, i + size), load(z, j + c, j + size)
        sigma = logistic(gate)
        silu, slope = gate * sigma, sigma + gate * sigma * (1.0 - sigma)
        d = load(g, k + c, k + size) * load(weight, o + c, o + size) * scale
        if first:
            d = d - v * silu * (mean * scale)
            d_y, d_z = d * silu, d * v * slope
        else:
            d_y, d_z = d * silu - v * (mean * scale), d * v * slope
        store(g_y, k + c, k + size, d_y)
        store(g_z, k + c, k + size, d_z)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    rows, channels, groups, first, y_row, z_row = args[0], args[1], args[2], args[3], args[4], args[5]
    y, z = array(args[6], rows * y_row, real), array(args[7], rows * z_row, real)
    weight, eps = array(args[8], channels, real), array(args[9], 1, real)[0]
    out, scales = array(args[10], rows * channels, real), array(args[11], rows * groups, real)
    size = channels // groups
    for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
        for q in range(groups):
            o = q * size
            scales[r * groups + q] = _forward_group(
                y, r * y_row + o, z, r * z_row + o, weight, o, size, out, r * channels + o, eps, first, real
            )


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    rows, channels, groups, first, y_row, z_row = args[0], args[1], args[2], args[3], args[4], args[5]
    y, z = array(args[6], rows * y_row, real), array(args[7], rows * z_row, real)
    weight, scales = array(args[8], channels, real), array(args[9], rows * groups, real)
    g, g_y = array(args[10], rows * channels, real), array(args[11], rows * channels, real)
    g_z = array(args[12], rows * channels, real)
    g_w = array(args[13], (args[14], channels), real)[index]
    size = channels // groups
    for c in range(0, channels, lanes(real)):
        store(g_w, c, channels, splat(real))
    for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
        for q in range(groups):
            o = q * size
            k, scale = r * channels + o, scales[r * groups + q]
            _backward_group(
                y, r * y_row + o, z, r * z_row + o, g, k, weight, o, size, scale, g_y, g_z, g_w, first, real
            )


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
