"""Sums over the rows of a matrix in compiled loops: what tasks of a kernel left, or gradients of biases.

As a stage, beside kernels; `Tensor.sum` would be a launch of its own. Blocks of rows are summed, and then these sums:
one after the other, thousands of rows would lose digits.
"""

from __future__ import annotations

from torch import Tensor

from gramian.kernels.native import At, array, compiled, entry, run
from gramian.kernels.stages import Stage
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["column_sums_stage"]

_COLUMNS = 64  # of a task
_ROWS = 128  # of a block


@compiled
def _apart(x, row, rows, first, end, out, step, real):  # type: ignore[no-untyped-def]
    """Sums that lie some numbers apart."""
    for c in range(first, end):
        total = real
        for start in range(0, rows, _ROWS):
            part = real
            for r in range(start, min(start + _ROWS, rows)):
                part += x[r * row + c]
            total += part
        out[c * step] = total


@compiled
def _sums(index, args, real):  # type: ignore[no-untyped-def]
    rows, columns, x, row = args[0], args[1], array(args[2], 1 << 40, real), args[3]
    out, step = array(args[4], 1 << 40, real), args[5]
    first, end = index * _COLUMNS, min(index * _COLUMNS + _COLUMNS, columns)
    if step != 1:
        _apart(x, row, rows, first, end, out, step, real)
        return
    for c in range(first, end, lanes(real)):
        total = splat(real)
        for start in range(0, rows, _ROWS):
            part = splat(real)
            for r in range(start, min(start + _ROWS, rows)):
                part = part + load(x, r * row + c, r * row + end)
            total = total + part
        store(out, c, end, total)


@entry
def _entry(data):  # type: ignore[no-untyped-def]
    """Rows, columns; the matrix and numbers from row to row; the sums and numbers from one to the next."""
    run(_sums, data)


def column_sums_stage(x: Tensor, out: Tensor) -> Stage:
    """What fills `out`, ``(columns,)`` and of any stride, with the sums of ``(rows, columns)``, whose columns lie side
    by side; one piece."""
    rows, columns = x.shape
    return Stage(_entry, -(-columns // _COLUMNS), (rows, columns, At(x), x.stride(0), At(out), out.stride(0)))
