"""Matrix products of a layer's rows, beside what else a kernel does with a sequence that is in the caches.

`torch.mm` goes through all rows of all sequences before anything else can begin. As `gramian.kernels.stages`, products
read and write what the stages beside them have in the caches.
"""

from __future__ import annotations

from torch import Tensor

from gramian.kernels import products_native as native
from gramian.kernels.native import At, launch
from gramian.kernels.stages import Stage

__all__ = ["LEAST", "by_columns", "fits", "in_lines", "product_stage", "transposed_product"]

_LINE = 64  # bytes
LEAST = native.LEAST
"""Steps of a sequence, at least."""


def in_lines(like: Tensor, *shape: int) -> Tensor:
    """An empty tensor of the type of `like`, with some unused numbers behind every row if that takes it to a line of
    the caches."""
    *outer, columns = shape
    numbers = _LINE // like.itemsize
    return like.new_empty(*outer, -(-columns // numbers) * numbers)[..., :columns]


def fits(weight: Tensor) -> bool:
    """Whether rows of a ``(columns out, columns in)`` weight, as they are, are whole lines, and some."""
    return weight.shape[1] > 0 and weight.shape[1] * weight.itemsize % _LINE == 0


def by_columns(weight: Tensor) -> Tensor:
    """The transpose of a ``(columns out, columns in)`` weight, in lines: what a product with its rows wants."""
    return in_lines(weight, *weight.shape[::-1]).copy_(weight.t())


def product_stage(x: Tensor, matrix: Tensor, out: Tensor, offset: Tensor | None = None) -> Stage:
    """What fills `out`, ``(batch, L, columns)``, with ``x @ matrix + offset``, a piece a sequence.

    Rows of all three may lie some numbers apart, one distance for all steps of a tensor; those of `matrix`, `out` and
    `offset` begin at lines, as `in_lines` makes them.
    """
    _, length, steps = x.shape
    width = matrix.shape[1]
    start = in_lines(out, width).zero_() if offset is None else offset
    places = At(x), x.stride(1), At(matrix), matrix.stride(0), At(start), At(out), out.stride(1)
    return Stage(native.products_entry, max(1, length // native.BLOCK), (length, steps, width, *places))


def transposed_product(g: Tensor, x: Tensor) -> Tensor:
    """``g^T x`` for matrices with as many rows, which begin at lines: the gradient of a weight.

    Sums have the same order whatever the threads.
    """
    (steps, rows), width = g.shape, x.shape[1]
    tasks = -(-rows // native.SUMS)
    out = in_lines(x, tasks * native.SUMS, width)
    places = At(g), g.stride(0), At(x), x.stride(0), At(out), out.stride(0)
    launch(native.sums_entry, tasks, x.dtype, steps, rows, width, *places)
    return out[:rows]
