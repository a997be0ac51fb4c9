"""Least squares from normal equations, and which blocks of features can best be spared.

A regression ``min E||y - Phi beta||^2`` is known by ``gram = E Phi^T Phi``, ``cross = E Phi^T y`` and
``energy = E||y||^2``. Features come in equal blocks, one block for each state of a system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import GramianError

__all__ = ["RIDGES", "Elimination", "NormalEquations", "eliminate_blocks"]

RIDGES = (1e-8, 1e-6, 1e-4, 1e-2)  # relative to the mean of the diagonal of ``gram``
_ALMOST_ZERO = 1e-150  # so small that no data have it, and so large that its ridge has an inverse


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """A linear regression in float64: `gram` is ``(F, F)``, `cross` ``(F,)``, `energy` a scalar."""

    gram: Tensor
    cross: Tensor
    energy: float

    def __add__(self, other: NormalEquations) -> NormalEquations:
        """The regression on the data of both."""
        return NormalEquations(self.gram + other.gram, self.cross + other.cross, self.energy + other.energy)

    def error(self, beta: Tensor) -> float:
        """``E||y - Phi beta||^2``, at least 0; NaN where beta is not finite."""
        return max(float(self.energy - 2 * (beta @ self.cross) + beta @ (self.gram @ beta)), 0.0)  # max(0, NaN) is 0

    def solve(self, ridge: float, towards: Tensor) -> Tensor:
        """The minimiser, penalised by `ridge` times the mean of the diagonal for its distance from `towards`."""
        missing = self.cross - self.gram @ towards
        return towards + torch.cholesky_solve(missing[:, None], _factor(self.gram, ridge))[:, 0]

    def best(self, judge: NormalEquations, towards: Tensor, ridges: Sequence[float] = RIDGES) -> Tensor:
        """The minimiser with the ridge whose error on the data of `judge` is smallest; `towards` where none helps."""
        found = [(judge.error(towards), towards)]
        for ridge in ridges:
            beta = self.solve(ridge, towards)
            found.append((judge.error(beta), beta))
        return min(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, eq=False)
class Elimination:
    """Blocks from the one that stays longest to the first that is dropped, and the error while the first k are kept.

    `order` is int64 ``(blocks,)``; `errors`, ``(blocks + 1,)``, non-increasing: ``errors[k]`` is the regression's error
    with the blocks ``order[:k]``, ``errors[0]`` the energy of the target.
    """

    order: Tensor
    errors: Tensor


def eliminate_blocks(equations: NormalEquations, blocks: int, ridge: float = 1e-6) -> Elimination:
    """Drop block after block, always the one whose removal raises the regression's error least.

    With ``K = (gram + ridge)^-1`` and the solution beta, dropping block m raises the minimum by
    ``beta_m^T (K_mm)^-1 beta_m``, exactly; then ``beta -= K_m (K_mm)^-1 beta_m`` and ``K -= K_m (K_mm)^-1 K_m^T``
    (the block form of Hassibi and Stork's optimal brain surgeon, NeurIPS 1992, eq. 5).
    """
    size = len(equations.cross) // blocks
    K = torch.cholesky_inverse(_factor(equations.gram, ridge))
    beta = K @ equations.cross
    error = max(0.0, equations.energy - float(equations.cross @ beta))
    alive = torch.arange(blocks)
    dropped, errors = [], [error]
    diagonal = K.view(blocks, size, blocks, size).diagonal(dim1=0, dim2=2).movedim(-1, 0)  # (blocks, size, size), views
    own = beta.view(blocks, size)
    while len(alive):
        kept = own[alive]
        rises = (kept * torch.linalg.solve(diagonal[alive], kept[..., None])[..., 0]).sum(-1)
        first = int(rises.argmin())
        error += max(0.0, float(rises[first]))
        errors.append(error)
        dropped.append(int(alive[first]))
        _drop_(K, beta, slice(dropped[-1] * size, (dropped[-1] + 1) * size))
        alive = torch.cat([alive[:first], alive[first + 1 :]])
    return Elimination(torch.tensor(dropped[::-1]), torch.tensor(errors[::-1], dtype=torch.float64))


def _factor(gram: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor of `gram` with a ridge, ten times as large until rounding of the data no longer matters."""
    eye = torch.eye(len(gram), dtype=gram.dtype)
    scale = float(gram.diagonal().mean()) + _ALMOST_ZERO
    for _ in range(12):
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * scale * eye)
        if not failed:
            return factor
        ridge *= 10
    raise GramianError("the normal equations have entries that are not finite; needed: finite data and parameters.")


def _drop_(K: Tensor, beta: Tensor, out: slice) -> None:
    """Make inverse and solution those of the regression without the features `out`; theirs become zero."""
    columns = K[:, out].clone()
    weights = torch.linalg.solve(columns[out], columns.mT).mT
    beta -= weights @ beta[out]
    K.addmm_(weights, columns.mT, alpha=-1)
