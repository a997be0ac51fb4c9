"""Vectors from memory and back.

Inside a `compiled` function: ``load(a, i, n)`` reads lanes ``i ... i + 15`` of a flat array, zero from n on, and
``store(a, i, n, v)`` writes those below n, so a loop ``for i in range(0, n, lanes(real))`` has no remainder.
`load_whole` and `store_whole` do without the end where there is room for all lanes; `broadcast` fills all of them with
one number, without asking whether its index counts from the end of the array; `prepare` fetches what will be written.
Flat arrays with offsets are much faster than slices, which numba builds anew each time.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gramian.kernels.vectors import constant, declared, of, splatted, suffix

__all__ = [
    "broadcast",
    "call_masked",
    "lanes_below",
    "load",
    "load_whole",
    "pointer_to",
    "prepare",
    "store",
    "store_whole",
]


def lanes_below(builder: Any, count: int, start: Any, end: Any) -> Any:
    """The mask of lanes k with ``start + k < end``."""
    wide = ir.VectorType(ir.IntType(32), count)
    left = builder.sub(end, start)
    most = ir.Constant(left.type, count)
    left = builder.trunc(builder.select(builder.icmp_signed("<", left, most), left, most), ir.IntType(32))
    return builder.icmp_signed("<", constant(wide, range(count)), splatted(builder, wide, left))


def pointer_to(context: Any, builder: Any, array_type: Any, value: Any, index: Any, kind: ir.VectorType) -> Any:
    """Pointer to the vector that starts at this index of an array."""
    array = context.make_array(array_type)(context, builder, value)
    return builder.bitcast(builder.gep(array.data, [index]), kind.as_pointer())


def call_masked(builder: Any, kind: ir.VectorType, name: str, args: list[Any], returns: Any) -> Any:
    """Call LLVM's masked load or store."""
    function = ir.FunctionType(returns, [a.type for a in args])
    return builder.call(declared(builder, f"llvm.masked.{name}.{suffix(kind)}.p0", function), args)


@intrinsic
def load(context: Any, array: Any, start: Any, end: Any) -> Any:
    """Lanes ``array[start], array[start + 1], ...`` of a flat contiguous array, zero from `end` on."""
    result = of(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(result)
        place = pointer_to(context, builder, signature.args[0], args[0], args[1], kind)
        align = ir.Constant(ir.IntType(32), array.dtype.bitwidth // 8)
        mask = lanes_below(builder, result.count, args[1], args[2])
        return call_masked(builder, kind, "load", [place, align, mask, ir.Constant(kind, None)], kind)

    return result(array, types.int64, types.int64), codegen


@intrinsic
def store(context: Any, array: Any, start: Any, end: Any, vector: Any) -> Any:
    """Write lanes to ``array[start], array[start + 1], ...``, but not from `end` on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        place = pointer_to(context, builder, signature.args[0], args[0], args[1], kind)
        align = ir.Constant(ir.IntType(32), array.dtype.bitwidth // 8)
        mask = lanes_below(builder, vector.count, args[1], args[2])
        call_masked(builder, kind, "store", [args[3], place, align, mask], ir.VoidType())
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64, vector), codegen


@intrinsic
def load_whole(context: Any, array: Any, start: Any) -> Any:
    """All lanes from ``array[start]`` on."""
    result = of(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer_to(context, builder, signature.args[0], args[0], args[1], context.get_value_type(result))
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return result(array, types.int64), codegen


@intrinsic
def store_whole(context: Any, array: Any, start: Any, vector: Any) -> Any:
    """Write all lanes to ``array[start]`` and on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = pointer_to(context, builder, signature.args[0], args[0], args[1], context.get_value_type(vector))
        builder.store(args[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), codegen


@intrinsic
def broadcast(context: Any, array: Any, index: Any) -> Any:
    """``array[index]`` in every lane."""
    result = of(array.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        number = builder.load(builder.gep(data, [args[1]]), align=array.dtype.bitwidth // 8)
        return splatted(builder, context.get_value_type(result), number)

    return result(array, types.int64), codegen


@intrinsic
def prepare(context: Any, array: Any, index: Any) -> Any:
    """Fetch the cache line of ``array[index]``, which is going to be written in a few hundred cycles."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        place = builder.bitcast(builder.gep(data, [args[1]]), byte)
        hints = [ir.Constant(number, hint) for hint in (1, 3, 1)]  # write, into the first cache, data
        builder.call(declared(builder, "llvm.prefetch.p0", function), [place, *hints])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen
