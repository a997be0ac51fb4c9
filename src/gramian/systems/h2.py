"""The H2 norm of a system and the H2 distance of two: sums over pairs of modes, or from a Gramian factor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.systems.gramians import Route, controllability_factor, equilibrated
from gramian.systems.linear_system import LinearSystem
from gramian.systems.precise import one_minus_products

__all__ = ["h2_distance", "h2_norm", "h2_norm_and_energy"]

_CANCELLED = 1e-10  # squares of errors below it, relative to the energy, have lost too many digits


def h2_norm(system: LinearSystem, route: Route | None = None) -> Tensor:
    """The H2 norm: root of the sum of squares of the impulse response; exact, from a Gramian factor.

    ``||G||_2^2 = ||C B + D||_F^2 + ||C A F_c||_F^2``, the first response and the sum of all later ones with
    ``P = F_c F_c*``: sums of squares, so that small norms of difference systems keep their digits. Shape ``(...)``,
    float64.
    """
    return h2_norm_and_energy(system, None if route is None else _times(route(system).controllability))[0]


def h2_norm_and_energy(
    system: LinearSystem, times_factor: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """`h2_norm`, and the energy ``||C F_c||_F^2`` of all responses without the feed-through.

    ``||C F_c||_F^2 = ||C B||_F^2 + ||C A F_c||_F^2``: both are sums of the same later responses and a first one.
    `times_factor` says what ``M F_c`` is, if a factor is known.
    """
    if times_factor is None:
        factor = controllability_factor(system) if system.is_diagonal else equilibrated(system).controllability
        times_factor = _times(factor)
    B, C = system.input_output_matrices()
    first = C @ B
    later = torch.linalg.matrix_norm(times_factor(_output_after_a_step(system))).square()
    energy = torch.linalg.matrix_norm(first).square() + later
    first = first + (system.D.real if system.real_part else system.D)
    return (torch.linalg.matrix_norm(first).square() + later).sqrt(), energy


def _times(factor: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda M: M.to(factor.dtype) @ factor


def _output_after_a_step(system: LinearSystem) -> Tensor:
    """``C A``; for a real-part system in the coordinates ``(Re x, Im x)``."""
    if not system.is_diagonal:
        return system.C @ system.A
    CA = system.C * system.A[..., None, :]
    if not system.real_part:
        return CA
    CA = CA.to(torch.complex128)
    return torch.cat([CA.real, -CA.imag], -1)


def h2_distance(fom: LinearSystem, rom: LinearSystem, energy: float) -> float:
    """``||fom - rom||_2`` of two single diagonal systems, given the energy of the first: see `h2_norm_and_energy`.

    From the energies and the inner product, sums over pairs of modes, which is far cheaper than a factor of the
    difference system; where they cancel to less than six digits, and with different feed-through, from that factor.
    """
    if torch.equal(fom.D, rom.D) and fom.is_diagonal and rom.is_diagonal and fom.real_part == rom.real_part:
        square = energy - 2 * _inner_product(fom, rom) + _inner_product(rom, rom)
        if square > _CANCELLED * energy:
            return float(square**0.5)
    return float(h2_norm(fom - rom))


def _inner_product(one: LinearSystem, two: LinearSystem) -> float:
    """``sum_k <C1 A1^k B1, C2 A2^k B2>``, real part."""
    left, right = one.log_poles[:, None], two.log_poles[None, :]
    if not one.real_part:
        weights = (one.B @ two.B.mH) * (two.C.mH @ one.C).mT
        return float((weights / one_minus_products(left, right.conj())).sum().real)
    (b, b_mirrored), (c, c_mirrored) = _products(one.B, two.B), _products(one.C.mT, two.C.mT)
    direct = (b * c / one_minus_products(left, right.conj())).sum().real
    mirrored = (b_mirrored * c_mirrored / one_minus_products(left, right)).sum().real
    return float(direct + mirrored) / 2


def _products(X: Tensor, Y: Tensor) -> tuple[Tensor, Tensor]:
    """``X Y*`` and ``X Y^T``, from the products of real and imaginary parts that they share."""
    X, Y = X.to(torch.complex128), Y.to(torch.complex128)
    re, im = X.real.contiguous(), X.imag.contiguous()
    with_re, with_im = Y.real.mT.contiguous(), Y.imag.mT.contiguous()
    same, other = (re @ with_re, im @ with_im), (im @ with_re, re @ with_im)
    return torch.complex(same[0] + same[1], other[0] - other[1]), torch.complex(same[0] - same[1], other[0] + other[1])
