"""Every measure of single states is its formula, written out on a tiny layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gramian.errors import GramianError
from gramian.layers.calibration import Evidence
from gramian.layers.selective import samples
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.measures import (
    ContributionEnergy,
    EmpiricalBalance,
    Fisher,
    Magnitude,
    MeanDynamics,
    Measure,
    RandomOrder,
    Taylor,
)
from gramian.layers.selective.ranking import Ranking
from gramian.layers.selective.signals import Signals
from selective_zoo import (
    effects_by_hand,
    evidence_of,
    make_grouped,
    make_layer,
    make_mamba,
    sequences,
    states_by_hand,
    without_states,
)

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])
X = sequences(8, 20)
SEEN = X[:6]  # what `evidence_of` computes from


def scores_of(measure: Measure, layer: SelectiveLayer, gradients: Tensor | None = None) -> Tensor:
    """The amplitude of every state of a layer with one group, ``(1, N)``, read off the ranking."""
    ranking = measure.ranking(layer, evidence_of(X, gradients), 0)
    assert ranking.order is not None
    assert ranking.order.shape == (layer.signals(X).groups, layer.d_state)
    scores = torch.empty_like(ranking.order, dtype=torch.float64)
    return scores.scatter_(1, ranking.order, ranking.values.expand_as(scores))


def ranked(scores: Tensor) -> Ranking:
    """What the ranking of amplitudes must be."""
    values, order = scores.sort(descending=True)
    return Ranking(values.sum(0), order)


def assert_ranks(measure: Measure, layer: SelectiveLayer, scores: Tensor, gradients: Tensor | None = None) -> None:
    found, expected = measure.ranking(layer, evidence_of(X, gradients), 0), ranked(scores)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=1e-12)
    assert torch.equal(found.order, expected.order)


@BOTH
def test_energy_is_the_mean_square_of_what_deleting_the_state_takes_from_the_output(kind: str) -> None:
    layer = make_layer(kind)
    for n in range(layer.d_state if kind == "mamba" else 0):
        taken = layer(SEEN) - functional_call(layer, without_states(layer, [n]), SEEN)
        energy = float(taken.detach().square().sum(-1).mean()) ** 0.5
        assert float(scores_of(ContributionEnergy(), layer)[0, n]) == pytest.approx(energy, rel=1e-9)
    e = effects_by_hand(layer.signals(SEEN))
    assert_ranks(ContributionEnergy(), layer, e.square().sum(-2).mean((0, 1)).sqrt())


def masked_output(layer: SelectiveLayer, x: Tensor, mask: Tensor) -> Tensor:
    """The output when every contribution ``e_n`` at every step is multiplied with ``mask (batch, L, groups, N)``."""
    e = effects_by_hand(layer.signals(x))
    return layer(x).detach() + torch.einsum("blgdn,blgn->bld", e, mask - 1)


@BOTH
def test_taylor_and_fisher_are_derivatives_by_a_mask_on_the_contributions(kind: str) -> None:
    layer, target = make_layer(kind), sequences(8, 20, seed=1)
    y = layer(X).detach().requires_grad_()
    (gradients,) = torch.autograd.grad((y - target).pow(3).sum(), y)
    mask = torch.ones(6, 20, layer.signals(SEEN).groups, layer.d_state, dtype=torch.float64, requires_grad=True)
    loss = (masked_output(layer, SEEN, mask) - target[:6]).pow(3).sum()
    (slopes,) = torch.autograd.grad(loss, mask)  # <dL/dy_t, e_n>
    assert_ranks(Taylor(), layer, slopes.abs().mean((0, 1)), gradients)
    assert_ranks(Fisher(), layer, slopes.square().mean((0, 1)).sqrt(), gradients)


@pytest.mark.parametrize("measure", [Taylor(), Fisher()])
def test_measures_of_the_loss_are_comparable_and_need_gradients(measure: Measure) -> None:
    assert measure.needs_gradient
    assert measure.comparable
    with pytest.raises(GramianError, match=f"'{measure.name}' needs gradients, and none were kept"):
        measure.ranking(make_mamba(), evidence_of(X), 0)


def future_by_hand(s: Signals) -> Tensor:
    """The mean over sequences and steps of the energy that a state of one at step t adds to the outputs from t on."""
    batch, L, groups, _ = s.u.shape
    total = torch.zeros_like(s.A)
    for b in range(batch):
        for t in range(L):
            state = torch.ones_like(s.A)
            for k in range(t, L):
                if k > t:
                    state = state * torch.exp(s.dt[b, k, :, :, None] * s.A)
                for g in range(groups):  # the output is linear in the state of each channel
                    out = s.readout[:, g, :, None] * (s.gate[b, k, g, :, None] * state[g] * s.C[b, k, g])
                    total[g] += out.square().sum(0)
    return total / (batch * L)


@BOTH
def test_the_empirical_measure_is_the_energy_of_past_and_future_of_each_channel(kind: str) -> None:
    layer = make_layer(kind)
    s = layer.signals(SEEN)
    P = states_by_hand(s).square().mean((0, 1))
    assert_ranks(EmpiricalBalance(), layer, (P * future_by_hand(s)).sqrt().sum(1))


def constant_signals(layer: SelectiveLayer) -> Signals:
    """Signals that are the same at all steps and in all sequences: a time-invariant layer."""
    s = layer.signals(X)
    return replace(s, **{name: getattr(s, name)[:1, :1].expand_as(getattr(s, name)) for name in ("dt", "B", "C")})


class Frozen:
    """Stands for a layer whose dynamics do not depend on its input."""

    def __init__(self, layer: SelectiveLayer) -> None:
        self.whole, self.projection_norms = constant_signals(layer), layer.projection_norms

    def signals(self, x: Tensor) -> Signals:
        s = self.whole
        return replace(s, **{k: getattr(s, k)[: len(x)] for k in ("u", "dt", "B", "C", "gate")})


@BOTH
def test_mean_dynamics_of_a_time_invariant_layer_are_its_balanced_directions(kind: str) -> None:
    layer = Frozen(make_layer(kind))
    s = layer.whole
    scores = torch.zeros(s.groups, s.d_state, dtype=torch.float64)
    for g in range(s.groups):
        for p in range(s.A.shape[1]):
            a, b = torch.exp(s.dt[0, 0, g, p] * s.A[g, p]), s.dt[0, 0, g, p] * s.B[0, 0, g]
            P, Q = (torch.outer(v, v) / (1 - torch.outer(a, a)) for v in (b, s.C[0, 0, g]))
            squares, T = torch.linalg.eig(P @ Q)  # P Q = T diag(sigma^2) T^-1
            sigma, T = squares.real.clamp(min=0).sqrt(), T.real
            scores[g] += ((T * torch.linalg.inv(T).mT).abs() * sigma).sum(1) / s.A.shape[1]
    found = MeanDynamics().ranking(layer, evidence_of(X), 0)
    torch.testing.assert_close(found.values, ranked(scores).values, rtol=1e-4, atol=1e-9)
    assert torch.equal(found.order, ranked(scores).order)


def test_mean_dynamics_average_over_all_steps_alike() -> None:
    layer = make_grouped(d_state=1)
    s = layer.signals(SEEN)
    decay = torch.exp(s.dt[..., None] * s.A).mean((0, 1))
    driven = (s.dt[..., None] * s.B[:, :, :, None]).mean((0, 1))
    read = s.C.mean((0, 1))[:, None]
    hsv = (driven * read).abs() / (1 - decay.square())  # of one state
    assert_ranks(MeanDynamics(), layer, hsv.mean(1))


def test_a_layer_needs_the_same_when_it_is_seen_as_two_groups_of_twins() -> None:
    """Comparable scores say what a cut costs the loss: of two groups, twice what it costs in one."""
    one, x = make_grouped(groups=1, channels=3), X
    s = one.signals(x)
    twice = {k: torch.cat([getattr(s, k)] * 2, 2) for k in ("u", "dt", "B", "C", "gate")}
    both = replace(s, **twice, A=torch.cat([s.A] * 2), readout=torch.cat([s.readout] * 2, 1))

    class Twins:
        projection_norms = one.projection_norms

        def signals(self, given: Tensor) -> Signals:
            return replace(both, **{k: v[: len(given)] for k, v in twice.items()})

    gradients = sequences(8, 20, seed=1)
    single, double = (Taylor().ranking(m, evidence_of(X, gradients), 0) for m in (one, Twins()))
    torch.testing.assert_close(double.values, 2 * single.values)
    assert double.order.tolist() == single.order.tolist() * 2


@BOTH
def test_magnitude_is_what_the_rows_of_the_projections_are_long(kind: str) -> None:
    layer = make_layer(kind)
    if kind == "mamba":
        B, C = layer.x_proj.weight.detach()[layer.dt_rank :].unflatten(0, (2, 1, -1)).square().sum(-1).sqrt()
    else:
        B, C = (w.detach().unflatten(0, (2, -1)).square().sum(-1).sqrt() for w in (layer.B.weight, layer.C.weight))
    assert_ranks(Magnitude(), layer, B * C)


@BOTH
def test_a_random_order_depends_on_its_seed_alone(kind: str) -> None:
    before = torch.get_rng_state()
    one, two, other = (
        RandomOrder(seed).ranking(make_layer(kind, layer), evidence_of(X), calibration).order.tolist()
        for seed, layer, calibration in ((1, 0, 0), (1, 5, 5), (2, 0, 0))
    )
    assert one == two != other
    assert all(sorted(row) == list(range(len(row))) for row in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_random_order_prefers_no_state() -> None:
    layer = make_mamba(d_state=4)
    first = [int(RandomOrder(seed).ranking(layer, evidence_of(X), 0).order[0, 0]) for seed in range(400)]
    counts = torch.bincount(torch.tensor(first), minlength=4)
    assert (counts - 100).abs().max() < 5 * 100**0.5


@pytest.mark.parametrize(
    "measure", [ContributionEnergy(), Taylor(), Fisher(), EmpiricalBalance(), MeanDynamics()], ids=lambda m: m.name
)
def test_a_state_that_nothing_reads_is_worth_nothing(measure: Measure) -> None:
    layer = make_mamba()
    layer.load_state_dict(without_states(layer, [2]))
    ranking = measure.ranking(layer, evidence_of(X, sequences(8, 20, seed=1)), 0)
    assert int(ranking.order[0, -1]) == 2
    assert float(ranking.values[-1]) <= 1e-9 * float(ranking.values[0])


@pytest.mark.parametrize("measure", [ContributionEnergy(), EmpiricalBalance(), MeanDynamics(), Taylor()])
def test_how_sequences_are_put_in_batches_makes_no_difference(
    measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, slopes = make_mamba(), list(sequences(7, 20, seed=1))
    found = []
    for size in (7, 3, 1):
        monkeypatch.setattr(samples, "_BATCH", size)
        found.append(measure.ranking(layer, Evidence(list(X[:7]), [], slopes), 0).values)
    for values in found[1:]:
        torch.testing.assert_close(values, found[0], rtol=1e-9, atol=1e-12)
