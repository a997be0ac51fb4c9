"""SIMD vectors in numba: 512 bits of float32, float64 or integers of the same width, with the usual operators.

Loops over numbers are left to LLVM's vectoriser, which gives up on interleaved complex numbers, on many arrays that
might overlap, and on reductions; loops over vectors are as fast as they look. On processors with shorter registers
LLVM splits the vectors.

Vectors mix with numbers of their own type; comparisons make masks for `where`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

__all__ = [
    "Vector",
    "as_integers",
    "as_reals",
    "duplicate_even",
    "duplicate_odd",
    "indices",
    "lanes",
    "nearest",
    "splat",
    "splat_like",
    "swap_pairs",
    "to_integers",
    "to_reals",
    "total",
    "where",
]

_BITS = 512
_FLAGS = ("contract", "nsz", "arcp")


class Vector(types.Type):
    """A vector of numba numbers (or of booleans: a mask)."""

    def __init__(self, element: Any, count: int) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"Vector({element}, {count})")

    @property
    def key(self) -> Any:
        return self.element, self.count

    @property
    def mask(self) -> Vector:
        """The type of a comparison."""
        return Vector(types.boolean, self.count)

    @property
    def is_real(self) -> bool:
        return isinstance(self.element, types.Float)

    @property
    def integers(self) -> Vector:
        """The vector of integers with the same bits."""
        return Vector(types.int32 if self.element in (types.float32, types.int32) else types.int64, self.count)

    @property
    def reals(self) -> Vector:
        """The vector of reals with the same bits."""
        return Vector(types.float32 if self.element in (types.float32, types.int32) else types.float64, self.count)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = ir.IntType(1) if kind.element == types.boolean else manager.lookup(kind.element).get_value_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def of(real: Any) -> Vector:
    """The type of full vectors of these numbers."""
    return Vector(real, _BITS // real.bitwidth)


def constant(kind: ir.VectorType, values: Any) -> ir.Constant:
    """A constant vector."""
    return ir.Constant(kind, [ir.Constant(kind.element, v) for v in values])


@intrinsic
def lanes(context: Any, real: Any) -> Any:
    """How many numbers of this type a vector holds."""
    count = of(real).count

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), count)

    return types.int64(real), codegen


def splatted(builder: Any, kind: ir.VectorType, value: Any) -> Any:
    """The vector of one value."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), None)
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), zeros)


@intrinsic
def splat(context: Any, number: Any) -> Any:
    """A vector of one number."""
    result = of(number)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return splatted(builder, context.get_value_type(result), args[0])

    return result(number), codegen


@intrinsic
def indices(context: Any, like: Any) -> Any:
    """The integers 0, 1, 2, ... as wide as the numbers of the vector `like`."""
    result = like.integers

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return constant(context.get_value_type(result), range(result.count))

    return result(like), codegen


def declared(builder: Any, name: str, kind: ir.FunctionType) -> Any:
    """A function of LLVM's, declared once a module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def suffix(kind: ir.VectorType) -> str:
    letter = {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(kind.element)) or f"i{kind.element.width}"
    return f"v{kind.count}{letter}"


def _elementwise(real: str | None, integer: str | None) -> Callable[..., Any]:
    """The intrinsic of an operator on two vectors: names of the builder's methods for reals and integers."""

    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        name = real if a.is_real else integer
        if name is None or a != b:
            return None

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(*args, flags=_FLAGS) if a.is_real else getattr(builder, name)(*args)

        return a(a, b), codegen

    return operation


def _comparison(sign: str) -> Callable[..., Any]:
    @intrinsic
    def operation(context: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return (builder.fcmp_ordered if a.is_real else builder.icmp_signed)(sign, *args)

        return a.mask(a, b), codegen

    return operation


@intrinsic
def splat_like(context: Any, vector: Any, number: Any) -> Any:
    """A number as a vector of the kind of `vector`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[1], number, vector.element)
        return splatted(builder, context.get_value_type(vector), value)

    return vector(vector, number), codegen


def _define(function: Any, operation: Callable[..., Any]) -> None:
    """Let `operation` carry out ``function(a, b)`` where one of them is a vector, or both are."""

    @overload(function)
    def carry_out(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: operation(a, b)
        if isinstance(a, Vector) and isinstance(b, types.Number):
            return lambda a, b: operation(a, splat_like(a, b))
        if isinstance(b, Vector) and isinstance(a, types.Number):
            return lambda a, b: operation(splat_like(b, a), b)
        return None


for _function, _real, _integer in (
    (operator.add, "fadd", "add"),
    (operator.sub, "fsub", "sub"),
    (operator.mul, "fmul", "mul"),
    (operator.truediv, "fdiv", None),
    (operator.and_, None, "and_"),
    (operator.xor, None, "xor"),
    (operator.or_, None, "or_"),
    (operator.lshift, None, "shl"),
    (operator.rshift, None, "lshr"),
):
    _define(_function, _elementwise(_real, _integer))
for _function, _sign in ((operator.lt, "<"), (operator.ge, ">="), (operator.gt, ">")):
    _define(_function, _comparison(_sign))


@intrinsic
def where(context: Any, mask: Any, yes: Any, no: Any) -> Any:
    """Lane by lane `yes` where the mask is set, else `no`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return yes(mask, yes, no), codegen


def _cast(target: str, name: str) -> Callable[..., Any]:
    @intrinsic
    def operation(context: Any, vector: Any) -> Any:
        result = getattr(vector, target)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, name)(args[0], context.get_value_type(result))

        return result(vector), codegen

    return operation


as_integers, as_reals = _cast("integers", "bitcast"), _cast("reals", "bitcast")  # the same bits
to_integers, to_reals = _cast("integers", "fptosi"), _cast("reals", "sitofp")  # the same values


@intrinsic
def nearest(context: Any, vector: Any) -> Any:
    """Every lane rounded to the nearest whole number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(vector)
        return builder.call(declared(builder, f"llvm.rint.{suffix(kind)}", ir.FunctionType(kind, [kind])), args)

    return vector(vector), codegen


def _shuffle(order: Callable[[int], int]) -> Callable[..., Any]:
    @intrinsic
    def operation(context: Any, vector: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            wanted = constant(ir.VectorType(ir.IntType(32), vector.count), map(order, range(vector.count)))
            return builder.shuffle_vector(args[0], args[0], wanted)

        return vector(vector), codegen

    return operation


swap_pairs = _shuffle(lambda k: k ^ 1)  # a complex number (re, im) becomes (im, re)
duplicate_even = _shuffle(lambda k: k & ~1)  # (re, re)
duplicate_odd = _shuffle(lambda k: k | 1)  # (im, im)


@intrinsic
def total(context: Any, vector: Any) -> Any:
    """The sum of all lanes, halves first: always in the same order."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, width = args[0], vector.count
        while width > 1:
            width //= 2
            kind = ir.VectorType(ir.IntType(32), width)
            low, high = (constant(kind, range(s, s + width)) for s in (0, width))
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return vector.element(vector), codegen
