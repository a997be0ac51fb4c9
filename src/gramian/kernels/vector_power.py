"""Powers of two, the bottleneck of a selective scan: one for every state and step.

``2**x = t + t f q(f)``, where ``t = 2**(x - f)`` is made of bits. Adding a large number rounds x to a grid, and leaves
the grid point's number in the lowest bits. On the grid f = 0 the result is exact, so that states which hardly decay do
so at the right rate. Numbers of grid points are limited as integers, in units of the processor that floating-point
arithmetic leaves idle; NaN stays NaN.

A grid of whole numbers needs a polynomial of degree 5. With AVX-512 one instruction looks 16 numbers up in a register,
and a grid of sixteenths needs degree 2. `power_of_e` uses the same table, for what surrounds a scan.
"""

from __future__ import annotations

import struct
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from gramian.kernels.vector_math import exp
from gramian.kernels.vectors import (
    Vector,
    as_integers,
    as_reals,
    constant,
    declared,
    splat_like,
    where,
)

__all__ = ["power_of_e", "power_of_two"]

_GRID = 16


def _mantissas() -> list[int]:
    """Bits of ``2**(k / 16)``, less k in the place that the number of a grid point gets."""
    words = (struct.unpack("I", struct.pack("f", 2.0 ** (k / _GRID)))[0] for k in range(_GRID))
    return [(word - (k << 19)) % 2**32 for k, word in enumerate(words)]


def _looks_up() -> bool:
    """Whether the processor that numba compiles for has AVX-512."""
    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[2]


@intrinsic
def _mantissa(context: Any, number: Any) -> Any:
    """The table's entry for the lowest four bits of every lane, as integers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = context.get_value_type(number)
        permute = declared(builder, "llvm.x86.avx512.permvar.si.512", ir.FunctionType(kind, [kind, kind]))
        return builder.call(permute, [constant(kind, _mantissas()), args[0]])

    return number(number), codegen


def power_of_two(x: Any) -> Any:
    """``2**x`` of a vector, to two units in the last place.

    Below the range of exponents it is about the smallest number, above it infinity or NaN.
    """
    raise NotImplementedError


@overload(power_of_two)
def _power_of_two(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    if x.element == types.float64:
        return _double
    return _single_by_table if _looks_up() else _single


def _double(x):  # type: ignore[no-untyped-def]
    shifted = x + 6755399441055744.0  # 1.5 * 2**52
    f = x - (shifted - 6755399441055744.0)
    q = f * 4.4549605981865186e-10 + 7.072585949269223e-09
    q = q * f + 1.0178062445845774e-07
    q = q * f + 1.321544258792169e-06
    q = q * f + 1.525273382983612e-05
    q = q * f + 0.0001540353044173605
    q = q * f + 0.0013333558146416936
    q = q * f + 0.009618129107606888
    q = q * f + 0.0555041086648216
    q = q * f + 0.24022650695910097
    q = q * f + 0.6931471805599453
    n = as_integers(shifted)
    n = where(n < 4843621399236967427, splat_like(n, 4843621399236967427), n)  # -1021
    n = where(n > 4843621399236969472, splat_like(n, 4843621399236969472), n)  # 1024
    t = as_reals((n + 1023) << 52)
    return t + t * f * q


def _single(x):  # type: ignore[no-untyped-def]
    shifted = x + 12582912.0  # 1.5 * 2**23
    f = x - (shifted - 12582912.0)
    q = f * 0.0001545316294512069 + 0.0013390863364671234
    q = q * f + 0.009618082557277852
    q = q * f + 0.05550357114219078
    q = q * f + 0.24022650760568126
    q = q * f + 0.6931471880262288
    n = as_integers(shifted)
    n = where(n < 1262485379, splat_like(n, 1262485379), n)  # -125
    n = where(n > 1262485632, splat_like(n, 1262485632), n)  # 128
    t = as_reals((n + 127) << 23)
    return t + t * f * q


def _single_by_table(x):  # type: ignore[no-untyped-def]
    shifted = x + 786432.0  # 1.5 * 2**19, where neighbours are sixteenths apart
    f = x - (shifted - 786432.0)
    q = f * 0.05550508525196963 + 0.2402335515698872
    q = q * f + 0.6931471805599453
    n = as_integers(shifted)
    n = where(n < 1228929072, splat_like(n, 1228929072), n)  # -125
    n = where(n > 1228933120, splat_like(n, 1228933120), n)  # 128
    t = as_reals(_mantissa(n) + (n << 19))
    return t + t * f * q


def power_of_e(x: Any) -> Any:
    """``e**x`` of a vector, to two units in the last place or the smallest normal number, whichever is more.

    In float32, x is limited to [-87, 88].
    """
    raise NotImplementedError


@overload(power_of_e)
def _power_of_e(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    return _exp_by_table if x.element == types.float32 and _looks_up() else _exp_elsewhere


def _exp_elsewhere(x):  # type: ignore[no-untyped-def]
    return exp(x)


def _exp_by_table(x):  # type: ignore[no-untyped-def]
    x = where(x > 88.0, splat_like(x, 88.0), where(x < -87.0, splat_like(x, -87.0), x))  # NaN stays NaN
    shifted = x * 1.44269504 + 786432.0
    n = shifted - 786432.0
    r = x - n * 0.693359375 + n * 2.12194440e-4  # log 2 in two parts, so that r is exact
    p = r * (1 / 6) + 0.5
    p = p * r + 1.0
    p = p * r + 1.0
    bits = as_integers(shifted)
    return p * as_reals(_mantissa(bits) + (bits << 19))
