"""Blocks of numbers transposed in registers: between one sequence after the other, and one sequence a lane."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gramian.kernels.vector_memory import call_masked, lanes_below, pointer_to
from gramian.kernels.vectors import constant, of, splatted

__all__ = ["transpose"]


@intrinsic
def transpose(
    context: Any,
    source: Any,
    from_: Any,
    from_stride: Any,
    rows: Any,
    columns: Any,
    target: Any,
    to: Any,
    to_stride: Any,
    width: Any,
) -> Any:
    """Transpose a block of at most ``lanes x lanes`` numbers of the flat array `source` into the flat array `target`.

    Row r starts at ``source[from_ + r from_stride]``; row k of the result, at ``target[to + k to_stride]``, gets the
    first `width` lanes. Rows and columns that the block does not have are read as zero, and never touched in memory.
    """
    kind = of(source.dtype)
    count = kind.count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source, start, stride, rows, columns, target, to, to_stride, width = args
        vector = context.get_value_type(kind)
        integer = ir.IntType(64)
        zero, align = ir.Constant(integer, 0), ir.Constant(ir.IntType(32), kind.element.bitwidth // 8)
        wanted, written = lanes_below(builder, count, zero, columns), lanes_below(builder, count, zero, width)

        def masked(mask: Any, k: int, limit: Any) -> Any:
            exists = builder.icmp_signed("<", ir.Constant(integer, k), limit)
            return builder.and_(mask, splatted(builder, mask.type, exists))

        block = []
        for r in range(count):
            where = builder.add(start, builder.mul(stride, ir.Constant(integer, r)))
            pointer = pointer_to(context, builder, signature.args[0], source, where, vector)
            arguments = [pointer, align, masked(wanted, r, rows), ir.Constant(vector, None)]
            block.append(call_masked(builder, vector, "load", arguments, vector))
        for k, row in enumerate(_transposed(builder, block)):
            where = builder.add(to, builder.mul(to_stride, ir.Constant(integer, k)))
            pointer = pointer_to(context, builder, signature.args[5], target, where, vector)
            call_masked(builder, vector, "store", [row, pointer, align, masked(written, k, columns)], ir.VoidType())
        return context.get_dummy_value()

    numbers = (types.int64,) * 4
    return types.void(source, *numbers, target, types.int64, types.int64, types.int64), codegen


def _transposed(builder: Any, block: list[Any]) -> list[Any]:
    """The butterfly: at stage s, halves of size s are exchanged between rows i and i + s."""
    count, stage = len(block), 1
    order = ir.VectorType(ir.IntType(32), count)
    while stage < count:
        low = constant(order, [k if not k & stage else count + (k ^ stage) for k in range(count)])
        high = constant(order, [k ^ stage if not k & stage else count + k for k in range(count)])
        for i in range(count):
            if not i & stage:
                a, b = block[i], block[i | stage]
                block[i], block[i | stage] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        stage *= 2
    return block
