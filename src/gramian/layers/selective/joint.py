"""Measures that look at all states together: what the others can take over when one is dropped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.layers.selective.equations import principal, readout_equations, unknowns
from gramian.layers.selective.ranking import Measure, Observed, Ranking
from gramian.layers.selective.samples import Sample, samples
from gramian.layers.selective.signals import contributions
from gramian.systems.gramians import square_root
from gramian.systems.regression import eliminate_blocks

if TYPE_CHECKING:
    from gramian.layers.calibration import Evidence

__all__ = ["Balanced", "Regression"]

_NUMERICAL_ZERO = 1e-13  # of the largest singular value: directions below it are rounding noise


@dataclass(frozen=True)
class Regression(Measure):
    """How much the output's regression on the states loses with a state, when all others take over what they can.

    States are dropped one by one, always the one whose removal raises the least-squares error of
    ``y ~ sum_m M_t[:, m] (G^T C_t)[m]`` least. The value of a state is ``sqrt(E_k-1 - E_k)``, so that the relative
    error with k states is predicted to be ``sqrt(sum of the squares of all values after the k-th)``. The choice is
    made for the mixing that follows it; without mixing it is a poor one.
    """

    name = "regression"

    def ranking(self, layer: Observed, evidence: Evidence, seed: int) -> Ranking:
        seen = list(samples(layer.signals, evidence.inputs, seed=seed, sketch=True))
        states = seen[0].signals.d_state
        basis = principal(lambda: seen, "C", max(1, unknowns(lambda: seen) // states))
        orders, values = [], []
        for equations in readout_equations(lambda: seen, lambda s: s, basis):
            found = eliminate_blocks(equations, states)
            relative = found.errors / max(equations.energy, torch.finfo(torch.float64).tiny)
            orders.append(found.order)
            values.append((relative[:-1] - relative[1:]).clamp(min=0).sqrt())
        return Ranking(torch.stack(values).mean(0).sort(descending=True).values, torch.stack(orders))


@dataclass(frozen=True)
class Balanced(Measure):
    """The balanced directions of a matrix-valued state whose columns are all forgotten alike.

    With ``P = E M_t^T M_t``, the energy of what the states put out, and ``Q = E C_t C_t^T``, factors ``P = L_P L_P^T``
    and ``Q = L_Q L_Q^T``, and ``L_Q^T L_P = U s V^T``: ``B' = W^T B`` and ``C' = T^T C`` with
    ``W = L_Q U s^(-1/2)``, ``T = L_P V s^(-1/2)``. Where M and C are uncorrelated no projection to k directions loses
    less of the output, and what it loses is ``sqrt(sum of s_j^2, j > k)``; values are ``s / sqrt(E ||y||^2)``.
    Directions without a singular value are zero in W and T.
    """

    name = "balanced"

    def ranking(self, layer: Observed, evidence: Evidence, seed: int) -> Ranking:
        P, Q, energy = _second_moments(samples(layer.signals, evidence.inputs, seed=seed, sketch=True))
        L_P, L_Q = square_root(P), square_root(Q)
        U, s, Vh = torch.linalg.svd(L_Q.mT @ L_P)
        scale = torch.where(s > _NUMERICAL_ZERO * s[:, :1], s, torch.inf).rsqrt()[:, None, :]
        values = s / energy.clamp(min=torch.finfo(torch.float64).tiny).sqrt()[:, None]
        return Ranking(values.mean(0), None, (L_Q @ U * scale).mT, (L_P @ Vh.mT * scale).mT)


def _second_moments(seen: Iterable[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """``E M^T M``, ``E C C^T`` and ``E ||y||^2`` of each group, in float64."""
    P, Q, energy, count = [], [], [], 0
    for sample in seen:
        for p in contributions(sample.signals, sample.steps):
            M, C = p.M.double().cpu(), p.C.double().cpu()
            P.append(torch.einsum("sgdn,sgdm->gnm", M, M))
            Q.append(torch.einsum("sgn,sgm->gnm", C, C))
            energy.append(torch.einsum("sgdn,sgn->sgd", M, C).square().sum((0, 2)))
            count += len(C)
    return sum(P[1:], P[0]) / count, sum(Q[1:], Q[0]) / count, sum(energy[1:], energy[0]) / count
