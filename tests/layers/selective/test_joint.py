"""Measures of all states together: what a regression on the others cannot make up for, and balanced directions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gramian.layers.selective import joint
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.measures import Balanced, Regression
from gramian.layers.selective.signals import Signals
from selective_zoo import effects_by_hand, evidence_of, make_grouped, make_layer, make_mamba, sequences, states_by_hand

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])
X = sequences(8, 20)
SEEN = X[:6]  # what `evidence_of` computes from


def regression_error(s: Signals, group: int, kept: list[int]) -> float:
    """The relative least-squares error of the output of a group on ``M_t[:, kept]`` times all of C."""
    y = effects_by_hand(s)[:, :, group].sum(-1).flatten()
    M = torch.einsum("dp,blp,blpn->bldn", s.readout[:, group], s.gate[:, :, group], states_by_hand(s)[:, :, group])
    features = torch.einsum("bldn,blm->bldnm", M[..., kept], s.C[:, :, group]).flatten(3).flatten(0, 2)
    beta = torch.linalg.lstsq(features, y[:, None], driver="gelsd").solution[:, 0]
    return float((y - features @ beta).square().sum() / y.square().sum())


@BOTH
def test_regression_drops_the_state_that_the_others_replace_best(kind: str) -> None:
    layer = make_layer(kind)
    s, ranking = layer.signals(SEEN), Regression().ranking(layer, evidence_of(X), 0)
    for g in range(s.groups):
        order = ranking.order[g].tolist()
        assert sorted(order) == list(range(s.d_state))
        kept = list(order)
        for _ in range(s.d_state - 1):
            errors = {n: regression_error(s, g, [m for m in kept if m != n]) for n in kept}
            assert errors[kept.pop()] <= min(errors.values()) * 1.001 + 1e-9


def test_values_of_the_regression_predict_the_relative_error_with_fewer_states() -> None:
    layer = make_mamba()
    s, ranking = layer.signals(SEEN), Regression().ranking(layer, evidence_of(X), 0)
    squares = ranking.values.square()
    assert (ranking.values.diff() <= 0).all()
    assert float(squares.sum()) == pytest.approx(1, rel=1e-4)  # with no state all is lost
    order = ranking.order[0].tolist()
    for k in range(1, 6):
        assert float(squares[k:].sum()) == pytest.approx(regression_error(s, 0, order[:k]), rel=0.05, abs=1e-6)


def test_a_state_that_repeats_another_is_worth_nothing_to_the_regression_and_much_alone() -> None:
    layer = make_mamba()
    with torch.no_grad():
        layer.A_log[:, 4] = layer.A_log[:, 1]
        B = layer.x_proj.weight[layer.dt_rank : layer.dt_rank + 6]
        B[4] = 3 * B[1]
    ranking = Regression().ranking(layer, evidence_of(X), 0)
    assert int(ranking.order[0, -1]) in (1, 4)
    assert float(ranking.values[-1]) < 1e-3 * float(ranking.values[0])
    assert int(ranking.order[0, 0]) in (1, 4)


def test_with_few_components_of_C_the_order_is_still_one_of_all_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint, "unknowns", lambda _: 12)
    ranking = Regression().ranking(make_mamba(), evidence_of(X), 0)
    assert sorted(ranking.order[0].tolist()) == list(range(6))
    assert float(ranking.values.square().sum()) <= 1 + 1e-6


WIDE = sequences(8, 20, 8)


class Matrix:
    """Stands for a layer whose states are all forgotten at one rate: a matrix ``S_t`` that C reads."""

    def __init__(self, layer: SelectiveLayer) -> None:
        self.layer, self.projection_norms = layer, layer.projection_norms

    def signals(self, x: Tensor) -> Signals:
        s = self.layer.signals(x)
        return replace(s, A=s.A[..., :1].expand_as(s.A))


def second_moments(s: Signals, group: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """M ``(samples, d_out, N)`` and C ``(samples, N)``, and what is expected of their squares."""
    h = states_by_hand(s)[:, :, group]
    M = torch.einsum("dp,blp,blpn->bldn", s.readout[:, group], s.gate[:, :, group], h).flatten(0, 1)
    C = s.C[:, :, group].flatten(0, 1)
    return M, C, torch.einsum("sdn,sdm->nm", M, M) / len(M), C.mT @ C / len(C)


@pytest.mark.parametrize("layer", [make_mamba(8), make_grouped(d_model=8)], ids=["mamba", "grouped"])
def test_balanced_directions_diagonalise_both_second_moments(layer: SelectiveLayer) -> None:
    matrix = Matrix(layer)
    s, ranking = matrix.signals(WIDE[:6]), Balanced().ranking(matrix, evidence_of(WIDE), 0)
    relative = []
    for g in range(s.groups):
        M, C, P, Q = second_moments(s, g)
        W, T = ranking.to_B[g].mT, ranking.to_C[g].mT
        sigma = torch.linalg.eigvals(P @ Q).real.sort(descending=True).values.sqrt()
        torch.testing.assert_close(W.mT @ T, torch.eye(s.d_state, dtype=torch.float64), rtol=1e-6, atol=1e-6)
        # B' = W^T B makes columns M W of states, C' = T^T C reads them
        torch.testing.assert_close(W.mT @ P @ W, sigma.diag(), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(T.mT @ Q @ T, sigma.diag(), rtol=1e-6, atol=1e-9)
        relative.append(sigma / torch.einsum("sdn,sn->sd", M, C).square().sum(-1).mean().sqrt())
    torch.testing.assert_close(ranking.values, torch.stack(relative).mean(0), rtol=1e-6, atol=1e-9)


def test_balanced_truncation_loses_what_the_tail_says_where_states_and_readouts_are_uncorrelated() -> None:
    matrix = Matrix(make_mamba())
    ranking = Balanced().ranking(matrix, evidence_of(X), 0)
    M, C, *_ = second_moments(matrix.signals(SEEN), 0)
    energy = torch.einsum("sdn,sn->sd", M, C).square().sum(-1).mean()
    for k in range(1, 6):
        lost = torch.eye(6, dtype=torch.float64) - ranking.to_B[0, :k].mT @ ranking.to_C[0, :k]
        error = torch.einsum("sdn,nm,tm->std", M, lost, C).square().sum(-1).mean()  # every M with every C
        tail = float(ranking.values[k:].square().sum().sqrt())
        assert float((error / energy).sqrt()) == pytest.approx(tail, rel=1e-6)


def test_directions_that_carry_nothing_are_zero_and_the_others_are_not_disturbed() -> None:
    matrix = Matrix(make_grouped())  # five states that are driven by four inputs
    ranking = Balanced().ranking(matrix, evidence_of(X), 0)
    assert float(ranking.values[4]) < 1e-7 * float(ranking.values[0])
    for to_B, to_C in zip(ranking.to_B, ranking.to_C, strict=True):
        assert not to_B[4].any()
        assert not to_C[4].any()
        torch.testing.assert_close(to_B[:4] @ to_C[:4].mT, torch.eye(4, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_a_layer_that_puts_out_nothing_has_no_directions_and_no_values() -> None:
    layer = make_mamba()
    torch.nn.init.zeros_(layer.out_proj.weight)
    for measure in (Balanced(), Regression()):
        ranking = measure.ranking(Matrix(layer), evidence_of(X), 0)
        assert torch.equal(ranking.values, torch.zeros(6, dtype=torch.float64))
    assert sorted(ranking.order[0].tolist()) == list(range(6))
