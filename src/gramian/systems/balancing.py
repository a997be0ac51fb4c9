"""What every balanced truncation of a system is made of, computed once: factors and singular vectors.

With ``P = F_c F_c*``, ``Q = F_o F_o*`` and the SVD ``F_o* F_c = U sigma X*``, the balanced basis is
``V = F_c X sigma^(-1/2)`` and ``W = F_o U sigma^(-1/2)`` (the square-root method; MathWorks' page of ``balancmr``).

From order `_LARGE` on, the eigenvectors of ``K = X sigma^2 X*``, with ``K = (F_o* F_c)* (F_o* F_c)``, take the place of
the SVD, at less than half the cost. Then it is ``sigma^2`` that is exact to about ``1e-15 sigma_1^2``: values above
``1e-4 sigma_1`` keep eight digits and more, those below ``1e-8 sigma_1`` are noise. Where directions so small are asked
for, the SVD is taken after all.

From order `_VERY_LARGE` on, one factor is enough: ``K = F_c* Q F_c`` and ``W = Q V / sigma``, with ``Q`` in closed
form. Rounding of ``Q_ij`` is relative to ``(Q_ii Q_jj)^(1/2)``, which makes ``1e-16 ||Q_ii^(1/2) F_c||^2`` of ``K``:
no more than of the other product unless modes cancel. Where they do, both factors are computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.systems.gramians import Factors, Route, accurate, controllability_factor, observability_gramian
from gramian.systems.linear_system import LinearSystem
from gramian.systems.staircase import Staircase

__all__ = ["Balancing", "balancing", "balancing_bytes", "balancing_values", "balancings", "is_better_alone"]

_LARGE, _VERY_LARGE = 128, 1024
_BLOCK = 512  # columns of a product that is symmetric
_RESOLVED = 1e-4  # of the largest value: what is below is left to the SVD
_NUMERICAL_ZERO = 1e-13  # relative to the largest Hankel singular value: below it, directions are rounding noise
_ROUNDING = 1e-15  # relative to the terms of F_o* F_c: where they cancel, even the largest value is rounding noise
_CANCELLED = 4.0  # of sigma_1^2: ||Q_ii^(1/2) F_c||^2, of which the rounding of F_c* Q F_c is some 1e-16
_POWERS = 4  # steps towards a norm that decides about nothing but speed, and only where it is far from one


@dataclass(frozen=True, eq=False)
class Balancing(ABC):
    """What a system's balanced truncations to any rank are made of. Large: three or four matrices of its order.

    Parameters
    ----------
    system
        What was balanced.
    hsv
        Its Hankel singular values, descending, ``(..., order)``.
    """

    system: LinearSystem
    hsv: Tensor

    @property
    def significant(self) -> Tensor:
        """Which values, ``(..., k)``, are not zero as far as double precision can tell."""
        width, terms = self._width_and_terms()
        sigma = self.hsv[..., : min(width, self.system.order)]
        return sigma > torch.maximum(_NUMERICAL_ZERO * sigma[..., 0], _ROUNDING * terms)[..., None]

    @abstractmethod
    def _width_and_terms(self) -> tuple[int, Tensor]:
        """How many values were computed, and ``sum_i (P_ii Q_ii)^(1/2)``, which they are made of."""

    @abstractmethod
    def directions(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The columns `kept` of ``V`` and ``W``. In a batch, systems of lower order get zero columns: dead states."""

    @abstractmethod
    def times_factor(self, M: Tensor) -> Tensor:
        """``M F_c``, up to a unitary factor."""


@dataclass(frozen=True, eq=False)
class _OfFactors(Balancing):
    """Both factors, and the singular vectors of ``F_o* F_c``.

    Without `left`, which is ``U``, `right` holds not ``X`` but eigenvectors, in ascending order.
    """

    factors: Factors
    left: Tensor | None
    right: Tensor

    def __getitem__(self, index: int) -> _OfFactors:
        """The balancing of one system of a batch."""
        s, f = self.system, self.factors
        A, B, C, D, logs = (None if t is None else t[index] for t in (s.A, s.B, s.C, s.D, s.log_poles))
        system = LinearSystem(A, B, C, D, logs, s.real_part, s.name)
        factors = Factors(f.controllability[index], f.observability[index])
        left = None if self.left is None else self.left[index]
        return _OfFactors(system, self.hsv[index].clone(), factors, left, self.right[index])

    def _width_and_terms(self) -> tuple[int, Tensor]:
        F_c, F_o = self.factors.controllability, self.factors.observability
        terms = (torch.linalg.vector_norm(F_o, dim=-1) * torch.linalg.vector_norm(F_c, dim=-1)).sum(-1)
        return self.right.shape[-1], terms

    def directions(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        F_c, F_o = self.factors.controllability, self.factors.observability
        sigma = self.hsv[..., kept]
        if self.left is None:
            if (sigma < _RESOLVED * self.hsv[..., :1]).any():
                return _by_svd(self.system, self.factors).directions(kept)
            V = F_c @ self.right[..., self.right.shape[-1] - 1 - kept]
            return _scaled(V, F_o @ (F_o.mH @ V), sigma)
        scale = torch.where(self.significant[..., kept], sigma, torch.inf).rsqrt()[..., None, :]
        return F_c @ self.right[..., kept] * scale, F_o @ self.left[..., kept] * scale

    def times_factor(self, M: Tensor) -> Tensor:
        return M.to(self.factors.controllability.dtype) @ self.factors.controllability


@dataclass(frozen=True, eq=False)
class _OfOneFactor(Balancing):
    """``F_c``, the Gramian ``Q`` with its modes in the same order, and eigenvectors of ``F_c* Q F_c``, ascending."""

    factor: Staircase
    Q: Tensor
    vectors: Tensor

    def _width_and_terms(self) -> tuple[int, Tensor]:
        return self.factor.width, (self.Q.diagonal().real.sqrt() * self.factor.row_lengths()).sum()

    def directions(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.hsv[kept]
        if (sigma < _RESOLVED * self.hsv[0]).any():
            return _by_svd(self.system, _real_factors(self.system, accurate)).directions(kept)
        V = self.factor.times(self.vectors[:, len(self.vectors) - 1 - kept])
        V, W = _scaled(V, self.Q @ V, sigma)
        return self.factor.restored(V), self.factor.restored(W)

    def times_factor(self, M: Tensor) -> Tensor:
        return self.factor.rtimes(self.factor.ordered(M))


def _scaled(V: Tensor, QV: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """``V`` and ``W`` from ``F_c X`` and ``Q F_c X = sigma F_o U``."""
    scale = sigma.rsqrt()[..., None, :]
    return V.mul_(scale), QV.mul_(scale / sigma[..., None, :])


def balancing(system: LinearSystem, route: Route = accurate) -> Balancing:
    """Everything that balanced truncations of `system` to any rank need; for a real system in real matrices."""
    one = _one_factor(system) if route is accurate else None
    if one is None:
        return _of_factors(system, _real_factors(system, route))
    factor, Q, K = one
    hsv, vectors = _eigenvectors(K)
    return _OfOneFactor(system, _fitted(hsv, system.order), factor, Q, vectors)


def balancings(batch: LinearSystem) -> list[Balancing]:
    """The balancings of the systems of a batch, computed together: what small systems gain by."""
    together = _of_factors(batch, _real_factors(batch, accurate))
    return [together[index] for index in range(len(batch.B))]


def is_better_alone(system: LinearSystem) -> bool:
    """Whether `system` is so large that it is balanced by a faster way than it would be as one of a batch."""
    return system.is_diagonal and system.order >= _VERY_LARGE


def balancing_values(system: LinearSystem) -> Tensor:
    """The Hankel singular values that ``balancing(system)`` would have, at a third of its cost."""
    one = _one_factor(system)
    if one is not None:
        return _fitted(torch.linalg.eigvalsh(one[2]).flip(-1).clamp(min=0).sqrt(), system.order)
    factors = _real_factors(system, accurate)
    if _is_small(factors):
        values = torch.linalg.svdvals(factors.observability.mH @ factors.controllability)
    else:
        values = torch.linalg.eigvalsh(_squared(factors)).flip(-1).clamp(min=0).sqrt()
    return _fitted(values, system.order)


def balancing_bytes(system: LinearSystem) -> int:
    """How much memory a balancing of `system` holds, at most."""
    entry = 8 if system.real_part or not system.B.is_complex() else 16
    return 4 * entry * system.order**2 * max(1, system.batch_shape.numel())


def _one_factor(system: LinearSystem) -> tuple[Staircase, Tensor, Tensor] | None:
    """``F_c``, ``Q`` and the lower triangle of ``F_c* Q F_c``, where that is as good as two factors, and faster."""
    if system.batch_shape or not is_better_alone(system):
        return None
    factor = Staircase.of(controllability_factor(system), 2 if system.real_part else 1)
    if factor.width < _LARGE:
        return None
    Q = observability_gramian(system, factor.modes)
    weights = Q.diagonal().real[:, None]
    size, terms = (_norm(factor, weigh) for weigh in (lambda y: Q @ y, lambda y: weights * y))
    return (factor, Q, factor.congruence(Q)) if terms <= _CANCELLED * size else None


def _real_factors(system: LinearSystem, route: Route) -> Factors:
    return route(system).real() if system.real_part else route(system)


def _is_small(factors: Factors) -> bool:
    return min(factors.controllability.shape[-1], factors.observability.shape[-1]) < _LARGE


def _of_factors(system: LinearSystem, factors: Factors) -> _OfFactors:
    if _is_small(factors):
        return _by_svd(system, factors)
    hsv, vectors = _eigenvectors(_squared(factors))
    return _OfFactors(system, _fitted(hsv, system.order), factors, None, vectors)


def _eigenvectors(K: Tensor) -> tuple[Tensor, Tensor]:
    """Hankel singular values, descending, and eigenvectors, ascending: LAPACK writes these over `K`."""
    values = K.new_empty(K.shape[:-1], dtype=torch.float64)
    torch.linalg.eigh(K, out=(values, K))
    return values.flip(-1).clamp(min=0).sqrt(), K


def _norm(factor: Staircase, weigh: Callable[[Tensor], Tensor]) -> float:
    """About the largest eigenvalue of ``F* G F``, where `weigh` says what ``G y`` is."""
    image = torch.randn(factor.width, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for _ in range(_POWERS):
        y = factor.times(image / torch.linalg.vector_norm(image))
        image = factor.rtimes(weigh(y).mH).mH
    return float(torch.linalg.vector_norm(image))


def _squared(factors: Factors) -> Tensor:
    """The lower triangle of ``K``, by columns, as LAPACK wants it; most of what is above is left out."""
    M = factors.observability.mH @ factors.controllability
    k = M.shape[-1]
    rows = M.new_zeros(*M.shape[:-2], k, k)  # of the conjugate of K
    for start in range(0, k, _BLOCK):
        block = M[..., start : start + _BLOCK].mH @ M[..., start:]
        rows[..., start : start + _BLOCK, start:] = block.conj()
    return rows.mT


def _by_svd(system: LinearSystem, factors: Factors) -> _OfFactors:
    M = factors.observability.mH @ factors.controllability
    U, sigma, Xh = torch.linalg.svd(M, full_matrices=False)
    return _OfFactors(system, _fitted(sigma, system.order), factors, U, Xh.mH)


def _fitted(values: Tensor, order: int) -> Tensor:
    missing = order - values.shape[-1]
    return torch.nn.functional.pad(values, (0, missing)) if missing > 0 else values[..., :order]
