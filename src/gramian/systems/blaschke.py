"""Blaschke factors in compiled code, from logarithms of poles: no digits are lost in clusters and near the circle.

The factor ``b`` of a pole ``l_p``, turned so that ``b(1) = 1``, is
``1 - b(z) = (1 - |l_p|^2) (1 - z) / ((1 - z conj l_p) (1 - l_p))``, where nothing cancels.
"""

from __future__ import annotations

import cmath
import math

from gramian.kernels.native import compiled

__all__ = ["blaschke", "one_minus", "sizes"]

_PI_REST = 1.2246467991473532e-16  # what float64 rounds off pi


@compiled
def _turn(one, two):  # type: ignore[no-untyped-def]
    """Sine and cosine of half the sum of two angles, up to a common sign; exact where the sum is near a whole turn."""
    turns = math.floor((one + two) / (2 * math.pi) + 0.5)
    half = ((one - turns * math.pi) + (two - turns * math.pi) - 2 * turns * _PI_REST) / 2
    return math.sin(half), math.cos(half)


@compiled
def one_minus(less, size, one, two):  # type: ignore[no-untyped-def]
    """``1 - size exp(i (one + two))`` where ``less`` is ``size - 1``."""
    sine, cosine = _turn(one, two)
    return complex(2 * sine * sine * size - less, -2 * sine * cosine * size)


@compiled
def _difference(one, two):  # type: ignore[no-untyped-def]
    """``exp(one) - exp(two)``, exact inside a cluster."""
    apart = one.real - two.real
    if abs(apart) < 1:
        return -cmath.exp(two) * one_minus(math.expm1(apart), math.exp(apart), one.imag, -two.imag)
    return cmath.exp(one) - cmath.exp(two)


@compiled
def blaschke(z, p, products, real):  # type: ignore[no-untyped-def]
    """``b`` of the pole ``exp(p)`` at ``exp(z)``, from its zero; ``products`` is ``1 - exp(z + conj p)``."""
    one_minus_p = one_minus(math.expm1(p.real), math.exp(p.real), p.imag, real)
    return _difference(z, p) * one_minus_p.conjugate() / (products * one_minus_p)


@compiled
def sizes(log):  # type: ignore[no-untyped-def]
    """``|l| - 1``, ``|l|`` and ``1 - |l|^2`` of the pole ``l = exp(log)``."""
    return math.expm1(log.real), math.exp(log.real), -math.expm1(2 * log.real)
