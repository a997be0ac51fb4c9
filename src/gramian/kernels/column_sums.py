"""Sums over the rows of a matrix in compiled loops, in the order of the rows: what tasks of a kernel left, or biases.

As a stage, beside kernels; `Tensor.sum` would be a launch of its own.
"""

from __future__ import annotations

from torch import Tensor

from gramian.kernels.native import At, array, compiled, entry, run
from gramian.kernels.stages import Stage
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["column_sums_stage"]

_COLUMNS = 64  # of a task


@compiled
def _sums(index, args, real):  # type: ignore[no-untyped-def]
    rows, columns, x, row = args[0], args[1], array(args[2], 1 << 40, real), args[3]
    out, step = array(args[4], 1 << 40, real), args[5]
    first, end = index * _COLUMNS, min(index * _COLUMNS + _COLUMNS, columns)
    if step == 1:
        for c in range(first, end, lanes(real)):
            s = splat(real)
            for r in range(rows):
                s = s + load(x, r * row + c, r * row + end)
            store(out, c, end, s)
    else:
        for c in range(first, end):
            total = real
            for r in range(rows):
                total += x[r * row + c]
            out[c * step] = total


@entry
def _entry(data):  # type: ignore[no-untyped-def]
    """Rows, columns; the matrix and numbers from row to row; the sums and numbers from one to the next."""
    run(_sums, data)


def column_sums_stage(x: Tensor, out: Tensor) -> Stage:
    """What fills `out`, ``(columns,)`` and of any stride, with the sums of ``(rows, columns)``, whose columns lie side
    by side; one piece."""
    rows, columns = x.shape
    return Stage(_entry, -(-columns // _COLUMNS), (rows, columns, At(x), x.stride(0), At(out), out.stride(0)))
