"""Matrix products of rows in compiled loops, over columns that stay in the first cache.

    out[t] = start[t] + sum_k x[t, k] matrix[k]               sums[i] = sum_t g[t, i] x[t]

A task of the first kind is a block of rows of one sequence, of the second one some rows of the sums: each sums in the
same order whoever runs it. Matrices are read, and results written, in whole vectors, so their rows have room for these.
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.tiles import ROWS, multiply_add, multiply_from
from gramian.kernels.transposition import transpose
from gramian.kernels.vector_memory import store_whole
from gramian.kernels.vectors import lanes, splat

__all__ = ["ROWS", "TURNED", "products_entry", "sums_entry", "transposed_entry"]

TURNED = 32  # rows of a task that transposes
_STEPS = 256  # of a sum, before the next rows of it: what they read stays in the second cache


@compiled
def _panel(real):  # type: ignore[no-untyped-def]
    """Columns that are computed together."""
    return 4 * lanes(real)


@compiled
def _products(index, args, real):  # type: ignore[no-untyped-def]
    length, steps, width = args[0], args[1], args[2]
    x, x_row = array(args[3], 1 << 40, real), args[4]
    matrix, row = array(args[5], 1 << 40, real), args[6]
    begin, begin_row = array(args[7], 1 << 40, real), args[8]
    out, out_row, block = array(args[9], 1 << 40, real), args[10], args[11]
    blocks = max(1, length // block)
    start = index // blocks * length + index % blocks * block
    stop = start + block if index % blocks < blocks - 1 else (index // blocks + 1) * length
    for c in range(0, width, _panel(real)):
        wide = min(width - c, _panel(real))
        for r in range(start, stop, ROWS):
            first = min(r, stop - ROWS)  # some rows twice rather than few at a time
            i, o, f = first * x_row, first * out_row + c, first * begin_row + c
            multiply_from(begin, f, begin_row, out, o, out_row, x, i, x_row, 1, matrix, c, row, steps, wide, real)


@compiled
def _sums(index, args, real):  # type: ignore[no-untyped-def]
    steps, rows, width = args[0], args[1], args[2]
    g, g_row = array(args[3], 1 << 40, real), args[4]
    x, x_row = array(args[5], 1 << 40, real), args[6]
    out, spare = array(args[7], rows * width, real), array(args[8], ROWS * width, real)
    tiles, tasks = -(-rows // ROWS), args[9]
    first, last = index * tiles // tasks * ROWS, min((index + 1) * tiles // tasks * ROWS, rows)
    whole = last - last % ROWS
    _clear(out, first * width, whole * width, real)
    _clear(spare, 0, ROWS * width if whole < last else 0, real)
    for t in range(0, steps, _STEPS):
        count = min(_STEPS, steps - t)
        for c in range(0, width, _panel(real)):
            wide = min(width - c, _panel(real))
            for i in range(first, whole, ROWS):
                at, k = i * width + c, t * g_row + i
                multiply_add(out, at, width, g, k, 1, g_row, x, t * x_row + c, x_row, count, wide, real)
            if whole < last:
                k = t * g_row + whole
                multiply_add(spare, c, width, g, k, 1, g_row, x, t * x_row + c, x_row, count, wide, real)
    for k in range((last - whole) * width):
        out[whole * width + k] = spare[k]


@compiled
def _clear(a, start, end, real):  # type: ignore[no-untyped-def]
    """Zeros in whole vectors."""
    for k in range(start, end, lanes(real)):
        store_whole(a, k, splat(real))


@compiled
def _transposed(index, args, real):  # type: ignore[no-untyped-def]
    rows, columns, W = args[0], args[1], lanes(real)
    x, out, out_row = array(args[2], rows * columns, real), array(args[3], 1 << 40, real), args[4]
    for r in range(index * TURNED, min(index * TURNED + TURNED, rows), W):
        for c in range(0, columns, W):
            high, wide = min(W, rows - r), min(W, columns - c)
            transpose(x, r * columns + c, columns, high, wide, out, c * out_row + r, out_row, W)


@entry
def products_entry(data):  # type: ignore[no-untyped-def]
    """Rows of a sequence, numbers that are summed, columns; x and numbers from row to row of it, and so for the matrix,
    for what the result starts from, and for the result; rows of a task, of which the last one of a sequence takes what
    is left too."""
    run(_products, data)


@entry
def sums_entry(data):  # type: ignore[no-untyped-def]
    """Numbers that are summed, rows, columns; g and numbers from row to row of it, and so for x; the sums, and room for
    a tile of them, of which there may be fewer rows than a tile has; tasks."""
    run(_sums, data)


@entry
def transposed_entry(data):  # type: ignore[no-untyped-def]
    """Rows, columns, the matrix; its transpose, and numbers from row to row of it."""
    run(_transposed, data)
