"""Small matrix products in the first caches, for kernels that compute on blocks of time.

``multiply_add`` adds the product of a matrix of numbers, whose rows and columns may have any stride, and a matrix with
vectors for rows, to another one with vectors for rows. Eight rows at a time: sums stay in registers, 16 of them, while
the loop runs over what is summed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gramian.kernels.native import compiled
from gramian.kernels.vectors import lanes, of, splatted

__all__ = ["ROWS", "multiply_add", "multiply_from", "stand_alone"]

ROWS = 8
"""Rows that are computed together: blocks must have room for a multiple of it."""

_FLAGS = ("contract", "nsz")


@intrinsic
def stand_alone(context: Any) -> Any:
    """Said anywhere in a compiled function: do not copy it to where it is called. It would not get faster, and machine
    code takes long to make."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), codegen


def _emit(context: Any, builder: Any, signature: Any, args: Any, rows: int, vectors: int) -> None:
    """The code of a tile: sums in registers, from `first` to `out`."""
    _, o, o_row, _, f, f_row, _, i, a_row, a_step, _, j, x_row, steps = args
    kind = of(signature.args[0].dtype)
    vector, align = context.get_value_type(kind), kind.element.bitwidth // 8
    arrays = (context.make_array(signature.args[k])(context, builder, args[k]).data for k in (0, 3, 6, 10))
    out, first, a, x = arrays

    def at(base: Any, start: Any, index: Any, stride: Any, v: int = 0) -> Any:
        place = builder.add(builder.add(start, builder.mul(index, stride)), start.type(v * kind.count))
        return builder.gep(base, [place])

    def vectors_at(base: Any, start: Any, index: Any, stride: Any) -> list[Any]:
        places = (at(base, start, index, stride, v) for v in range(vectors))
        return [builder.bitcast(place, vector.as_pointer()) for place in places]

    places, starts = (
        [vectors_at(base, start, o.type(r), stride) for r in range(rows)]
        for base, start, stride in ((out, o, o_row), (first, f, f_row))
    )
    sums = [[cgutils.alloca_once_value(builder, builder.load(p, align=align)) for p in row] for row in starts]
    with cgutils.for_range(builder, steps) as loop:
        row = [builder.load(p, align=align) for p in vectors_at(x, j, loop.index, x_row)]
        start = builder.add(i, builder.mul(loop.index, a_step))
        for r in range(rows):
            factor = splatted(builder, vector, builder.load(at(a, start, o.type(r), a_row)))
            for v in range(vectors):
                product = builder.fmul(factor, row[v], flags=_FLAGS)
                builder.store(builder.fadd(builder.load(sums[r][v]), product, flags=_FLAGS), sums[r][v])
    for r in range(rows):
        for v in range(vectors):
            builder.store(builder.load(sums[r][v]), places[r][v], align=align)


def _tile(rows: int, vectors: int) -> Callable[..., Any]:
    """The intrinsic of ``out[o + r o_row ...] = first[f + r f_row ...] + sum_k a[i + r a_row + k a_step] x[j + k x_row
    ...]``."""

    @intrinsic
    def tile(
        context: Any,
        out: Any,
        o: Any,
        o_row: Any,
        first: Any,
        f: Any,
        f_row: Any,
        a: Any,
        i: Any,
        a_row: Any,
        a_step: Any,
        x: Any,
        j: Any,
        x_row: Any,
        steps: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _emit(context, builder, signature, args, rows, vectors)
            return context.get_dummy_value()

        n = types.int64
        return types.void(out, n, n, first, n, n, a, n, n, n, x, n, n, n), codegen

    return tile


_four_by_four, _eight_by_two, _eight_by_one = _tile(4, 4), _tile(8, 2), _tile(8, 1)


@compiled
def multiply_from(first, f, f_row, out, o, o_row, a, i, a_row, a_step, x, j, x_row, steps, width, real):  # type: ignore[no-untyped-def]
    """Eight rows of ``out = first + a x``: `width` numbers wide, summed over `steps`.

    Row r of the result is ``out[o + r o_row ...]``, it begins as ``first[f + r f_row ...]``, its coefficients are
    ``a[i + r a_row + k a_step]``, and what they multiply is ``x[j + k x_row ...]``. Rows are read and written in whole
    vectors.
    """
    W, v = lanes(real), 0
    while v + 3 * W < width:
        _four_by_four(out, o + v, o_row, first, f + v, f_row, a, i, a_row, a_step, x, j + v, x_row, steps)
        o_next, f_next, i_next = o + 4 * o_row + v, f + 4 * f_row + v, i + 4 * a_row
        _four_by_four(out, o_next, o_row, first, f_next, f_row, a, i_next, a_row, a_step, x, j + v, x_row, steps)
        v += 4 * W
    if v + W < width:
        _eight_by_two(out, o + v, o_row, first, f + v, f_row, a, i, a_row, a_step, x, j + v, x_row, steps)
        v += 2 * W
    if v < width:
        _eight_by_one(out, o + v, o_row, first, f + v, f_row, a, i, a_row, a_step, x, j + v, x_row, steps)


@compiled
def multiply_add(out, o, o_row, a, i, a_row, a_step, x, j, x_row, steps, width, real):  # type: ignore[no-untyped-def]
    """Eight rows of ``out += a x``, as `multiply_from`."""
    multiply_from(out, o, o_row, out, o, o_row, a, i, a_row, a_step, x, j, x_row, steps, width, real)
