"""Hankel singular values: how much every state direction matters, and the ranks and bounds that follow."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.errors import GramianError, ShapeError
from gramian.systems.gramians import Route, accurate
from gramian.systems.linear_system import LinearSystem

__all__ = ["bound_rank", "check_rank", "energy_rank", "error_bound", "hankel_singular_values"]


def hankel_singular_values(system: LinearSystem, route: Route = accurate) -> Tensor:
    """The Hankel singular values of `system`, descending: singular values of ``F_o* F_c``.

    They are invariants of the input-output map and equal the square roots of the eigenvalues of ``P Q``, which is
    never formed (square-root method; MathWorks' reference page of ``balancmr`` states it in this form).

    Returns
    -------
    Tensor
        Shape ``(..., order)``, float64. A duplicate, uncontrollable or unobservable state shows as a value of zero.
    """
    factors = route(system)
    values = torch.linalg.svdvals(factors.observability.mH @ factors.controllability)
    missing = system.order - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[..., : system.order]


def check_rank(rank: int, order: int) -> None:
    """Raise unless ``1 <= rank <= order``."""
    if not 1 <= rank <= order:
        raise ShapeError(f"rank {rank} was asked for, of a system of order {order}.", f"Needed: 1 <= rank <= {order}.")


def error_bound(hsv: Tensor, rank: int) -> Tensor:
    """Twice the sum of the discarded Hankel singular values, shape ``(...)``: ``||G - G_r||_inf`` is at most that.

    The classical bound of balanced truncation (``docs/bibliography.md``). It holds for
    the linear map in exact arithmetic; it is no bound on the output or loss of a network around it.
    """
    check_rank(rank, hsv.shape[-1])
    return 2 * hsv[..., rank:].sum(-1)


def energy_rank(hsv: Tensor, tau: float) -> int:
    """The smallest rank that keeps the fraction ``1 - tau`` of the *sum* of the Hankel singular values.

    Parameters
    ----------
    hsv
        Shape ``(order,)``, descending.
    tau
        Fraction discarded at most, in ``[0, 1)``.
    """
    if not 0 <= tau < 1:
        raise GramianError(
            f"tau = {tau} was given; needed: a fraction 0 <= tau < 1 of the Hankel singular values' sum."
        )
    kept = hsv.cumsum(-1)
    # The guard keeps rounding in the cumulative sum from asking for one state more than is needed.
    wanted = (1 - tau) * kept[-1:] * (1 - 1e-12)
    return min(int(torch.searchsorted(kept, wanted)) + 1, len(hsv))


def bound_rank(hsv: Tensor, tolerance: float) -> int:
    """The smallest rank whose `error_bound` is at most `tolerance` (an absolute H-infinity error); all if none is.

    `hsv` has shape ``(order,)``, descending.
    """
    sums = hsv.flip(-1).cumsum(-1).flip(-1)  # from the smallest up: a difference of two large sums loses small tails
    tails = 2 * torch.cat([sums[1:], sums.new_zeros(1)])
    fits = tails <= tolerance * (1 + 1e-12)
    return int(fits.nonzero()[0]) + 1 if fits.any() else len(hsv)
