"""Measures that look at each state alone.

Deleting state n changes the layer's output at step t by exactly ``e_n = C_t[n] M_t[:, n]`` (see
`gramian.layers.selective.signals`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.errors import GramianError
from gramian.layers.selective.ranking import Measure, Observed, Ranking
from gramian.layers.selective.samples import Sample, samples
from gramian.layers.selective.signals import Signals, contributions
from gramian.systems.linear_system import LinearSystem
from gramian.systems.projections import balanced

if TYPE_CHECKING:
    from gramian.layers.calibration import Evidence

__all__ = ["ContributionEnergy", "EmpiricalBalance", "Fisher", "Magnitude", "MeanDynamics", "RandomOrder", "Taylor"]


class _Scored(Measure):
    """A measure that looks at each state alone."""

    def ranking(self, layer: Observed, evidence: Evidence, seed: int) -> Ranking:
        seen = samples(layer.signals, evidence.inputs, evidence.gradients, seed=seed)
        return Ranking.of_scores(self.scores(layer, seen))

    @abstractmethod
    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        """Amplitudes ``(groups, N)``."""


@dataclass(frozen=True)
class ContributionEnergy(_Scored):
    """``sqrt(E ||e_n||^2)``: what deleting the state does to the layer's output, exactly, one state at a time."""

    name = "energy"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        pieces = (p for s in seen for p in contributions(s.signals, s.steps))
        return _mean(p.M.square().sum(-2) * p.C.square() for p in pieces).sqrt()


class _Gradient(_Scored):
    """A measure of what deleting a state does to the loss, to first order: ``<dL/dy_t, e_n>``."""

    needs_gradient = True
    comparable = True

    def effects(self, seen: Iterable[Sample]) -> Iterable[Tensor]:
        """``<dL/dy_t, e_n>``, ``(samples, groups, N)``, a piece at a time."""
        for sample in seen:
            if sample.gradient is None:
                raise GramianError(f"the measure '{self.name}' needs gradients, and none were kept.")
            batch, done = len(sample.signals.u), 0
            rows = sample.gradient.unflatten(0, (batch, -1))
            for p in contributions(sample.signals, sample.steps):
                g = rows[:, done : done + len(p.steps)].flatten(0, 1)
                done += len(p.steps)
                yield torch.einsum("sd,sgdn->sgn", g.to(p.M.dtype), p.M) * p.C


@dataclass(frozen=True)
class Taylor(_Gradient):
    """``E |<dL/dy, e_n>|``: the first-order change of the loss when the state is deleted."""

    name = "taylor"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        return _mean(effect.abs() for effect in self.effects(seen))


@dataclass(frozen=True)
class Fisher(_Gradient):
    """``sqrt(E <dL/dy, e_n>^2)``: the same to second order, with the empirical Fisher information as curvature."""

    name = "fisher"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        return _mean(effect.square() for effect in self.effects(seen)).sqrt()


@dataclass(frozen=True)
class EmpiricalBalance(_Scored):
    """Sum over channels of ``sqrt(P Q)``: P the mean energy of the state, Q that of its future in the output.

    ``P = E h^2`` and ``Q = E sum_k (C_{t+k} a_{t+1} ... a_{t+k})^2``, the diagonals of empirical Gramians, each channel
    weighted with its gate and its way out of the layer.
    """

    name = "empirical"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        P, Q, weights = [], [], []
        for sample in seen:
            P.append(_mean(p.h.square() for p in contributions(sample.signals, sample.steps)))
            Q.append(_future_energy(sample.signals))
            weights.append(sample.signals.u.shape[:2].numel())
        return (_averaged(P, weights) * _averaged(Q, weights)).sqrt().sum(1)


def _future_energy(signals: Signals) -> Tensor:
    """``(groups, P, N)``: mean over time of what a unit state adds to the squared outputs from then on."""
    s = signals.float()
    weight = (s.gate * s.readout.square().sum(0).sqrt()).square()  # (batch, L, groups, P)
    ahead = s.u.new_zeros(len(s.u), *s.A.shape)
    total = torch.zeros_like(ahead)
    for t in reversed(range(s.u.shape[1])):
        ahead = ahead + s.C[:, t, :, None, :].square() * weight[:, t, :, :, None]
        total += ahead
        ahead = ahead * s.decay(t).square()
    return total.mean(0) / s.u.shape[1]


@dataclass(frozen=True)
class MeanDynamics(_Scored):
    """Hankel singular values of the layer's mean dynamics: the route of the CompreSSM paper for Mamba.

    ``exp(dt A)``, ``dt B`` and C are averaged over data, which makes each channel a time-invariant system of order N
    with one input and one output. A state's amplitude is the mean over channels of
    ``sum_k sigma_k |V_nk W_nk|``, its participation in the balanced directions weighted with their singular values.
    """

    name = "mean-dynamics"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        scores = []
        for A, B, C in zip(*_mean_dynamics(seen), strict=True):
            log_poles = A.clamp(min=1e-30, max=1 - 1e-9).log()
            D = A.new_zeros(len(A), 1, 1)
            system = LinearSystem(
                log_poles.exp(), B[..., None], C.expand_as(B)[:, None], D, log_poles.to(torch.complex128)
            )
            projection = balanced(system, system.order)
            assert projection.hsv is not None
            sigma = projection.hsv[:, None, : projection.rank]
            scores.append((sigma * (projection.V * projection.W).abs()).sum(-1).mean(0))
        return torch.stack(scores)


def _mean_dynamics(seen: Iterable[Sample]) -> tuple[Tensor, Tensor, Tensor]:
    """Means of what the states keep and of ``gain B``, ``(groups, P, N)``, and of C, ``(groups, N)``, in float64."""
    A, B, C, weights = [], [], [], []
    for sample in seen:
        s, at = sample.signals.float(), sample.steps
        weights.append(s.u.shape[:2].numel())
        dt = s.dt[:, at].flatten(0, 1)
        A.append(_mean(s.decay(int(t)) for t in at))
        gain = dt if s.gain is None else s.gain[:, at].flatten(0, 1)
        B.append(torch.einsum("sgp,sgn->gpn", gain, s.B[:, at].flatten(0, 1)) / len(dt))
        C.append(s.C[:, at].flatten(0, 1).mean(0))
    return _averaged(A, weights), _averaged(B, weights), _averaged(C, weights)


@dataclass(frozen=True)
class Magnitude(_Scored):
    """``|W_B[n]| |W_C[n]|``: what the parameters alone say."""

    name = "magnitude"

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        B, C = layer.projection_norms()
        return B * C


@dataclass(frozen=True)
class RandomOrder(_Scored):
    """A random order: the baseline that knows nothing."""

    name = "random"
    seed: int = 0

    def scores(self, layer: Observed, seen: Iterable[Sample]) -> Tensor:
        B, _ = layer.projection_norms()
        return torch.rand(B.shape, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)


def _mean(pieces: Iterable[Tensor]) -> Tensor:
    """The mean over the first dimension of all pieces together, in float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for piece in pieces:
        total = total + piece.sum(0).double().cpu()
        count += len(piece)
    return total / max(1, count)


def _averaged(means: list[Tensor], weights: list[int]) -> Tensor:
    """The mean over all data from means over so much of it each, in float64."""
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return torch.einsum("k,k...->...", shares, torch.stack([mean.double().cpu() for mean in means]))
