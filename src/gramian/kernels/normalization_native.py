"""Sums over the rows of a matrix, and rows shifted and scaled: what batch normalisation is made of.

Tasks are pieces of rows; each leaves its own sums, which are added up in order afterwards.
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["ROWS", "backward_entry", "backward_sums_entry", "forward_entry", "sums_entry"]

ROWS = 512  # of a task


@compiled
def _sums(index, args, real):  # type: ignore[no-untyped-def]
    """Sums of ``x - pivot`` and of its square over a piece of rows."""
    rows, H, pieces = args[0], args[1], args[2]
    x, pivot = array(args[3], rows * H, real), array(args[4], H, real)
    sums = array(args[5], (pieces, 2, H), real)[index]
    for h in range(0, H, lanes(real)):
        p, first, second = load(pivot, h, H), splat(real), splat(real)
        for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
            d = load(x, r * H + h, r * H + H) - p
            first, second = first + d, second + d * d
        store(sums[0], h, H, first)
        store(sums[1], h, H, second)


@entry
def sums_entry(data):  # type: ignore[no-untyped-def]
    run(_sums, data)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    rows, H = args[0], args[1]
    x, y = array(args[2], rows * H, real), array(args[3], rows * H, real)
    mean, scale = array(args[4], H, real), array(args[5], H, real)
    for h in range(0, H, lanes(real)):
        m, s = load(mean, h, H), load(scale, h, H)
        for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
            store(y, r * H + h, r * H + H, (load(x, r * H + h, r * H + H) - m) * s)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _backward_sums(index, args, real):  # type: ignore[no-untyped-def]
    """Sums of ``g`` and of ``g y``, where ``y = (x - mean) scale``."""
    rows, H, pieces = args[0], args[1], args[2]
    x, g = array(args[3], rows * H, real), array(args[4], rows * H, real)
    mean, scale = array(args[5], H, real), array(args[6], H, real)
    sums = array(args[7], (pieces, 2, H), real)[index]
    for h in range(0, H, lanes(real)):
        m, first, second = load(mean, h, H), splat(real), splat(real)
        for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
            g_r = load(g, r * H + h, r * H + H)
            first, second = first + g_r, second + g_r * (load(x, r * H + h, r * H + H) - m)
        store(sums[0], h, H, first)
        store(sums[1], h, H, second * load(scale, h, H))


@entry
def backward_sums_entry(data):  # type: ignore[no-untyped-def]
    run(_backward_sums, data)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """``g_x = scale (g - a - b y)``, with the means a of ``g`` and b of ``g y``."""
    rows, H = args[0], args[1]
    x, g, g_x = array(args[2], rows * H, real), array(args[3], rows * H, real), array(args[4], rows * H, real)
    mean, scale, means = array(args[5], H, real), array(args[6], H, real), array(args[7], (2, H), real)
    for h in range(0, H, lanes(real)):
        m, s, a, b = load(mean, h, H), load(scale, h, H), load(means[0], h, H), load(means[1], h, H)
        b = b * s
        for r in range(index * ROWS, min(index * ROWS + ROWS, rows)):
            store(
                g_x,
                r * H + h,
                r * H + H,
                s * (load(g, r * H + h, r * H + H) - a - b * (load(x, r * H + h, r * H + H) - m)),
            )


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
