"""Differences that plain floating point would round away, near the unit circle and inside clusters of poles."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_of_poles", "one_minus_products", "pole_differences"]

_SMALLEST_LOG = -746.0  # exp() of it is 0 in float64
_PI_REST = 1.2246467991473532e-16  # what float64 rounds off pi
_SPLITTER = 134217729.0  # 2**27 + 1: Dekker's constant, cuts a double into two halves of 26 bits


def log_of_poles(poles: Tensor) -> Tensor:
    """``log(poles)``, complex128, with ``log|pole|`` correct to a few ulp *relative* even at ``|pole| = 1 - 1e-15``.

    ``log|z| = log1p(x^2 + y^2 - 1) / 2``, where the squares are split exactly (Dekker) before 1 is taken away.
    A pole at zero gets a finite logarithm whose exponential is zero.
    """
    z = poles.to(torch.complex128)
    x, y = z.real.abs(), z.imag.abs()
    big, small = torch.maximum(x, y), torch.minimum(x, y)
    (hi_big, lo_big), (hi_small, lo_small) = _exact_square(big), _exact_square(small)
    short = hi_big - 1
    lost = hi_big - (short + 1)  # not zero where hi_big is just below 1/2: a pole next to the diagonal
    excess = (short + hi_small) + ((lo_big + lo_small) + lost)
    near_circle = excess.abs() < 0.5
    modulus = torch.where(near_circle, torch.log1p(excess.clamp(min=-0.5)) / 2, torch.hypot(x, y).log())
    return torch.complex(modulus.clamp(min=_SMALLEST_LOG), z.angle())


def _exact_square(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two doubles whose sum is exactly ``x * x``."""
    high = x * _SPLITTER - (x * _SPLITTER - x)
    low = x - high
    square = x * x
    return square, ((high * high - square) + 2 * high * low) + low * low


def _expm1_of_sum(left: Tensor, right: Tensor) -> Tensor:
    """``exp(left + right) - 1`` where the sum has a non-positive or small real part, without cancellation."""
    growth, angle = left.real + right.real, _reduced_angle(left.imag, right.imag)
    cosine_minus_one = -2 * torch.sin(angle / 2) ** 2
    return torch.complex(
        torch.expm1(growth) * torch.cos(angle) + cosine_minus_one, torch.exp(growth) * torch.sin(angle)
    )


def one_minus_products(left: Tensor, right: Tensor) -> Tensor:
    """``1 - exp(left + right)``, complex128: from logarithms, so that it is exact where the product is near 1.

    Real parts must not be positive: then nothing cancels in ``expm1(a + b) = expm1(a) + exp(a) expm1(b)``, and the
    exponentials, which broadcasting has not multiplied yet, are few.
    """
    size, less = left.real.exp(), torch.expm1(left.real)
    size, less = size * right.real.exp(), less + size * torch.expm1(right.real)
    half = _reduced_angle(left.imag, right.imag) / 2
    sine = half.sin()
    scaled = 2 * size * sine
    return torch.complex(scaled * sine - less, -scaled * half.cos())


def _reduced_angle(left: Tensor, right: Tensor) -> Tensor:
    """``left + right`` without whole turns, half a turn taken from each before they are added.

    Two angles near pi (poles near -1) have a sum near 2 pi, which has no digits left for the difference.
    """
    turns = torch.round((left + right) / (2 * torch.pi))
    return (left - turns * torch.pi) + (right - turns * torch.pi) - 2 * turns * _PI_REST


def pole_differences(logs: Tensor, log_pivot: Tensor) -> Tensor:
    """``exp(logs) - exp(log_pivot)``, complex128, exact inside a cluster of poles."""
    close = (logs - log_pivot).real.abs() < 1
    near = torch.exp(log_pivot) * _expm1_of_sum(torch.where(close, logs, log_pivot), -log_pivot)
    return torch.where(close, near, torch.exp(logs) - torch.exp(log_pivot))
