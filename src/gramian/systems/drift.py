"""How far a system has moved between two moments of training, and whether its ranking of states has settled.

Sorted singular values have a trivial rank correlation of one, so the ranking is judged by other means: bounds on how
far the values *can* have moved (Weyl, Mirsky), the overlap of the dominant subspaces, and a certificate that the
rank chosen by an energy rule cannot have changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.balancing import Balancing, balancing, balancing_values
from gramian.systems.gramians import Route, accurate
from gramian.systems.hankel import check_rank, energy_rank, hankel_singular_values
from gramian.systems.linear_system import LinearSystem, diagonal_if_accurate
from gramian.systems.precise import one_minus_products

__all__ = ["Movement", "Overlap", "hsv_movement", "rank_certificate", "subspace_overlap"]

_RESOLVED = 1e-6  # of the largest value: directions below it are known to (eps / 1e-12) at best


@dataclass(frozen=True)
class Movement:
    """How far the Hankel singular values moved, beside how far the difference system lets them move.

    ``largest <= weyl`` (Weyl), ``euclidean <= frobenius`` and ``total <= nuclear`` (Mirsky), where the right-hand
    sides are the spectral, Frobenius and nuclear norm of the Hankel operator of the difference system.
    """

    largest: float
    weyl: float
    euclidean: float
    frobenius: float
    total: float
    nuclear: float


def hsv_movement(
    before: LinearSystem,
    after: LinearSystem,
    route: Route = accurate,
    known: tuple[Tensor, Tensor] | None = None,
) -> Movement:
    """Movement of the Hankel singular values from `before` to `after`, which may differ in order.

    With `known`, the values of both, only those of the difference system are computed, and these, for a large system,
    only as well as `gramian.systems.balancing.balancing_values` does: enough for a look at how training goes.

    Raises
    ------
    ShapeError
        When inputs and outputs do not match, or for a batch.
    """
    _check_single(before, after)
    difference = before - after
    if known is not None:
        (first, second), room = known, balancing_values(difference)
    else:
        if difference.is_diagonal:
            before, after = diagonal_if_accurate(before), diagonal_if_accurate(after)
        first, second, room = (hankel_singular_values(system, route) for system in (before, after, difference))
    longest = max(len(first), len(second))
    first = torch.nn.functional.pad(first, (0, longest - len(first)))
    second = torch.nn.functional.pad(second, (0, longest - len(second)))
    moved = (first - second).abs()
    return Movement(*(float(x) for x in (moved.max(), room.max(), moved.norm(), room.norm(), moved.sum(), room.sum())))


def _check_single(*systems: LinearSystem) -> None:
    for system in systems:
        if system.batch_shape:
            raise ShapeError(
                f"'{system.name}' is a batch of shape {tuple(system.batch_shape)}; needed: one system.",
                cure="Compare the systems of a batch one by one.",
            )


@dataclass(frozen=True)
class Overlap:
    """Overlap in [0, 1] of two systems' dominant subspaces, as seen from past inputs and from future outputs."""

    past: float
    future: float


def subspace_overlap(before: LinearSystem | Balancing, after: LinearSystem | Balancing, rank: int) -> Overlap:
    """How much of the `rank` dominant Hankel directions two systems share, whatever their coordinates.

    The singular vectors of the Hankel operator live in signal space, so they can be compared between systems:
    ``past = ||W1* X W2||_F^2 / r`` with ``X = sum_k A1^k B1 B2* A2*^k``, and ``future`` likewise with
    ``Y = sum_k A1*^k C1* C2 A2^k``. A direction whose value is below 1e-6 of the largest is rounding noise in double
    precision and shares nothing. A system that has been balanced already can be given as its `Balancing`.

    Raises
    ------
    ShapeError
        For a dense system, a batch, or a rank that one of the systems does not have.
    """
    bases = [system if isinstance(system, Balancing) else None for system in (before, after)]
    first, second = (system.system if isinstance(system, Balancing) else system for system in (before, after))
    _check_single(first, second)
    check_rank(rank, min(first.order, second.order))
    for system in (first, second):
        if not system.is_diagonal:
            raise ShapeError(f"'{system.name}' is dense.", cure="Call system.diagonalized() first.")
    one, two = first.augmented(), second.augmented()
    logs_one, logs_two = one.log_poles[:, None], two.log_poles[None, :]
    B_one, B_two, C_one, C_two = (M.to(torch.complex128) for M in (one.B, two.B, one.C, two.C))
    X = (B_one @ B_two.mH) / one_minus_products(logs_one, logs_two.conj())
    Y = (C_one.mH @ C_two) / one_minus_products(logs_one.conj(), logs_two)
    (T1, W1), (T2, W2) = (
        _unit_directions(basis or balancing(system), rank) for basis, system in zip(bases, (first, second), strict=True)
    )
    past, future = W1.mH @ X @ W2, T1.mH @ Y @ T2
    return Overlap(*(float((m.abs().square().sum() / rank).clamp(max=1)) for m in (past, future)))


def _unit_directions(basis: Balancing, rank: int) -> tuple[Tensor, Tensor]:
    """``T = F_c X / sigma`` and ``W = F_o U / sigma``: dual bases whose signals have unit norm.

    In the coordinates of the modes, beside their conjugates in a real-part system; unresolved directions are left out.
    """
    sigma = basis.hsv[:rank]
    resolved = int((sigma > _RESOLVED * sigma[0]).sum())
    scale = sigma[:resolved].rsqrt()
    return tuple(  # type: ignore[return-value]
        _beside_conjugates(basis.system, M * scale) for M in basis.directions(torch.arange(resolved))
    )


def _beside_conjugates(system: LinearSystem, M: Tensor) -> Tensor:
    """From the coordinates ``(Re x, Im x)`` to those of `LinearSystem.augmented`, by a unitary matrix."""
    if not system.real_part:
        return M.to(torch.complex128)
    upper = torch.complex(*M.chunk(2)) * 0.5**0.5
    return torch.cat([upper, upper.conj()])


def rank_certificate(hsv: Tensor, tau: float, nuclear: float) -> bool:
    """Whether the rank that `energy_rank` chose for `hsv` cannot have changed under a movement of at most `nuclear`.

    Both sides of the rule ``sum_{k<=r} s_k >= (1 - tau) sum_k s_k`` move by at most `nuclear` (the bound on
    ``sum |ds|``), so their difference, ``tau head - (1 - tau) tail``, moves by at most ``max(tau, 1 - tau) nuclear``.
    """
    rank = energy_rank(hsv, tau)
    room = max(tau, 1 - tau) * nuclear
    guard = 1e-12 * (1 - tau) * (float(hsv.sum()) + nuclear)  # by which `energy_rank` gives way to rounding
    slack_here = _slack(hsv, tau, rank)
    slack_below = -_slack(hsv, tau, rank - 1) if rank > 1 else torch.inf
    return bool(slack_here >= room and slack_below > room + guard)


def _slack(hsv: Tensor, tau: float, rank: int) -> float:
    return float(tau * hsv[:rank].sum() - (1 - tau) * hsv[rank:].sum())
