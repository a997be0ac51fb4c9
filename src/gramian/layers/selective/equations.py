"""The normal equations by which kept states take over from dropped ones.

The layer's output is ``sum_n C_t[n] M_t[:, n]`` plus what does not pass through the states. With states K kept,
``C'_t = G^T C_t`` and ``B'_t = F B_t``, the output is linear in G for given states, and linear in F for given readouts.
C and B are seen in their principal components where there are too many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from gramian.layers.selective.samples import Sample
from gramian.layers.selective.signals import Signals, contributions
from gramian.systems.regression import NormalEquations

__all__ = ["paired", "principal", "readout_equations", "unknowns", "write_equations"]

Samples = Callable[[], Iterable[Sample]]

_TOKENS = 4  # of data for every unknown of a regression
_FEWEST, _MOST = 256, 1024  # unknowns: what little data is still asked for, and what more data no longer adds


def unknowns(seen: Samples) -> int:
    """How many coefficients a regression on these data may have: more data can say more, at a higher cost."""
    tokens = sum(sample.signals.u.shape[:2].numel() for sample in seen())
    return min(max(_FEWEST, tokens // _TOKENS), _MOST)


def principal(seen: Samples, what: str, most: int) -> Tensor:
    """An orthonormal basis of the `most` principal components of B or C, ``(groups, N, min(most, N))``, float64."""
    moment: Tensor | float = 0.0
    for sample in seen():
        x = getattr(sample.signals, what)[:, sample.steps].flatten(0, 1).double()  # (samples, groups, N)
        moment = moment + torch.einsum("sgi,sgj->gij", x, x)
    assert isinstance(moment, Tensor)
    if moment.shape[-1] <= most:
        return torch.eye(moment.shape[-1], dtype=torch.float64).expand_as(moment)
    return torch.linalg.eigh(moment.cpu()).eigenvectors[..., -most:]


def paired(kept: Signals, target: Tensor, steps: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """M and C of `kept` with the target at the same steps."""
    batch, done = len(kept.u), 0
    rows = target.unflatten(0, (batch, -1))
    for piece in contributions(kept, steps):
        count = len(piece.steps)
        yield piece.M, piece.C, rows[:, done : done + count].flatten(0, 1)
        done += count


def readout_equations(seen: Samples, keep: Callable[[Signals], Signals], basis: Tensor) -> list[NormalEquations]:
    """For each group: the output from the kept states times the components of C; features ``(kept state, component)``.

    Parameters
    ----------
    keep
        The signals with the states that are kept; their C is not used.
    basis
        Of C, ``(groups, N, p)``.
    """
    tally = _Tally(len(basis))
    for sample in seen():
        s = sample.signals
        components = torch.einsum("blgn,gnp->blgp", s.C, basis.to(s.C))
        kept = keep(s)
        for M, c, y in paired(kept.with_states(kept.A, kept.B, components), sample.target, sample.steps):
            for g in range(len(basis)):
                cross = (torch.einsum("sdr,sd->rs", M[:, g], y[:, g]) @ c[:, g]).flatten()
                tally.add(g, _products(M[:, g], c[:, g]), cross, y[:, g])
    return tally.equations()


def _products(M: Tensor, c: Tensor) -> Tensor:
    """``sum_s (M_s^T M_s) kron (c_s c_s^T)`` for M ``(samples, d_out, r)`` and c ``(samples, p)``."""
    (_, d, r), p = M.shape, c.shape[-1]
    if p * p <= d:  # then the products of all features are cheaper than those of both factors
        rows = (M[..., None] * c[:, None, None, :]).flatten(0, 1).flatten(1)
        return rows.mT @ rows
    inner = (M.mT @ M).flatten(1)  # (samples, r r)
    outer = (c[:, :, None] * c[:, None, :]).flatten(1)  # (samples, p p)
    return (inner.mT @ outer).view(r, r, p, p).permute(0, 2, 1, 3).reshape(r * p, r * p)


def write_equations(
    seen: Samples, keep: Callable[[Signals], Signals], readout: Callable[[Signals], Tensor], basis: Tensor
) -> list[NormalEquations]:
    """For each group: the output from states whose inputs are components of B; features ``(kept state, component)``.

    Parameters
    ----------
    keep
        The signals with the kept states; their B is not used.
    readout
        C of the kept states, ``(batch, L, groups, r)``.
    basis
        Of B, ``(groups, N, q)``.
    """
    tally = _Tally(len(basis))
    for sample in seen():
        s = sample.signals
        kept, c = keep(s), readout(s)
        components = torch.einsum("blgn,gnq->blgq", s.B, basis.to(s.B))
        alike = bool((kept.A[..., :1] == kept.A).all())
        driven = _driven(kept, components, c, alike)
        for M, c_at, y in paired(driven, sample.target, sample.steps):
            for g in range(len(basis)):
                products = _of_components if alike else _of_pairs
                tally.add(g, *products(M[:, g], c_at[:, g], y[:, g]), y[:, g])
    return tally.equations()


def _driven(kept: Signals, components: Tensor, c: Tensor, alike: bool) -> Signals:
    """Signals with a state for every pair: forgotten like a kept state, driven by a component of B.

    Where all kept states are forgotten alike, one for every component is enough.
    """
    q = components.shape[-1]
    if alike:
        return kept.with_states(kept.A[..., :1].expand(*kept.A.shape[:-1], q), components, c)
    A, driving = kept.A.repeat_interleave(q, -1), components.repeat(1, 1, 1, kept.d_state)
    return kept.with_states(A, driving, c.repeat_interleave(q, -1))


def _of_pairs(M: Tensor, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the features ``M[:, nm] c[nm]``, with each other and with the target."""
    rows = (M * c[:, None, :]).flatten(0, 1)
    return rows.mT @ rows, rows.mT @ y.flatten()


def _of_components(M: Tensor, c: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The same of ``M[:, m] c[n]``, in the order ``(n, m)``."""
    q, r = M.shape[-1], c.shape[-1]
    gram = _products(M, c).view(q, r, q, r).permute(1, 0, 3, 2).reshape(r * q, r * q)
    return gram, (c.mT @ torch.einsum("sdq,sd->sq", M, y)).flatten()


class _Tally:
    """Normal equations of several groups, summed in float64 over pieces of data."""

    def __init__(self, groups: int) -> None:
        self._sums: list[NormalEquations | None] = [None] * groups

    def add(self, group: int, gram: Tensor, cross: Tensor, target: Tensor) -> None:
        piece = NormalEquations(gram.double().cpu(), cross.double().cpu(), float(target.double().square().sum()))
        so_far = self._sums[group]
        self._sums[group] = piece if so_far is None else so_far + piece

    def equations(self) -> list[NormalEquations]:
        return [sums for sums in self._sums if sums is not None]
