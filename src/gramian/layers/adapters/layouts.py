"""Where mixers of other libraries keep their states: what is particular about it, beyond `Layout`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gramian.layers.reduction import IndexMap, MomentMap
from gramian.layers.selective.layout import Fixed, Layout, StateChange, States

__all__ = ["MixerLayout", "with_states"]

Scaling = Callable[[int, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class MixerLayout(Layout):
    """A layout with parameters that have one slice for each group, or that are scaled with the number of states.

    Parameters
    ----------
    stacked
        Parameters whose dimension 0 counts the groups; the parts lie along another dimension, in every slice alike.
    scaling
        ``scaling(before, after)`` says what parameters are multiplied with, along their dimension (or as a whole, for
        a scalar), when the number of states changes.
    """

    stacked: frozenset[str] = frozenset()
    scaling: Scaling | None = None

    def changed(
        self, values: Mapping[str, Tensor], change: StateChange
    ) -> tuple[dict[str, Tensor], dict[str, MomentMap | IndexMap]]:
        tensors: dict[str, Tensor] = {}
        moments: dict[str, MomentMap | IndexMap] = {}
        for name, (dim, parts) in self.parameters.items():
            if name in self.stacked:
                tensors[name], moments[name] = _changed_slices(name, values[name], dim, parts, change)
            else:
                tensor, moment = Layout({name: (dim, parts)}).changed(values, change)
                tensors |= tensor
                moments |= moment
        return self.scaled(tensors, moments, self.factors(change.d_state, change.rank))

    def scaled(
        self,
        tensors: Mapping[str, Tensor],
        moments: Mapping[str, MomentMap | IndexMap],
        factors: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, MomentMap | IndexMap]]:
        """`tensors` times `factors`, along their dimension or as a whole, with moment maps that follow."""
        times, maps = dict(tensors), dict(moments)
        for name, factor in factors.items():
            dim = self.parameters[name][0]
            times[name] = _times(times[name], factor, dim)
            maps[name] = _divided(maps[name], factor, times[name].shape[dim])
        return times, maps

    def factors(self, before: int, after: int) -> Mapping[str, Tensor]:
        """What parameters are multiplied with when the number of states changes."""
        return {} if self.scaling is None or before == after else self.scaling(before, after)

    def row_norms(self, values: Mapping[str, Tensor], d_state: int) -> tuple[Tensor, Tensor]:
        if not self.stacked:
            return super().row_norms(values, d_state)
        groups = len(values[next(iter(self.stacked))])
        inner = Layout({name: (dim - 1, parts) for name, (dim, parts) in self.parameters.items()})
        found = [inner.row_norms({name: values[name][g] for name in self.parameters}, d_state) for g in range(groups)]
        return torch.cat([B for B, _ in found]), torch.cat([C for _, C in found])


def with_states(layout: Layout, values: Mapping[str, Tensor], before: int, after: int) -> dict[str, Tensor]:
    """The parameters for another number of states, on their device.

    More states are rows of zeros, which change nothing in what the layer computes. Of fewer states the first ones are
    kept: to be used for shapes.
    """
    tensors = {}
    for name, (dim, parts) in layout.parameters.items():
        pieces, start = [], 0
        for part in parts:
            count, size = (1, part.size) if isinstance(part, Fixed) else (part.groups, before)
            for _ in range(count):
                piece = values[name].detach().narrow(dim, start, size)
                pieces.append(piece if isinstance(part, Fixed) else _fitted(piece, dim, after))
                start += size
        tensors[name] = torch.cat(pieces, dim)
    for name, factor in layout.factors(before, after).items() if isinstance(layout, MixerLayout) else ():
        tensors[name] = _times(tensors[name], factor, layout.parameters[name][0])
    return tensors


def _fitted(piece: Tensor, dim: int, size: int) -> Tensor:
    missing = list(piece.shape)
    missing[dim] = max(0, size - piece.shape[dim])
    return torch.cat([piece.narrow(dim, 0, min(size, piece.shape[dim])), piece.new_zeros(missing)], dim)


def _changed_slices(
    name: str, value: Tensor, dim: int, parts: tuple[Fixed | States, ...], change: StateChange
) -> tuple[Tensor, MomentMap | IndexMap]:
    """Every slice by the change of its own group."""
    tensors: list[Tensor] = []
    maps: list[MomentMap | IndexMap] = []
    for group, part_of_value in enumerate(value):
        tensor, moment = Layout({name: (dim - 1, parts)}).changed({name: part_of_value}, _of_group(change, group))
        tensors.append(tensor[name])
        maps.append(moment[name])
    if all(isinstance(m, IndexMap) for m in maps):
        return torch.stack(tensors), IndexMap((name,), torch.stack([m.index for m in maps]), dim)  # type: ignore[union-attr]
    return torch.stack(tensors), MomentMap.of((name,), torch.stack([m.first for m in maps]), dim)  # type: ignore[union-attr]


def _of_group(change: StateChange, group: int) -> StateChange:
    own = slice(group, group + 1)
    tensors: dict[str, Any] = {key: value[own] for key, value in vars(change).items() if isinstance(value, Tensor)}
    return replace(change, **tensors)


def _times(value: Tensor, factor: Tensor, dim: int) -> Tensor:
    factor = factor.to(value.device, torch.float64)
    return (value.double() * factor.view(-1, *[1] * (value.ndim - 1 - dim))).to(value.dtype)


def _divided(moment: MomentMap | IndexMap, factor: Tensor, size: int) -> MomentMap | IndexMap:
    """The map of gradients with respect to what is now `factor` times as large."""
    inverse = factor.double().reciprocal().expand(size)
    if isinstance(moment, IndexMap):
        return replace(moment, scale=inverse if moment.scale is None else moment.scale * inverse)
    return MomentMap.of(moment.sources, inverse[:, None] * moment.first, moment.dim)
