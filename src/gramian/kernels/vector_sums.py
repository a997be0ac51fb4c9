"""Sums over the lanes of as many vectors as one has lanes, together: a third of the work of one after the other."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gramian.kernels.vector_memory import pointer_to
from gramian.kernels.vectors import constant, of

__all__ = ["totals"]


@intrinsic
def totals(context: Any, array: Any, start: Any) -> Any:
    """Lane k is the sum of the lanes of the k-th vector from ``array[start]`` on; always added in the same order."""
    result = of(array.dtype)
    count = result.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(result)
        values = []
        for k in range(count):
            at = builder.add(args[1], ir.Constant(ir.IntType(64), k * count))
            place = pointer_to(context, builder, signature.args[0], args[0], at, kind)
            values.append(builder.load(place, align=array.dtype.bitwidth // 8))
        width = count  # lanes that are left of each vector; a value holds the lanes of `count / width` of them
        while width > 1:
            half = width // 2
            lower = [s * width + k for s in range(2 * (count // width)) for k in range(half)]
            orders = [constant(ir.VectorType(ir.IntType(32), count), [k + o for k in lower]) for o in (0, half)]
            values = [
                builder.fadd(*(builder.shuffle_vector(a, b, order) for order in orders))
                for a, b in zip(values[::2], values[1::2], strict=True)
            ]
            width = half
        return values[0]

    return result(array, types.int64), codegen
