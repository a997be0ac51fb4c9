"""A proposal for a smaller layer: a value with the new tensors, how optimizer moments follow, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["IndexMap", "Measurement", "MomentMap", "OutputError", "Reduction"]


@dataclass(frozen=True)
class MomentMap:
    """How one parameter's optimizer moments follow a change of basis: linear maps along one dimension.

    Parameters
    ----------
    sources
        Names of the parameters whose moments are stacked, in this order, along `dim`.
    first
        Map of the stacked first moments, ``(new, old)``; or for each entry of dimension 0 its own,
        ``(size_0, new, old)``.
    other
        Map of the stacked second moments, non-negative, shaped alike; None for ``first * first``, the map
        of entries that are uncorrelated. See `second`.
    dim
        The dimension that holds the states.
    """

    sources: tuple[str, ...]
    first: Tensor
    other: Tensor | None
    dim: int = 0

    @classmethod
    def of(cls, sources: tuple[str, ...], first: Tensor, dim: int) -> MomentMap:
        """The map of entries that are uncorrelated: second moments follow ``first * first``."""
        return cls(sources, first, None, dim)

    @property
    def second(self) -> Tensor:
        """Map of the stacked second moments; the squares, which are large, are made when they are asked for."""
        return self.first.square() if self.other is None else self.other

    def carry(self, moments: Mapping[str, Tensor], order: int) -> Tensor:
        """The new first (``order=1``) or second (``order=2``) moment from those of the sources, in their dtype."""
        stacked = torch.cat([moments[name] for name in self.sources], self.dim)
        matrix = (self.first if order == 1 else self.second).to(stacked.device)
        wide = stacked.to(matrix.dtype)
        if matrix.ndim == 3:
            moved = torch.stack([_times(m, x, self.dim - 1) for m, x in zip(matrix, wide, strict=True)])
        else:
            moved = _times(matrix, wide, self.dim)
        return moved.to(stacked.dtype).contiguous()


def _times(matrix: Tensor, x: Tensor, dim: int) -> Tensor:
    """`matrix` applied along one dimension."""
    return torch.tensordot(matrix, x, dims=([1], [dim])).movedim(0, dim)


@dataclass(frozen=True)
class IndexMap:
    """How one parameter's optimizer moments follow a selection of states: exactly, by the same indices.

    Parameters
    ----------
    sources
        The name of the parameter, alone.
    index
        Entries along `dim` that stay, int64 ``(new,)``; or for each entry of dimension 0 its own, ``(size_0, new)``.
    dim
        The dimension that holds the states.
    scale
        What gradients of the kept entries are multiplied with, along `dim`: one over what the entries themselves are
        multiplied with; nothing where it is None.
    """

    sources: tuple[str]
    index: Tensor
    dim: int = 0
    scale: Tensor | None = None

    def carry(self, moments: Mapping[str, Tensor], order: int) -> Tensor:
        """The new first (``order=1``) or second (``order=2``) moment: the kept entries of the old one."""
        moment = moments[self.sources[0]]
        index = self.index.to(moment.device)
        if index.ndim == 1:
            kept = moment.index_select(self.dim, index)
        else:
            kept = torch.stack([m.index_select(self.dim - 1, i) for m, i in zip(moment, index, strict=True)])
        if self.scale is None:
            return kept
        factor = self.scale.to(kept.device, torch.float64).pow(order)
        return (kept * factor.view(-1, *[1] * (kept.ndim - 1 - self.dim))).to(kept.dtype)


@dataclass(frozen=True)
class OutputError:
    """What a reduction does to the output of a layer that has no linear time-invariant map: no a-priori guarantee.

    ``calibration``, ``held_out``
        ``||y' - y|| / ||y||`` of the layer's output on sequences the reduction was computed from, and on others;
        None where there were no others.
    ``discarded``
        The fraction of the sum of the spectrum that was given up.
    ``tokens``
        Steps that the reduction was computed from.
    """

    calibration: float
    held_out: float | None
    discarded: float
    tokens: int


@dataclass(frozen=True)
class Measurement:
    """What a reduction does to the layer's linear map; errors are absolute, in the units of the norms.

    ``norm``, ``measured``
        H-infinity norm of the layer before, and of the difference after the cast to the layer's dtype; both the
        largest value on a grid, a lower estimate.
    ``bound``
        Twice the sum of the discarded Hankel singular values: holds for the layer's linear map in exact
        arithmetic, not for the network's output or loss. None where the way of choosing states has no bound.
    ``h2_norm``, ``h2_error``
        H2 norm of the layer before, and of the difference.
    ``discarded``
        The fraction of the sum of the Hankel singular values that was given up.
    ``order``, ``real_poles``, ``condition``, ``max_pole``
        Order of the reduced system, how many of its poles are real, the condition number of its eigenvectors, and
        its largest ``|lambda|``.
    """

    norm: float
    bound: float | None
    measured: float
    h2_norm: float
    h2_error: float
    discarded: float | None
    order: int
    real_poles: int
    condition: float
    max_pole: float


@dataclass(frozen=True)
class Reduction:
    """One layer's proposal for a smaller self.

    Parameters
    ----------
    before, after
        States (``d_state``) now and then; equal when the proposal was refused.
    asked
        The rank that was asked for.
    tensors
        The new values of the layer's parameters, by name.
    moments
        How each of these parameters' optimizer moments follow.
    measurement
        What it costs; None where nothing could be measured.
    reason
        Why it was refused; empty for a proposal that stands.
    seconds
        Time spent on it.
    """

    before: int
    after: int
    asked: int
    tensors: dict[str, Tensor] = field(repr=False)
    moments: Mapping[str, MomentMap | IndexMap] = field(repr=False)
    measurement: Measurement | OutputError | None = None
    reason: str = ""
    seconds: float = 0.0

    @property
    def accepted(self) -> bool:
        """Whether the proposal can be applied."""
        return not self.reason

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, tensors and dictionaries, to be sent or stored; see `from_state_dict`."""
        state = {key: getattr(self, key) for key in ("before", "after", "asked", "tensors", "reason", "seconds")}
        state["moments"] = {name: _state_of(m) for name, m in self.moments.items()}
        state["measurement"] = None if self.measurement is None else asdict(self.measurement)
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Reduction:
        """The reduction that `state_dict` described."""
        moments = {name: _map_of(m) for name, m in state["moments"].items()}
        facts = state["measurement"]
        measurement = None if facts is None else (OutputError if "held_out" in facts else Measurement)(**facts)
        return cls(**{**state, "moments": moments, "measurement": measurement})


def _state_of(moments: MomentMap | IndexMap) -> dict[str, Any]:
    state = {**vars(moments), "sources": list(moments.sources)}
    if isinstance(moments, MomentMap):
        state["second"] = state.pop("other")
    return state


def _map_of(state: Mapping[str, Any]) -> MomentMap | IndexMap:
    facts = {**state, "sources": tuple(state["sources"])}
    if "index" in facts:
        return IndexMap(**facts)
    return MomentMap(other=facts.pop("second"), **facts)
