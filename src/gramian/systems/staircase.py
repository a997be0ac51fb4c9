"""Factors of Gramians whose rows end one after the other, kept without the zeros behind the ends.

A mode that has been the pivot of the Malmquist-Takenaka recurrence has no energy left: its rows of the factor are zero
from there on. With the modes in the order in which they end, the factor is a staircase, of which half is zeros, and
products with it cost half, those with it from both sides a third.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Staircase"]

_WIDTH = 384  # columns of a block


@dataclass(frozen=True, eq=False)
class Staircase:
    """A factor of one system, ``(order, k)``, in blocks of columns.

    Parameters
    ----------
    modes
        Names of the ``n`` modes in the order in which their rows end. Whatever is multiplied has its modes in this
        order; with two coordinates a mode, the first of all of them come before the second.
    blocks
        Shape ``(coordinates, n - start, width)``: without the `start` modes that have ended before.
    """

    modes: Tensor
    blocks: tuple[Tensor, ...]

    @classmethod
    def of(cls, F: Tensor, coordinates: int) -> Staircase:
        """`F`, of shape ``(coordinates n, k)``, without its zeros."""
        columns = F.mT.unflatten(1, (coordinates, -1))  # (k, coordinates, n)
        k = len(columns)
        is_zero = (columns == 0).all(1)
        ends = k - is_zero.logical_not().to(torch.uint8).flip(0).argmax(0)
        modes = ends.argsort(stable=True)
        starts = torch.searchsorted(ends[modes], torch.arange(0, k, _WIDTH), right=True).tolist()
        parts = zip(starts, columns.split(_WIDTH), strict=True)
        return cls(modes, tuple(part[:, :, modes[start:]].permute(1, 2, 0) for start, part in parts))

    @property
    def width(self) -> int:
        """How many columns there are."""
        return sum(block.shape[-1] for block in self.blocks)

    @property
    def coordinates(self) -> int:
        """How many rows a mode has."""
        return len(self.blocks[0])

    def ordered(self, M: Tensor) -> Tensor:
        """The columns of `M` in the order of the staircase."""
        return M.unflatten(-1, (self.coordinates, -1))[..., self.modes].flatten(-2)

    def restored(self, V: Tensor) -> Tensor:
        """The rows of `V` in the order that the modes had before."""
        out = V.unflatten(0, (self.coordinates, -1))
        return torch.empty_like(out).index_copy_(1, self.modes, out).flatten(0, 1)

    def row_lengths(self) -> Tensor:
        """Lengths of the rows, ``(order,)``, in the order of the staircase."""
        squares = torch.zeros(self.coordinates, len(self.modes), dtype=torch.float64)
        for start, _, block in self:
            squares[:, start:] += torch.linalg.vector_norm(block, dim=-1).square()
        return squares.sqrt().flatten()

    def __iter__(self) -> Iterator[tuple[int, slice, Tensor]]:
        """Of every block: how many modes have ended before it, its columns, and the block."""
        column = 0
        for block in self.blocks:
            yield len(self.modes) - block.shape[1], slice(column, column + block.shape[-1]), block
            column += block.shape[-1]

    def times(self, X: Tensor) -> Tensor:
        """``F X`` for `X` of shape ``(k, r)``."""
        X = X.to(self.blocks[0].dtype)
        out = X.new_zeros(self.coordinates, len(self.modes), X.shape[-1])
        for start, columns, block in self:
            for part, rows in zip(block, out[:, start:], strict=True):
                rows.addmm_(part, X[columns])
        return out.flatten(0, 1)

    def rtimes(self, M: Tensor) -> Tensor:
        """``M F`` for `M` of shape ``(r, order)``."""
        M = M.to(self.blocks[0].dtype).unflatten(-1, (self.coordinates, -1))
        return torch.cat([_sum(M[:, i, start:] @ part for i, part in enumerate(block)) for start, _, block in self], -1)

    def congruence(self, Q: Tensor) -> Tensor:
        """The lower triangle of ``F* Q F`` for a Hermitian `Q`, by columns; most of what is above is left out."""
        coordinates, k = self.coordinates, self.width
        Q = Q.unflatten(0, (coordinates, -1)).unflatten(-1, (coordinates, -1))
        rows = Q.new_zeros(k, k)  # of the transpose
        for start, columns, block in self:
            image = [_sum(Q[i, start:, j, start:] @ part for j, part in enumerate(block)) for i in range(coordinates)]
            for below, others, other in self:
                if others.start >= columns.start:
                    product = _sum(b.mH @ a[below - start :] for a, b in zip(image, other, strict=True))
                    rows[columns, others] = product.mT
        return rows.mT


def _sum(terms: Iterator[Tensor]) -> Tensor:
    """The sum of a few products that nobody else holds."""
    total = next(terms)
    for term in terms:
        total += term
    return total
