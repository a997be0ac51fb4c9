"""Ways to a smaller system: balanced, modal, selected and random projections, and singular perturbation.

A projection is a pair ``V, W`` with ``W* V = I``; it replaces ``(A, B, C)`` by ``(W* A V, W* B, C V)``. For a
real-part system ``V`` and ``W`` are real, in the coordinates ``(Re x, Im x)``. Columns come in order of importance,
so ``projection.leading(n)`` is the projection to the first ``n`` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from gramian.errors import GramianError, ShapeError, did_you_mean
from gramian.systems.balancing import Balancing, balancing
from gramian.systems.gramians import Route, accurate
from gramian.systems.hankel import check_rank
from gramian.systems.linear_system import LinearSystem

__all__ = [
    "Choice",
    "Keep",
    "Projection",
    "Reducer",
    "SingularPerturbation",
    "balanced",
    "modal",
    "project_with",
    "random",
    "selected",
    "singular_perturbation",
    "takes_a_basis",
]


class Reducer(Protocol):
    """Anything that makes a smaller system out of a system."""

    def apply(self, system: LinearSystem) -> LinearSystem: ...


class Choice(Protocol):
    """A way to choose a projection: ``balanced``, ``modal``, ``Keep("random", seed=1)``, ..."""

    def __call__(self, system: LinearSystem, rank: int) -> Projection: ...


@dataclass(frozen=True)
class Projection:
    """``x ~ V x_r``, ``x_r = W* x``: how states are mapped to fewer states and back.

    Parameters
    ----------
    V, W
        Shape ``(..., order, rank)`` with ``W.mH @ V = I``.
    hsv
        Hankel singular values of the kept directions followed by those of the discarded ones, ``(..., order)``;
        None for a projection that is not a truncation of the balanced system and so has no error bound.
    """

    V: Tensor
    W: Tensor
    hsv: Tensor | None = None

    @property
    def rank(self) -> int:
        """How many states are kept."""
        return self.V.shape[-1]

    @property
    def error_bound(self) -> Tensor | None:
        """Twice the sum of the discarded Hankel singular values, shape ``(...)``; None where no bound is known."""
        return None if self.hsv is None else 2 * self.hsv[..., self.rank :].sum(-1)

    def leading(self, rank: int) -> Projection:
        """The projection to the first `rank` of the kept directions."""
        check_rank(rank, self.rank)
        return Projection(self.V[..., :rank], self.W[..., :rank], self.hsv)

    def apply(self, system: LinearSystem) -> LinearSystem:
        """The reduced-order model ``(W* A V, W* B, C V, D)``, dense, of order `rank`."""
        if self.V.shape[-2] != system.order:
            raise ShapeError(
                f"the projection is made for order {self.V.shape[-2]}, '{system.name}' has order {system.order}.",
                cure="Choose the projection from the system that it is applied to.",
            )
        D = system.D.real if system.real_part else system.D
        return LinearSystem(*self.reduced(system), D, name=f"{system.name} reduced")

    def reduced(self, system: LinearSystem) -> tuple[Tensor, Tensor, Tensor]:
        """``W* A V``, ``W* B`` and ``C V`` alone, which nobody has looked at yet."""
        B, C = system.input_output_matrices()
        AV = system.times_A(self.V)
        W, V = self.W.mH.to(AV.dtype), self.V.to(AV.dtype)
        return W @ AV, W @ B.to(AV.dtype), C.to(AV.dtype) @ V


@dataclass(frozen=True)
class Keep:
    """The balanced projection that keeps the states with the `which` Hankel singular values.

    ``largest`` is balanced truncation; ``smallest`` and ``random`` are ablations that show what the choice is worth.
    A subsystem of a balanced system is stable and obeys the bound, whichever states it keeps.
    """

    which: Literal["largest", "smallest", "random"] = "largest"
    seed: int = 0

    def __post_init__(self) -> None:
        known = ("largest", "smallest", "random")
        if self.which not in known:
            raise GramianError(
                f"keep = '{self.which}' was given; needed: one of {', '.join(known)}.{did_you_mean(self.which, known)}"
            )

    def __call__(self, system: LinearSystem, rank: int) -> Projection:
        return self.of(balancing(system), rank)

    def of(self, balanced: Balancing, rank: int) -> Projection:
        """The same projection of a system that has been balanced already."""
        return _truncated(balanced, rank, self._order)

    def _order(self, n: int) -> Tensor:
        if self.which == "largest":
            return torch.arange(n)
        if self.which == "smallest":
            return torch.arange(n - 1, -1, -1)
        return torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))


def balanced(
    system: LinearSystem, rank: int, *, order: Callable[[int], Tensor] | None = None, route: Route = accurate
) -> Projection:
    """Square-root balanced truncation: keep the `rank` states with the largest Hankel singular values.

    The result is stable, and ``sigma_{r+1} <= ||G - G_r||_inf <= 2 (sigma_{r+1} + ...)``; see
    `gramian.systems.balancing` for the route.

    Returns
    -------
    Projection
        Of rank `rank`, or of the numerical order where that is smaller: states whose Hankel singular value is below
        ``1e-13`` of the largest contribute nothing and are dropped, and so are those that are rounding noise of the
        terms ``(P_ii Q_ii)^(1/2)`` which the values are made of.
    """
    return _truncated(balancing(system, route), rank, torch.arange if order is None else order)


def _truncated(basis: Balancing, rank: int, order: Callable[[int], Tensor]) -> Projection:
    n = basis.system.order
    check_rank(rank, n)
    numerical_order = max(1, int(basis.significant.sum(-1).max()))
    sequence = order(numerical_order)
    V, W = basis.directions(sequence[: min(rank, numerical_order)])
    return Projection(V, W, basis.hsv[..., torch.cat([sequence, torch.arange(numerical_order, n)])])


def takes_a_basis(choose: Choice) -> bool:
    """Whether `choose` is a choice of balanced states, so that a basis can serve it."""
    return choose is balanced or isinstance(choose, Keep)


def project_with(choose: Choice, system: LinearSystem, rank: int, basis: Balancing | None) -> Projection:
    """``choose(system, rank)``, for choices of balanced states from the `basis` that is there already."""
    if basis is not None and isinstance(choose, Keep):
        return choose.of(basis, rank)
    return _truncated(basis, rank, torch.arange) if basis is not None and choose is balanced else choose(system, rank)


def modal(system: LinearSystem, rank: int) -> Projection:
    """Keep the poles that dominate: largest ``||c_i|| ||b_i|| / (1 - |l_i|)``, a bound on what each mode contributes.

    Diagonal systems only; a mode of a real-part system counts as two states, and an odd `rank` is rounded down (to
    one mode at least). No error bound; on clustered poles far worse than balanced truncation, and here to show it.
    """
    check_rank(rank, system.order)
    if not system.is_diagonal:
        raise ShapeError(f"'{system.name}' is dense.", cure="Call system.diagonalized() first.")
    weight = system.B.abs().square().sum(-1).sqrt() * system.C.abs().square().sum(-2).sqrt()
    if weight.ndim > 1:
        raise ShapeError(
            f"'{system.name}' is a batch of shape {tuple(system.batch_shape)}.",
            cure="Choose modes system by system.",
        )
    dominance = weight / -torch.expm1(system.log_poles.real)
    modes = dominance.argsort(descending=True, stable=True)
    return selected(system, modes[: max(1, rank // 2) if system.real_part else rank].tolist())


def selected(system: LinearSystem, modes: Sequence[int]) -> Projection:
    """Keep exactly the states `modes` (of a real-part system: both coordinates of each of these modes)."""
    n = system.B.shape[-2]
    if not modes or not all(0 <= m < n for m in modes) or len(set(modes)) != len(modes):
        raise ShapeError(f"modes {list(modes)} were selected; needed: different indices from 0 to {n - 1}.")
    columns = [c for m in modes for c in ((m, m + n) if system.real_part else (m,))]
    V = torch.eye(system.order, dtype=torch.float64 if system.real_part else system.A.dtype)[:, columns]
    V = V.expand(*system.batch_shape, *V.shape)
    return Projection(V, V)


def random(system: LinearSystem, rank: int, *, seed: int = 0) -> Projection:
    """A projection to a random subspace with orthonormal basis (``W = V``): the baseline that knows nothing.

    Stable for every diagonal system, because an orthonormal compression of a contraction is a contraction.
    """
    check_rank(rank, system.order)
    dtype = torch.float64 if system.real_part else system.A.dtype
    generator = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(*system.batch_shape, system.order, rank, dtype=dtype, generator=generator))[0]
    return Projection(V, V)


@dataclass(frozen=True)
class SingularPerturbation:
    """Residualisation: discarded balanced states are not set to zero but to their steady state.

    Keeps the response at frequency zero exactly, with an error bound of the same kind. It
    changes ``D``, so it is for systems rather than for layers.
    """

    full: Projection
    rank: int

    @property
    def error_bound(self) -> Tensor | None:
        """Twice the sum of the discarded values, which are at most those of a balanced truncation."""
        return self.full.leading(self.rank).error_bound

    def apply(self, system: LinearSystem) -> LinearSystem:
        """The residualised model, dense, of order `rank`."""
        full, r = self.full.apply(_read_before_update(system)), self.rank
        A, B, C, D = full.A, full.B, full.C, full.D
        eye = torch.eye(full.order - r, dtype=A.dtype)
        settled = torch.linalg.solve(eye - A[..., r:, r:], torch.cat([A[..., r:, :r], B[..., r:, :]], -1))
        X, Y = settled[..., :r], settled[..., r:]
        A_r, B_r = A[..., :r, :r] + A[..., :r, r:] @ X, B[..., :r, :] + A[..., :r, r:] @ Y
        C_r, singular = torch.linalg.solve_ex(A_r, C[..., :r] + C[..., r:] @ X, left=False)  # read after the update
        if singular.any():
            raise GramianError(
                f"'{system.name}' residualised to {r} states has a pole at zero, as delay lines have.",
                "Its output cannot be read after the update, which is how systems are written here.",
                "Use another rank, or `balanced`.",
            )
        D_r = D + C[..., r:] @ Y - C_r @ B_r
        return LinearSystem(A_r, B_r, C_r, D_r, name=f"{system.name} residualised")


def singular_perturbation(system: LinearSystem, rank: int) -> SingularPerturbation:
    """Balanced singular perturbation to `rank` states; see `SingularPerturbation`.

    The classical formulas are for a state that is read before the update, so it is that form of the system,
    ``y[k] = C A x[k-1] + (C B + D) u[k]``, that is balanced.
    """
    check_rank(rank, system.order)
    full = balanced(_read_before_update(system), system.order)
    return SingularPerturbation(full, min(rank, full.rank))


def _read_before_update(system: LinearSystem) -> LinearSystem:
    A, B, C = system.A, system.B, system.C
    CA = C * A[..., None, :] if system.is_diagonal else C @ A
    direct = (C @ B).real.to(C.dtype) if system.real_part else C @ B
    return LinearSystem(A, B, CA, system.D + direct, system.log_poles, system.real_part, system.name)
