"""Normal equations are the data they came from, and elimination is what refitting without each block would say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gramian.errors import GramianError
from gramian.systems.regression import RIDGES, NormalEquations, eliminate_blocks

SEEDS = st.integers(0, 10**6)
NO_RIDGE = 1e-14


def data(samples: int, features: int, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated features and a target that they explain in part."""
    g = torch.Generator().manual_seed(seed)
    Phi = torch.randn(samples, features, generator=g, dtype=torch.float64)
    Phi = Phi + 0.7 * Phi.roll(1, 1) + 0.4 * torch.randn(samples, 1, generator=g, dtype=torch.float64)
    y = Phi @ torch.randn(features, generator=g, dtype=torch.float64)
    return Phi, y + 0.5 * torch.randn(samples, generator=g, dtype=torch.float64)


def equations(Phi: Tensor, y: Tensor) -> NormalEquations:
    return NormalEquations(Phi.mT @ Phi, Phi.mT @ y, float(y @ y))


def least_squares(Phi: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """The solution and its error, from the data themselves."""
    if Phi.shape[1] == 0:
        return y.new_zeros(0), float(y @ y)
    beta = torch.linalg.lstsq(Phi, y[:, None], driver="gelsd").solution[:, 0]
    return beta, float((y - Phi @ beta).square().sum())


@given(seed=SEEDS, features=st.integers(1, 8))
def test_the_error_of_any_coefficients_is_that_on_the_data(seed: int, features: int) -> None:
    Phi, y = data(30, features, seed)
    beta = torch.randn(features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert equations(Phi, y).error(beta) == pytest.approx(float((y - Phi @ beta).square().sum()), rel=1e-10, abs=1e-10)


@given(seed=SEEDS, features=st.integers(1, 8))
def test_without_a_ridge_the_solution_is_least_squares_whatever_it_starts_from(seed: int, features: int) -> None:
    Phi, y = data(30, features, seed)
    expected, error = least_squares(Phi, y)
    for towards in (torch.zeros(features, dtype=torch.float64), expected * 3 + 1):
        beta = equations(Phi, y).solve(NO_RIDGE, towards)
        torch.testing.assert_close(beta, expected, rtol=1e-8, atol=1e-8)
        assert equations(Phi, y).error(beta) == pytest.approx(error, rel=1e-8, abs=1e-10)


@given(seed=SEEDS, ridge=st.sampled_from(RIDGES))
def test_a_ridge_penalises_the_distance_from_where_it_starts(seed: int, ridge: float) -> None:
    Phi, y = data(12, 5, seed)
    towards = torch.linspace(-2, 2, 5, dtype=torch.float64)
    penalty = (ridge * float(Phi.square().sum(0).mean())) ** 0.5
    rows = torch.cat([Phi, penalty * torch.eye(5, dtype=torch.float64)])
    expected, _ = least_squares(rows, torch.cat([y, penalty * towards]))
    torch.testing.assert_close(equations(Phi, y).solve(ridge, towards), expected, rtol=1e-8, atol=1e-8)


@given(seed=SEEDS, samples=st.integers(3, 9))
def test_the_best_solution_is_the_one_that_held_out_data_like_most(seed: int, samples: int) -> None:
    Phi, y = data(2 * samples, 6, seed)
    fit, judge = equations(Phi[:samples], y[:samples]), equations(Phi[samples:], y[samples:])
    towards = torch.ones(6, dtype=torch.float64)
    best = fit.best(judge, towards)
    candidates = [towards] + [fit.solve(ridge, towards) for ridge in RIDGES]
    assert any(torch.equal(best, beta) for beta in candidates)
    assert judge.error(best) == min(judge.error(beta) for beta in candidates)


def test_where_no_solution_helps_on_held_out_data_nothing_changes() -> None:
    Phi, y = data(20, 4, 0)
    truth = torch.arange(4.0, dtype=torch.float64)
    assert torch.equal(equations(Phi, y).best(equations(Phi, Phi @ truth), truth), truth)


def test_a_solution_that_is_not_finite_is_never_the_best() -> None:
    Phi, y = data(20, 4, 0)
    judge, fit = equations(Phi, y), equations(Phi, y)
    broken = NormalEquations(fit.gram, fit.cross * torch.nan, fit.energy)
    towards = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(broken.best(judge, towards), towards)
    assert not judge.error(torch.full_like(towards, torch.nan)) <= judge.error(towards)


@given(seed=SEEDS)
def test_a_sum_is_the_regression_on_both_data_sets(seed: int) -> None:
    Phi, y = data(24, 5, seed)
    both, whole = equations(Phi[:9], y[:9]) + equations(Phi[9:], y[9:]), equations(Phi, y)
    torch.testing.assert_close(both.gram, whole.gram)
    torch.testing.assert_close(both.cross, whole.cross)
    assert both.energy == pytest.approx(whole.energy)


def errors_without_each(Phi: Tensor, y: Tensor, kept: list[int], size: int) -> list[float]:
    """The error of a new fit without each of the blocks that are kept now."""
    blocks = Phi.unflatten(1, (-1, size))
    return [least_squares(blocks[:, [k for k in kept if k != m]].flatten(1), y)[1] for m in kept]


@given(seed=SEEDS, blocks=st.integers(1, 6), size=st.integers(1, 3))
def test_elimination_drops_the_block_whose_removal_hurts_a_new_fit_least(seed: int, blocks: int, size: int) -> None:
    Phi, y = data(40, blocks * size, seed)
    found = eliminate_blocks(equations(Phi, y), blocks, NO_RIDGE)
    assert found.order.dtype == torch.int64
    assert sorted(found.order.tolist()) == list(range(blocks))
    assert float(found.errors[blocks]) == pytest.approx(least_squares(Phi, y)[1], rel=1e-8)
    kept = list(range(blocks))
    for k in range(blocks, 0, -1):
        without = errors_without_each(Phi, y, kept, size)
        dropped = int(found.order[k - 1])
        assert without[kept.index(dropped)] <= min(without) * (1 + 1e-8)
        assert float(found.errors[k - 1]) == pytest.approx(min(without), rel=1e-8)
        kept.remove(dropped)
    assert float(found.errors[0]) == pytest.approx(float(y @ y), rel=1e-10)
    assert (found.errors.diff() <= 0).all()


def test_blocks_that_repeat_others_go_first_and_cost_nothing() -> None:
    Phi, y = data(50, 6, 3)
    found = eliminate_blocks(equations(torch.cat([Phi, Phi @ torch.randn(6, 4).double()], 1), y), 5, 1e-10)
    assert float(found.errors[3]) == pytest.approx(float(found.errors[5]), rel=1e-6)
    assert float(found.errors[2]) > 1.1 * float(found.errors[3])


def test_fewer_samples_than_features_are_no_obstacle() -> None:
    Phi, y = data(5, 12, 1)
    found = eliminate_blocks(equations(Phi, y), 4)
    assert found.errors.isfinite().all()
    assert float(found.errors[4]) < 1e-3 * float(y @ y)
    assert float(found.errors[0]) == pytest.approx(float(y @ y))


def test_a_system_that_puts_out_nothing_has_an_order_and_no_errors() -> None:
    nothing = NormalEquations(torch.zeros(6, 6).double(), torch.zeros(6).double(), 0.0)
    found = eliminate_blocks(nothing, 3)
    assert sorted(found.order.tolist()) == [0, 1, 2]
    assert torch.equal(found.errors, torch.zeros(4, dtype=torch.float64))
    start = torch.ones(6, dtype=torch.float64)
    assert torch.equal(nothing.solve(1e-8, start), start)


@pytest.mark.parametrize("entry", [torch.nan, torch.inf])
def test_entries_that_are_not_finite_are_refused(entry: float) -> None:
    Phi, y = data(20, 4, 0)
    Phi[3, 1] = entry
    with pytest.raises(GramianError, match="not finite"):
        eliminate_blocks(equations(Phi, y), 2)
    with pytest.raises(GramianError, match="not finite"):
        equations(Phi, y).solve(1e-6, torch.zeros(4, dtype=torch.float64))
