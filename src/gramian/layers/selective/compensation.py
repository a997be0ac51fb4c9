"""What the kept states of a selective layer take over from the dropped ones, in closed form.

First G, then F for that G, then G again for the states that F makes; each the least-squares solution for the layer's
output on the calibration data, with a ridge towards what was there before that is chosen on held-out data: a step that
does not lower the held-out error is left out.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gramian.layers.selective.equations import Samples, principal, readout_equations, unknowns, write_equations
from gramian.layers.selective.layout import StateChange
from gramian.layers.selective.signals import Signals
from gramian.systems.regression import NormalEquations

__all__ = ["compensated"]

_WRITE = 0.5  # of the unknowns for C are there for B: each is a state of its own while F is fitted


def compensated(change: StateChange, fit: Samples, judge: Samples) -> StateChange:
    """`change`, a selection or a projection, with the mixing of B and C that loses least of the output.

    Parameters
    ----------
    fit, judge
        Samples to fit on, and held-out samples to choose ridges on.
    """
    most = unknowns(fit) // change.rank
    C_basis = principal(fit, "C", max(1, most))
    B_basis = principal(fit, "B", max(1, int(_WRITE * most)))
    to_B, to_C = change.matrices("B"), change.matrices("C")  # (groups, r, N)
    to_C = _read(change, fit, judge, C_basis, to_C, to_B)
    to_B = _write(change, fit, judge, B_basis, to_B, to_C)
    to_C = _read(change, fit, judge, C_basis, to_C, to_B)
    return replace(change, to_B=to_B, to_C=to_C)


def _read(change: StateChange, fit: Samples, judge: Samples, basis: Tensor, towards: Tensor, to_B: Tensor) -> Tensor:
    """C's mixing for states that are written with `to_B`."""

    def keep(s: Signals) -> Signals:
        return _kept(s, change, to_B)

    return _solved(readout_equations(fit, keep, basis), readout_equations(judge, keep, basis), basis, towards)


def _write(change: StateChange, fit: Samples, judge: Samples, basis: Tensor, towards: Tensor, to_C: Tensor) -> Tensor:
    """B's mixing for states that are read with `to_C`."""

    def keep(s: Signals) -> Signals:
        return _kept(s, change, towards)

    def readout(s: Signals) -> Tensor:
        return _mixed(s.C, to_C)

    return _solved(
        write_equations(fit, keep, readout, basis), write_equations(judge, keep, readout, basis), basis, towards
    )


def _kept(s: Signals, change: StateChange, to_B: Tensor) -> Signals:
    """The signals of the kept states."""
    if change.index is None:  # all states of a channel have the same A
        A = s.A[..., : change.rank]
    else:
        A = s.A.gather(-1, change.index.to(s.A.device)[:, None].expand(-1, s.A.shape[1], -1))
    return s.with_states(A, _mixed(s.B, to_B), s.C)


def _mixed(x: Tensor, matrices: Tensor) -> Tensor:
    return torch.einsum("blgn,grn->blgr", x, matrices.to(x.device, x.dtype))


def _solved(fit: list[NormalEquations], judge: list[NormalEquations], basis: Tensor, towards: Tensor) -> Tensor:
    """Mixing matrices ``(groups, r, N)`` from coefficients on the components of `basis`; what the components leave out
    of `towards` stays as it is."""
    mixed = []
    for equations, held_out, U, start in zip(fit, judge, basis, towards, strict=True):
        inside = start @ U  # (r, p)
        found = equations.best(held_out, inside.flatten()).view_as(inside)
        mixed.append(start + (found - inside) @ U.mT)
    return torch.stack(mixed)
