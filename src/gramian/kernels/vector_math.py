"""Functions of vectors: exponential, logistic function, error function, and a hash of counters.

float32 by polynomials, to a few units in the last place (``tests/kernels/test_vector_math.py`` measures them against
double precision); float64 lane by lane through the C library, for checks of gradients rather than for speed.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from gramian.kernels.native import compiled
from gramian.kernels.vectors import Vector, as_reals, nearest, splat_like, to_integers, where

__all__ = ["erf", "exp", "keep", "keys", "logistic", "normal_density"]


@intrinsic
def _lane(context: Any, vector: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], ir.IntType(32)))

    return vector.element(vector, types.int64), codegen


@intrinsic
def _with_lane(context: Any, vector: Any, index: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_element(args[0], args[2], builder.trunc(args[1], ir.IntType(32)))

    return vector(vector, types.int64, vector.element), codegen


def exp(x: Any) -> Any:
    """``e**x`` of a vector."""
    raise NotImplementedError


@overload(exp)
def _exp(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    if x.element == types.float64:

        def by_lanes(x):  # type: ignore[no-untyped-def]
            for k in range(8):
                x = _with_lane(x, k, math.exp(_lane(x, k)))
            return x

        return by_lanes

    def by_polynomial(x):  # type: ignore[no-untyped-def]
        # 2**n e**r with r = x - n log 2, |r| <= log(2) / 2; log 2 in two parts, so that r is exact.
        x = where(x > 88.0, splat_like(x, 88.0), where(x < -87.0, splat_like(x, -87.0), x))
        n = nearest(x * 1.44269504)
        r = x - n * 0.693359375 + n * 2.12194440e-4
        p = r * (1 / 5040) + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        return p * as_reals((to_integers(n) + 127) << 23)

    return by_polynomial


def erf(x: Any) -> Any:
    """The error function of a vector."""
    raise NotImplementedError


@overload(erf)
def _erf(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    if x.element == types.float64:

        def by_lanes(x):  # type: ignore[no-untyped-def]
            for k in range(8):
                x = _with_lane(x, k, math.erf(_lane(x, k)))
            return x

        return by_lanes

    def by_fraction(x):  # type: ignore[no-untyped-def]
        # x P(x^2) / Q(x^2), fitted to erf on [-3.95, 3.95] by reweighted least squares (relative error 2e-8 before
        # rounding); beyond, erf is 1 in float32.
        x = where(x > 3.95, splat_like(x, 3.95), where(x < -3.95, splat_like(x, -3.95), x))
        s = x * x
        p = s * 2.025912408498698e-06 + 2.846877323463559e-04
        p = p * s + 3.8081526290625334e-03
        p = p * s + 5.2875418215990067e-02
        p = p * s + 1.9155007600784302e-01
        p = p * s + 1.1283791065216064
        q = s * 3.783184729400091e-05 + 1.170723931863904e-03
        q = q * s + 1.505507156252861e-02
        q = q * s + 1.1455953121185303e-01
        q = q * s + 5.030894875526428e-01
        q = q * s + 1.0
        return x * p / q

    return by_fraction


@compiled
def logistic(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + exp(-x))``."""
    return 1.0 / (exp(x * -1.0) + 1.0)


@compiled
def normal_density(x):  # type: ignore[no-untyped-def]
    """Density of the standard normal distribution."""
    return exp(x * x * -0.5) * 0.3989422804014327


@compiled
def _scrambled(h):  # type: ignore[no-untyped-def]
    """The finaliser of MurmurHash3 on 32 bits (A. Appleby, public domain), in lanes of 32 or 64 bits."""
    low = 0xFFFFFFFF
    h = (h ^ (h >> 16)) * 0x85EBCA6B & low
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & low
    return h ^ (h >> 16)


@compiled
def keys(seed):  # type: ignore[no-untyped-def]
    """Two keys of 32 bits, the second one made of the whole seed."""
    first = _scrambled(seed & 0xFFFFFFFF)
    return first, _scrambled(((seed >> 32) & 0xFFFFFFFF) ^ first ^ 0x9E3779B9)


@compiled
def keep(counters, first, key, other, threshold):  # type: ignore[no-untyped-def]
    """The mask of counters ``first + counters`` whose hash, a fraction of 2**24, is not below `threshold`.

    A counter's hash depends on itself and the two `keys` of the seed alone: a round of scrambling after each.
    `gramian.kernels.pointwise.kept` is the same in plain torch.
    """
    low = 0xFFFFFFFF
    h = _scrambled(counters + ((first + key) & low) & low)
    h = _scrambled(h ^ ((other ^ (first >> 32)) & low))
    return (h >> 8) >= threshold
