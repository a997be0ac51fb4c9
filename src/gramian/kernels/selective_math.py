"""Functions of vectors around a scan: softplus and SiLU, with their derivatives, and the logistic function."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import overload

from gramian.kernels.native import compiled
from gramian.kernels.vector_power import power_of_e
from gramian.kernels.vectors import Vector, splat_like, where

__all__ = ["logistic", "silu", "silu_and_slope", "softplus", "softplus_and_slope"]


def _log_1p(x: Any) -> Any:
    """``log(1 + x)`` for x in [0, 1], relative to its size."""
    raise NotImplementedError


@overload(_log_1p)
def _log_1p_of_vector(x):  # type: ignore[no-untyped-def]
    if not isinstance(x, Vector):
        return None
    if x.element == types.float64:

        def by_series(x):  # type: ignore[no-untyped-def]
            s = x / (x + 2.0)  # log(1 + x) = 2 artanh(s), s at most 1/3
            q = s * s
            p = q * 0.0 + 1 / 35
            for k in range(17):
                p = p * q + 1 / (33 - 2 * k)
            return p * s * 2.0

        return by_series

    def by_polynomial(x):  # type: ignore[no-untyped-def]
        p = x * 0.005364829191564394 - 0.030065811015251045
        p = p * x + 0.07920456470022641
        p = p * x - 0.13753804683913132
        p = p * x + 0.19153655972398492
        p = p * x - 0.24857163910130803
        p = p * x + 0.33321322644898027
        p = p * x - 0.49999647964474353
        p = p * x + 1.0
        return p * x

    return by_polynomial


@compiled
def softplus_and_slope(x):  # type: ignore[no-untyped-def]
    """``log(1 + exp(x))``, and its derivative; x and 1 above 20, as in torch."""
    small = power_of_e(where(x > 0.0, x * -1.0, x))
    value = where(x > 20.0, x, where(x > 0.0, x, splat_like(x, 0.0)) + _log_1p(small))
    one = splat_like(x, 1.0)
    return value, where(x > 20.0, one, where(x > 0.0, one, small) / (small + 1.0))


@compiled
def softplus(x):  # type: ignore[no-untyped-def]
    """``log(1 + exp(x))``; x above 20, as in torch."""
    small = power_of_e(where(x > 0.0, x * -1.0, x))
    return where(x > 20.0, x, where(x > 0.0, x, splat_like(x, 0.0)) + _log_1p(small))


@compiled
def logistic(x):  # type: ignore[no-untyped-def]
    """``1 / (1 + exp(-x))``."""
    return 1.0 / (power_of_e(x * -1.0) + 1.0)


@compiled
def silu(x):  # type: ignore[no-untyped-def]
    """``x`` times its logistic function."""
    return x / (power_of_e(x * -1.0) + 1.0)


@compiled
def silu_and_slope(x):  # type: ignore[no-untyped-def]
    """``x`` times its logistic function, and the derivative of that."""
    small = power_of_e(x * -1.0)
    gate = 1.0 / (small + 1.0)
    rest = where(x > 0.0, small * gate, 1.0 - gate)  # where the gate is nearly 1, the difference would be rounding
    value = x * gate
    return value, gate + value * rest
