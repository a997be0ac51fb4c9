"""Root mean square normalisation, row by row. Each task, a piece of rows, leaves a sum for the weight's gradient."""

from __future__ import annotations

import math

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["ROWS", "backward_entry", "forward_entry"]

ROWS = 64  # of a task


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    rows, size, W = args[0], args[1], lanes(real)
    x, weight = array(args[2], rows * size, real), array(args[3], size, real)
    eps = array(args[4], 1, real)[0]
    out, scales = array(args[5], rows * size, real), array(args[6], rows, real)
    for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
        i, end, s = r * size, r * size + size, splat(real)
        for c in range(0, size, W):
            v = load(x, i + c, end)
            s = s + v * v
        scale = 1 / math.sqrt(total(s) / size + eps)
        for c in range(0, size, W):
            store(out, i + c, end, load(x, i + c, end) * load(weight, c, size) * scale)
        scales[r] = scale


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """With ``d = g weight``: ``scale (d - x scale^2 mean(d x))``."""
    rows, size, W = args[0], args[1], lanes(real)
    x, weight = array(args[2], rows * size, real), array(args[3], size, real)
    scales, g = array(args[4], rows, real), array(args[5], rows * size, real)
    g_x, g_w = array(args[6], rows * size, real), array(args[7], (args[8], size), real)[index]
    for c in range(0, size, W):
        store(g_w, c, size, splat(real))
    for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
        i, end, s, scale = r * size, r * size + size, splat(real), scales[r]
        for c in range(0, size, W):
            product = load(g, i + c, end) * load(x, i + c, end)
            store(g_w, c, size, load(g_w, c, size) + product * scale)
            s = s + product * load(weight, c, size)
        mean = total(s) / size * scale * scale
        for c in range(0, size, W):
            d = load(g, i + c, end) * load(weight, c, size)
            store(g_x, i + c, end, (d - load(x, i + c, end) * mean) * scale)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
