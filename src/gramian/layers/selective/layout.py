"""Where the states of a selective layer live in its parameters, and how these follow when states are cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gramian.layers.reduction import IndexMap, MomentMap

__all__ = ["Fixed", "Layout", "StateChange", "States"]


@dataclass(frozen=True)
class Fixed:
    """`size` rows that have nothing to do with states."""

    size: int


@dataclass(frozen=True)
class States:
    """Rows that belong to states: of A, or of the maps to B or to C; group after group where there are several."""

    what: Literal["A", "B", "C"]
    groups: int = 1


@dataclass(frozen=True)
class StateChange:
    """Which states stay, and what the kept ones take over from the others.

    Parameters
    ----------
    index
        Kept states of each group, int64 ``(groups, rank)``, ascending; None for a projection to other coordinates.
    d_state
        N.
    to_B, to_C
        ``B' = to_B B`` and ``C' = to_C C``, ``(groups, rank, N)``; None for nothing but selection.
    """

    index: Tensor | None
    d_state: int
    to_B: Tensor | None = None
    to_C: Tensor | None = None

    @property
    def rank(self) -> int:
        """States that stay, in each group."""
        kept = self.to_B if self.index is None else self.index
        assert kept is not None
        return kept.shape[1]

    @property
    def mixes(self) -> bool:
        """Whether kept states take something over."""
        return self.to_B is not None or self.to_C is not None

    def matrices(self, what: Literal["A", "B", "C"]) -> Tensor:
        """``(groups, rank, N)``, float64: what the rows of A, B or C are multiplied with."""
        mixing = {"A": None, "B": self.to_B, "C": self.to_C}[what]
        if mixing is not None:
            return mixing.double()
        assert self.index is not None
        return torch.eye(self.d_state, dtype=torch.float64)[self.index]

    def gradient_matrices(self, what: Literal["A", "B", "C"]) -> Tensor:
        """``(groups, rank, N)``, float64: what takes gradients of the rows of A, B or C to those of the new rows.

        A row of B is felt through what reads its state, so its gradient is mixed as C is, and that of C as B is. Exact
        for a projection of states that are forgotten alike, and for the readout of a kept state whose B stays.
        """
        return self.matrices({"A": "A", "B": "C", "C": "B"}[what])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Layout:
    """The parameters that hold states: by name, the dimension and what lies along it.

    ``Layout({"A_log": (1, (States("A"),)), "x_proj.weight": (0, (Fixed(8), States("B"), States("C")))}, mixes=True)``
    says where Mamba keeps them. `mixes` tells that B and C reach the recurrence linearly, so that their rows can be
    combined; otherwise states can only be selected. `rotates` tells that moreover all states of a channel are forgotten
    alike, so that they can be projected to any other coordinates; A has no states then.
    """

    parameters: Mapping[str, tuple[int, tuple[Fixed | States, ...]]]
    mixes: bool = False
    rotates: bool = False

    def changed(
        self, values: Mapping[str, Tensor], change: StateChange
    ) -> tuple[dict[str, Tensor], dict[str, MomentMap | IndexMap]]:
        """The new values of the parameters, in their dtype, and how optimizer moments follow."""
        tensors: dict[str, Tensor] = {}
        moments: dict[str, MomentMap | IndexMap] = {}
        for name, (dim, parts) in self.parameters.items():
            old = values[name].detach().cpu()
            mixed = any(isinstance(p, States) and _mixing(change, p) is not None for p in parts)
            if not mixed:
                index = torch.cat(_rows(parts, change))
                tensors[name] = old.index_select(dim, index)
                moments[name] = IndexMap((name,), index, dim)
                continue
            matrix = _block_diagonal(parts, change.matrices)
            new = torch.tensordot(matrix, old.double(), dims=([1], [dim])).movedim(0, dim)
            tensors[name] = new.to(old.dtype).contiguous()
            moments[name] = MomentMap.of((name,), _block_diagonal(parts, change.gradient_matrices), dim)
        return tensors, moments

    def row_norms(self, values: Mapping[str, Tensor], d_state: int) -> tuple[Tensor, Tensor]:
        """Lengths of the rows of B and of C, ``(groups, N)`` each, in float64, over all parameters that hold them."""
        squares: dict[str, Tensor] = {}
        for name, (dim, parts) in self.parameters.items():
            rows, start = values[name].detach().double().cpu().movedim(dim, -1).square(), 0
            rows = rows.flatten(0, -2).sum(0) if rows.ndim > 1 else rows
            for part in parts:
                size = part.size if isinstance(part, Fixed) else part.groups * d_state
                if isinstance(part, States) and part.what != "A":
                    own = rows[start : start + size].view(part.groups, d_state)
                    squares[part.what] = squares.get(part.what, torch.zeros_like(own)) + own
                start += size
        return squares["B"].sqrt(), squares["C"].sqrt()


def _mixing(change: StateChange, part: States) -> Tensor | None:
    return {"A": None, "B": change.to_B, "C": change.to_C}[part.what]


def _rows(parts: tuple[Fixed | States, ...], change: StateChange) -> list[Tensor]:
    """Indices of the rows that stay."""
    rows, start = [], 0
    for part in parts:
        if isinstance(part, Fixed):
            rows.append(torch.arange(start, start + part.size))
            start += part.size
            continue
        for group in range(part.groups):
            assert change.index is not None
            rows.append(start + change.index[group if part.groups > 1 else 0])
            start += change.d_state
    return rows


def _block_diagonal(parts: tuple[Fixed | States, ...], matrices: Callable[[Literal["A", "B", "C"]], Tensor]) -> Tensor:
    """The matrix that makes new rows out of old ones."""
    blocks: list[Tensor] = []
    for part in parts:
        if isinstance(part, Fixed):
            blocks.append(torch.eye(part.size, dtype=torch.float64))
        else:
            blocks += matrices(part.what)[: part.groups].unbind()
    return torch.block_diag(*blocks)
