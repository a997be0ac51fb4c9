"""What every balanced truncation of a system is made of, computed once: factors and singular vectors.

With ``P = F_c F_c*``, ``Q = F_o F_o*`` and the SVD ``F_o* F_c = U sigma X*``, the balanced basis is
``V = F_c X sigma^(-1/2)`` and ``W = F_o U sigma^(-1/2)`` (the square-root method; MathWorks' page of ``balancmr``).

From order `_LARGE` on, the eigenvectors of ``K = X sigma^2 X*``, with ``K = (F_o* F_c)* (F_o* F_c)``, take the place of
the SVD, at less than half the cost. Then it is ``sigma^2`` that is exact to about ``1e-15 sigma_1^2``: values above
``1e-4 sigma_1`` keep eight digits and more, those below ``1e-8 sigma_1`` are noise. Where directions so small are asked
for, the SVD is taken after all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.systems.gramians import Factors, Route, accurate
from gramian.systems.linear_system import LinearSystem

__all__ = ["Balancing", "balancing", "balancing_bytes", "balancing_values"]

_LARGE = 128
_BLOCK = 512  # columns of a product that is symmetric
_RESOLVED = 1e-4  # of the largest value: what is below is left to the SVD
_NUMERICAL_ZERO = 1e-13  # relative to the largest Hankel singular value: below it, directions are rounding noise
_ROUNDING = 1e-15  # relative to the terms of F_o* F_c: where they cancel, even the largest value is rounding noise


@dataclass(frozen=True, eq=False)
class Balancing:
    """The factors of a system's Gramians, and the singular vectors of ``F_o* F_c``. Large: three or four matrices.

    Parameters
    ----------
    system
        What was balanced.
    factors
        Of its Gramians.
    hsv
        Its Hankel singular values, descending, ``(..., order)``.
    left, right
        ``U`` and ``X``, shape ``(..., k, k)``, columns in the order of `hsv`; without ``U``, ``X`` holds eigenvectors
        in ascending order.
    """

    system: LinearSystem
    factors: Factors
    hsv: Tensor
    left: Tensor | None
    right: Tensor

    def __getitem__(self, index: int) -> Balancing:
        """The balancing of one system of a batch."""
        s, f = self.system, self.factors
        A, B, C, D, logs = (None if t is None else t[index] for t in (s.A, s.B, s.C, s.D, s.log_poles))
        system = LinearSystem(A, B, C, D, logs, s.real_part, s.name)
        factors = Factors(f.controllability[index], f.observability[index])
        left = None if self.left is None else self.left[index]
        return Balancing(system, factors, self.hsv[index].clone(), left, self.right[index])

    @property
    def significant(self) -> Tensor:
        """Which values, ``(..., k)``, are not zero as far as double precision can tell."""
        F_c, F_o = self.factors.controllability, self.factors.observability
        sigma = self.hsv[..., : min(self.right.shape[-1], self.system.order)]
        terms = (torch.linalg.vector_norm(F_o, dim=-1) * torch.linalg.vector_norm(F_c, dim=-1)).sum(-1)
        return sigma > torch.maximum(_NUMERICAL_ZERO * sigma[..., 0], _ROUNDING * terms)[..., None]

    def directions(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The columns `kept` of ``V`` and ``W``. In a batch, systems of lower order get zero columns: dead states."""
        F_c, F_o = self.factors.controllability, self.factors.observability
        sigma = self.hsv[..., kept]
        if self.left is None:
            if (sigma < _RESOLVED * self.hsv[..., :1]).any():
                return _by_svd(self.system, self.factors).directions(kept)
            V = F_c @ self.right[..., self.right.shape[-1] - 1 - kept]
            W = F_o @ (F_o.mH @ V)
            scale = sigma.rsqrt()[..., None, :]
            return V.mul_(scale), W.mul_(scale / sigma[..., None, :])
        scale = torch.where(self.significant[..., kept], sigma, torch.inf).rsqrt()[..., None, :]
        return F_c @ self.right[..., kept] * scale, F_o @ self.left[..., kept] * scale


def balancing(system: LinearSystem, route: Route = accurate) -> Balancing:
    """Everything that balanced truncations of `system` to any rank need; for a real system in real matrices."""
    factors = route(system).real() if system.real_part else route(system)
    if min(factors.controllability.shape[-1], factors.observability.shape[-1]) < _LARGE:
        return _by_svd(system, factors)
    vectors = _squared(factors)  # LAPACK writes the eigenvectors over it
    values = vectors.new_empty(vectors.shape[:-1], dtype=torch.float64)
    torch.linalg.eigh(vectors, out=(values, vectors))
    hsv = values.flip(-1).clamp(min=0).sqrt()
    return Balancing(system, factors, _fitted(hsv, system.order), None, vectors)


def balancing_values(system: LinearSystem) -> Tensor:
    """The Hankel singular values that ``balancing(system)`` would have, at a third of its cost."""
    factors = accurate(system).real() if system.real_part else accurate(system)
    if min(factors.controllability.shape[-1], factors.observability.shape[-1]) < _LARGE:
        values = torch.linalg.svdvals(factors.observability.mH @ factors.controllability)
    else:
        values = torch.linalg.eigvalsh(_squared(factors)).flip(-1).clamp(min=0).sqrt()
    return _fitted(values, system.order)


def balancing_bytes(system: LinearSystem) -> int:
    """How much memory a balancing of `system` holds, at most."""
    entry = 8 if system.real_part or not system.B.is_complex() else 16
    return 4 * entry * system.order**2 * max(1, system.batch_shape.numel())


def _squared(factors: Factors) -> Tensor:
    """The lower triangle of ``K``, by columns, as LAPACK wants it; most of what is above is left out."""
    M = factors.observability.mH @ factors.controllability
    k = M.shape[-1]
    rows = M.new_zeros(*M.shape[:-2], k, k)  # of the conjugate of K
    for start in range(0, k, _BLOCK):
        block = M[..., start : start + _BLOCK].mH @ M[..., start:]
        rows[..., start : start + _BLOCK, start:] = block.conj()
    return rows.mT


def _by_svd(system: LinearSystem, factors: Factors) -> Balancing:
    M = factors.observability.mH @ factors.controllability
    U, sigma, Xh = torch.linalg.svd(M, full_matrices=False)
    return Balancing(system, factors, _fitted(sigma, system.order), U, Xh.mH)


def _fitted(values: Tensor, order: int) -> Tensor:
    missing = order - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[..., :order]
