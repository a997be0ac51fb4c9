"""Which orders are tried, in which order, and what a refusal says; with layers that are stored badly on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lru_examples import make_lru

from gramian.errors import GramianError, ShapeError
from gramian.layers import truncation
from gramian.layers.reduction import Reduction
from gramian.layers.truncation import Candidate, truncate
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import Modes, fit_to_slots, to_modes
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Projection, balanced, modal


def stored(modes: Modes, gain: float = 1.0) -> Candidate:
    """The layer that the modes make, `gain` times as loud."""
    system = LinearSystem(modes.poles, modes.B, gain * modes.C, real_part=True)
    return Candidate({"C": system.C}, {}, system)


class Builder:
    """Stores badly until the order it is meant for comes, and remembers what it was asked for."""

    def __init__(self, good_order: int | None, bad: Callable[[Modes], Candidate] = lambda m: stored(m, 1e3)) -> None:
        self.good_order, self.bad, self.orders = good_order, bad, list[int]()

    def __call__(self, modes: Modes) -> Candidate:
        self.orders.append(modes.order)
        return stored(modes) if modes.order == self.good_order else self.bad(modes)


def layer_system(seed: int, n: int = 6) -> LinearSystem:
    """A system without feed-through whose small models often have real poles."""
    system = make_lru(2, n, seed=seed, dtype=torch.float64, max_phase=0.5).linear_system()
    return LinearSystem(system.A, system.B, system.C, None, system.log_poles, True, "six modes")


@pytest.fixture
def start_low(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first order is two less than what would fit, as it is when real poles disappear from one to the next."""

    def fit_low(fom: LinearSystem, projection: Projection, slots: int) -> Modes:
        return to_modes(fom, projection.leading(fit_to_slots(fom, projection, slots).order - 2))

    monkeypatch.setattr(truncation, "fit_to_slots", fit_low)


def expected_orders(fom: LinearSystem, rank: int, below: int = 0) -> list[int]:
    """The order that fits, then one and two more, then one less; those that fit into `rank` slots."""
    projection = balanced(fom, 2 * rank)
    first = fit_to_slots(fom, projection, rank).order - below
    tries = [order for order in (first + 1, first + 2, first - 1) if 1 <= order <= projection.rank]
    return [first] + [o for o in tries if len(to_modes(fom, projection.leading(o)).poles) <= rank]


CASES = [(seed, rank) for seed in range(6) for rank in (2, 3, 4)]


def test_neighbouring_orders_are_tried_in_turn_and_the_reason_is_that_of_the_first() -> None:
    for seed, rank in CASES:
        fom, builder = layer_system(seed), Builder(None)
        reduction = truncate(fom, 6, rank, balanced, builder)
        orders = expected_orders(fom, rank)
        assert builder.orders == orders
        assert not reduction.accepted
        assert (reduction.before, reduction.after, reduction.asked) == (6, 6, rank)
        assert reduction.reason.startswith("measured error ")
        assert f"exceeds 1.05 x bound {balanced(fom, orders[0]).error_bound:.3g} " in reduction.reason
        assert f"at order {orders[0]} " in reduction.reason


@pytest.mark.usefixtures("start_low")
def test_one_and_two_more_are_tried_before_one_less() -> None:
    fom = layer_system(0)
    orders = expected_orders(fom, 4, below=2)
    assert [order - orders[0] for order in orders] == [0, 1, 2, -1]
    for attempt, order in enumerate(orders):
        builder = Builder(order)
        reduction = truncate(fom, 6, 4, balanced, builder)
        assert builder.orders == orders[: attempt + 1]
        assert reduction.measurement is not None
        assert reduction.measurement.order == order


def test_the_first_order_that_measures_well_is_offered() -> None:
    for seed, rank in CASES:
        fom = layer_system(seed)
        orders = expected_orders(fom, rank)
        for attempt, order in enumerate(orders):
            builder = Builder(order)
            reduction = truncate(fom, 6, rank, balanced, builder)
            assert builder.orders == orders[: attempt + 1]
            assert reduction.accepted
            assert reduction.measurement is not None
            assert reduction.measurement.order == order
            assert reduction.after == len(reduction.tensors["C"][0]) <= rank
            error = fom - fom.project(balanced(fom, order))
            assert reduction.measurement.measured == pytest.approx(float(hinf_norm(error)), rel=5e-3)


def test_an_error_of_rounding_size_is_forgiven_and_a_larger_one_is_not() -> None:
    fom = layer_system(0)
    full = truncate(fom, 6, 6, balanced, lambda modes: stored(modes, 1 + 1e-6))
    assert full.accepted
    refused = truncate(fom, 6, 6, balanced, lambda modes: stored(modes, 1 + 1e-4))
    assert not refused.accepted


def test_a_layer_that_cannot_be_stored_is_refused_with_the_error() -> None:
    def unstable(modes: Modes) -> Candidate:
        return Candidate({}, {}, LinearSystem(modes.poles / modes.poles.abs(), modes.B, modes.C, real_part=True))

    def broken(modes: Modes) -> Candidate:
        raise GramianError("the tape is full", "a reason", "a cure")

    fom = layer_system(0)
    assert "cannot be stored" in truncate(fom, 6, 3, balanced, unstable).reason
    assert "unit circle" in truncate(fom, 6, 3, balanced, unstable).reason
    assert truncate(fom, 6, 3, balanced, broken).reason == "the reduced layer cannot be stored: the tape is full"
    orders = expected_orders(fom, 3)
    assert truncate(fom, 6, 3, balanced, Builder(orders[-1], broken)).accepted


def test_an_error_that_is_no_fact_about_the_system_is_not_swallowed() -> None:
    def wrong(modes: Modes) -> Candidate:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        truncate(layer_system(0), 6, 3, balanced, wrong)


def test_a_choice_without_a_bound_is_taken_as_measured() -> None:
    reduction = truncate(layer_system(0), 6, 3, modal, lambda modes: stored(modes, 3.0))
    assert reduction.accepted
    assert reduction.measurement is not None
    assert reduction.measurement.bound is None
    assert reduction.measurement.measured > 0


@pytest.mark.parametrize("rank", [-1, 0, 7])
def test_a_rank_outside_the_layer_is_the_callers_mistake(rank: int) -> None:
    with pytest.raises(ShapeError, match=rf"rank {rank} was asked of 'six modes'(.|\n)*1 <= rank <= 6"):
        truncate(layer_system(0), 6, rank, balanced, stored)


def test_a_refusal_carries_nothing_that_could_be_applied() -> None:
    reduction: Reduction = truncate(layer_system(0), 6, 3, balanced, Builder(None))
    assert reduction.tensors == {}
    assert reduction.moments == {}
    assert reduction.measurement is None
    assert reduction.seconds > 0
