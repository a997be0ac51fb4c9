"""Matrix products of a layer's rows, beside what else a kernel does with a sequence that is in the caches.

`torch.mm` goes through all rows of all sequences before anything else can begin. As `gramian.kernels.stages`, products
read and write what the stages beside them have in the caches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels import products_native as native
from gramian.kernels.memory import lines
from gramian.kernels.native import At
from gramian.kernels.stages import Stage

__all__ = ["FEW", "LEAST", "MANY", "ROWS", "fits", "product_stage", "sums_stage", "transposed_stage"]

ROWS = native.ROWS
"""Of a tile."""
LEAST = ROWS
"""Steps of a sequence, at least."""
FEW, MANY = 256, 64
"""Rows of a product's tasks, if these are to be few, and if many."""
_EACH = 2  # tasks a thread, for sums: all of them read x once


def fits(width: int, itemsize: int) -> bool:
    """Whether rows of so many numbers are whole lines, and some."""
    return width > 0 and lines(width, itemsize) == width


def transposed_stage(weight: Tensor, out: Tensor) -> Stage:
    """What fills `out`, ``(columns in, columns out)`` and `in_lines`, with the transpose of a contiguous
    ``(columns out, columns in)`` weight: what a product with its rows wants. One piece. Behind it there are zeros."""
    rows, columns = weight.shape
    tasks = -(-rows // native.TURNED)
    return Stage(native.transposed_entry, tasks, (rows, columns, weight, At(out), out.stride(0)))


def product_stage(
    x: Tensor,
    matrix: Tensor,
    out: Tensor,
    *,
    offset: Tensor | None = None,
    start: Tensor | None = None,
    block: int = MANY,
) -> Stage:
    """What fills `out`, ``(batch, L, columns)``, with ``x @ matrix``, a piece a sequence; plus an `offset` for each
    column, or a `start` for everything.

    Rows of all but the offset may lie some numbers apart, one distance for all steps of a tensor; those of `matrix`,
    `out`, `offset` and `start` begin at lines, as `in_lines` makes them. A task is `block` rows: columns of the matrix
    stay in the first cache for as many, and threads share the tasks of a sequence if there are `MANY`.
    """
    _, length, steps = x.shape
    width = matrix.shape[1]
    if start is None:
        start, row = out.new_zeros(lines(width, out.itemsize)) if offset is None else offset, 0
    else:
        assert offset is None
        row = start.stride(1)
    places = At(x), x.stride(1), At(matrix), matrix.stride(0), At(start), row, At(out), out.stride(1)
    return Stage(native.products_entry, max(1, length // block), (length, steps, width, *places, block))


def sums_stage(g: Tensor, x: Tensor, out: Tensor, spare: Tensor) -> Stage:
    """What fills `out`, contiguous, with ``g^T x`` for matrices with as many rows, which begin at lines: the gradient
    of a weight. One piece. `spare` has `ROWS` such rows. Sums have the same order whatever the threads."""
    (steps, rows), width = g.shape, x.shape[1]
    tasks = max(1, min(_EACH * torch.get_num_threads(), rows // MANY))
    places = At(g), g.stride(0), At(x), x.stride(0), out, spare
    return Stage(native.sums_entry, tasks, (steps, rows, width, *places, tasks))
