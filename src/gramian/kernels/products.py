"""Matrix products of a layer's rows, beside what else a kernel does with a sequence that is in the caches.

`torch.mm` goes through all rows of all sequences before anything else can begin. As `gramian.kernels.stages`, products
read and write what the stages beside them have in the caches.
"""

from __future__ import annotations

from torch import Tensor

from gramian.kernels import products_native as native
from gramian.kernels.memory import lines
from gramian.kernels.native import At
from gramian.kernels.stages import Stage

__all__ = ["LEAST", "fits", "product_stage", "sums_room", "sums_stage", "transposed_stage"]

LEAST = native.LEAST
"""Steps of a sequence, at least."""


def fits(weight: Tensor) -> bool:
    """Whether rows of a ``(columns out, columns in)`` weight, as they are, are whole lines, and some."""
    width = weight.shape[1]
    return width > 0 and lines(width, weight.itemsize) == width


def transposed_stage(weight: Tensor, out: Tensor) -> Stage:
    """What fills `out`, ``(columns in, columns out)`` and `in_lines`, with the transpose of a contiguous ``(columns out,
    columns in)`` weight: what a product with its rows wants. One piece."""
    rows, columns = weight.shape
    tasks = -(-rows // native.TURNED)
    return Stage(native.transposed_entry, tasks, (rows, columns, weight, At(out), out.stride(0)))


def product_stage(
    x: Tensor, matrix: Tensor, out: Tensor, *, offset: Tensor | None = None, start: Tensor | None = None
) -> Stage:
    """What fills `out`, ``(batch, L, columns)``, with ``x @ matrix``, a piece a sequence; plus an `offset` for each
    column, or a `start` for everything.

    Rows of all but the offset may lie some numbers apart, one distance for all steps of a tensor; those of `matrix`,
    `out`, `offset` and `start` begin at lines, as `in_lines` makes them.
    """
    _, length, steps = x.shape
    width = matrix.shape[1]
    if start is None:
        start, row = out.new_zeros(lines(width, out.itemsize)) if offset is None else offset, 0
    else:
        assert offset is None
        row = start.stride(1)
    places = At(x), x.stride(1), At(matrix), matrix.stride(0), At(start), row, At(out), out.stride(1)
    return Stage(native.products_entry, max(1, length // native.BLOCK), (length, steps, width, *places))


def sums_room(rows: int, width: int) -> tuple[int, int]:
    """What `sums_stage` wants to fill: some rows more."""
    return -(-rows // native.SUMS) * native.SUMS, width


def sums_stage(g: Tensor, x: Tensor, out: Tensor) -> Stage:
    """What fills the first rows of `out` with ``g^T x`` for matrices with as many rows, which begin at lines: the
    gradient of a weight. One piece. Sums have the same order whatever the threads."""
    (steps, rows), width = g.shape, x.shape[1]
    places = At(g), g.stride(0), At(x), x.stride(0), At(out), out.stride(0)
    return Stage(native.sums_entry, len(out) // native.SUMS, (steps, rows, width, *places))
