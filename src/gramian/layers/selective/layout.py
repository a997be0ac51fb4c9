"""Where the states of a selective layer live in its parameters, and how these follow when states are cut."""

from __future__ import annotations

from collections.abc import Mapping
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
        Kept states of each group, int64 ``(groups, rank)``, ascending.
    to_B, to_C
        ``B' = to_B B`` and ``C' = to_C C``, ``(groups, rank, N)``; None for nothing but selection.
    d_state
        N.
    """

    index: Tensor
    d_state: int
    to_B: Tensor | None = None
    to_C: Tensor | None = None

    @property
    def rank(self) -> int:
        """States that stay, in each group."""
        return self.index.shape[1]

    @property
    def mixes(self) -> bool:
        """Whether kept states take something over."""
        return self.to_B is not None or self.to_C is not None

    def matrices(self, what: Literal["A", "B", "C"]) -> Tensor:
        """``(groups, rank, N)``, float64: what the rows of A, B or C are multiplied with."""
        mixing = {"A": None, "B": self.to_B, "C": self.to_C}[what]
        if mixing is not None:
            return mixing.double()
        return torch.eye(self.d_state, dtype=torch.float64)[self.index]


@dataclass(frozen=True)
class Layout:
    """The parameters that hold states: by name, the dimension and what lies along it.

    ``Layout({"A_log": (1, (States("A"),)), "x_proj.weight": (0, (Fixed(8), States("B"), States("C")))}, mixes=True)``
    says where Mamba keeps them. `mixes` tells that B and C reach the recurrence linearly, so that their rows can be
    combined; otherwise states can only be selected.
    """

    parameters: Mapping[str, tuple[int, tuple[Fixed | States, ...]]]
    mixes: bool = False

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
            blocks = _blocks(parts, change)
            new = torch.tensordot(torch.block_diag(*blocks), old.double(), dims=([1], [dim])).movedim(0, dim)
            tensors[name] = new.to(old.dtype).contiguous()
            # with W = pinv(M) W' the gradient of W' = M W is pinv(M)^T times that of W
            moments[name] = MomentMap.of((name,), torch.block_diag(*(torch.linalg.pinv(b).mT for b in blocks)), dim)
        return tensors, moments

    def row_norms(self, values: Mapping[str, Tensor], d_state: int) -> tuple[Tensor, Tensor]:
        """Lengths of the rows of B and of C, ``(groups, N)`` each, in float64, over all parameters that hold them."""
        squares: dict[str, Tensor] = {}
        for name, (dim, parts) in self.parameters.items():
            rows, start = values[name].detach().double().cpu().movedim(dim, 0).flatten(1).square().sum(1), 0
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
            rows.append(start + change.index[group if part.groups > 1 else 0])
            start += change.d_state
    return rows


def _blocks(parts: tuple[Fixed | States, ...], change: StateChange) -> list[Tensor]:
    """The blocks of the matrix that makes new rows out of old ones."""
    blocks: list[Tensor] = []
    for part in parts:
        if isinstance(part, Fixed):
            blocks.append(torch.eye(part.size, dtype=torch.float64))
        else:
            blocks += change.matrices(part.what)[: part.groups].unbind()
    return blocks
