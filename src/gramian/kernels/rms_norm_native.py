"""Root mean square normalisation, row by row.

Tasks are blocks of rows of one sequence; each leaves its own sum for the gradient of the weight.
"""

from __future__ import annotations

import math

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["ROWS", "backward_entry", "block", "forward_entry"]

ROWS = 64  # of a task


@compiled
def block(index, length):  # type: ignore[no-untyped-def]
    """The first row of a task, and behind its last one, in sequences of so many rows."""
    each = -(-length // ROWS)
    first = index // each * length
    start = first + index % each * ROWS
    return start, min(start + ROWS, first + length)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    rows, size, W = args[0], args[1], lanes(real)
    x, weight = array(args[2], rows * size, real), array(args[3], size, real)
    eps = array(args[4], 1, real)[0]
    out, scales = array(args[5], rows * size, real), array(args[6], rows, real)
    start, stop = block(index, args[7])
    for r in range(start, stop):
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
    """With ``d = g weight``: ``scale (d - x scale^2 mean(d x))``, and what is to be added, where that is an address."""
    rows, size, W = args[0], args[1], lanes(real)
    x, weight = array(args[2], rows * size, real), array(args[3], size, real)
    scales, g = array(args[4], rows, real), array(args[5], rows * size, real)
    g_x, g_w = array(args[6], rows * size, real), array(args[7], (index + 1, size), real)[index]
    also = array(args[9], rows * size, real)
    for c in range(0, size, W):
        store(g_w, c, size, splat(real))
    start, stop = block(index, args[8])
    for r in range(start, stop):
        i, end, s, scale = r * size, r * size + size, splat(real), scales[r]
        for c in range(0, size, W):
            product = load(g, i + c, end) * load(x, i + c, end)
            store(g_w, c, size, load(g_w, c, size) + product * scale)
            s = s + product * load(weight, c, size)
        mean = total(s) / size * scale * scale
        for c in range(0, size, W):
            d = load(g, i + c, end) * load(weight, c, size)
            d = (d - load(x, i + c, end) * mean) * scale
            if args[9]:
                d = d + load(also, i + c, end)
            store(g_x, i + c, end, d)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    """Rows, columns; x, the weight, what is added to the mean; the output, factors; rows of a sequence."""
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    """Rows, columns; x, the weight, factors, the gradient; that of x, sums, a row of them a task; rows of a sequence;
    and what is added to the gradient of x, or 0."""
    run(_backward, data)
