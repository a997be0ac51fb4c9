"""The bound, the stability and the definitions of every way to a smaller system."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import GramianError, ShapeError
from gramian.systems.gramians import (
    Route,
    controllability_gramian,
    equilibrated,
    malmquist_takenaka,
    observability_gramian,
)
from gramian.systems.h2 import h2_norm
from gramian.systems.hankel import error_bound, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import frequency_response, hinf_norm, impulse_response, simulate
from gramian.systems.projections import (
    Keep,
    Projection,
    balanced,
    modal,
    random,
    singular_perturbation,
)
from systems_zoo import (
    batch_of,
    changed_basis,
    error_system_rounding,
    from_logs,
    normal,
    random_system,
    systems,
    term_size,
)

ROUTES = pytest.mark.parametrize("route", [equilibrated, malmquist_takenaka], ids=lambda r: r.__name__)
OMEGA = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)


def keep(which: str, seed: int) -> Keep:
    return Keep(which, seed)  # type: ignore[arg-type]


def check_bound_and_stability(system: LinearSystem, projection: Projection, is_truncation: bool) -> None:
    """``sigma_{r+1} <= ||G - G_r||_inf <= 2 (sum of the discarded)``; a `LinearSystem` that exists is stable."""
    reduced, rounding = system.project(projection), error_system_rounding(system)
    measured = hinf_norm(system - reduced)
    assert projection.error_bound is not None
    assert measured <= projection.error_bound + rounding
    if is_truncation and projection.rank < system.order:  # a lower bound for *any* system of that order
        next_value = hankel_singular_values(system, malmquist_takenaka)[projection.rank]
        assert next_value <= measured * (1 + 1e-5) + rounding


@given(system=systems(), data=st.data())
def test_truncation_error_lies_between_next_hsv_and_twice_the_tail(system: LinearSystem, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, system.order))
    check_bound_and_stability(system, balanced(system, rank, route=malmquist_takenaka), True)


@given(system=systems(slowest=1e-4), data=st.data())
def test_truncation_error_lies_there_also_by_the_default_route(system: LinearSystem, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, system.order))
    check_bound_and_stability(system, balanced(system, rank), True)


@pytest.mark.parametrize(("kind", "n"), [("real", 150), ("complex", 150), ("complex", 550), ("real_part", 300)])
def test_truncation_error_lies_there_for_systems_too_large_for_an_svd(kind: str, n: int) -> None:
    system = random_system(n, 5, 4, kind=kind, radius=(0.9, 0.999))
    projection = balanced(system, 40)
    check_bound_and_stability(system, projection, True)
    eye = torch.eye(40, dtype=projection.V.dtype)
    torch.testing.assert_close(projection.W.mH @ projection.V, eye, rtol=0, atol=1e-9)


@given(system=systems(), data=st.data())
def test_the_bound_holds_whichever_balanced_states_are_kept(system: LinearSystem, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, system.order))
    choice = data.draw(st.sampled_from([keep("smallest", 0), keep("random", 1), keep("random", 2)]))
    projection = balanced(system, rank, order=choice._order, route=malmquist_takenaka)
    check_bound_and_stability(system, projection, False)


@given(system=systems(), which=st.sampled_from(["largest", "smallest", "random"]))
def test_every_leading_part_of_a_balanced_system_is_stable(system: LinearSystem, which: str) -> None:
    full = balanced(system, system.order, order=keep(which, 3)._order, route=malmquist_takenaka)
    for rank in range(1, full.rank + 1):
        assert system.project(full.leading(rank)).poles.abs().max() < 1


@given(
    system=systems(slowest=1e-4, flaws=("uncontrollable", "unobservable")),
    which=st.sampled_from(["largest", "smallest", "random"]),
)
def test_every_leading_part_is_stable_also_by_the_default_route(system: LinearSystem, which: str) -> None:
    """Where modes are duplicates that cancel, it may not be: a value of 1e-8 can be noise there, and is kept."""
    full = keep(which, 3)(system, system.order)
    for rank in range(1, full.rank + 1):
        assert system.project(full.leading(rank)).poles.abs().max() < 1


@pytest.mark.parametrize("seed", range(4))
def test_truncation_error_of_a_dense_system_obeys_the_bound(seed: int) -> None:
    plain = random_system(4, 2, 2, seed=seed)
    dense = changed_basis(plain, seed)
    for rank in range(1, 9):
        projection = balanced(dense, rank)
        measured = hinf_norm(dense - dense.project(projection))
        assert measured <= projection.error_bound + 1e-10 * term_size(plain)
        torch.testing.assert_close(projection.error_bound, balanced(plain, rank).error_bound, rtol=1e-9, atol=1e-9)


@ROUTES
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_projection_is_biorthogonal_and_real_for_a_real_system(kind: str, route: Route) -> None:
    system = random_system(5, 3, 3, kind=kind)
    projection = balanced(system, system.order, route=route)
    assert projection.rank == system.order
    assert projection.V.is_complex() == projection.W.is_complex() == (kind == "complex")
    eye = torch.eye(system.order, dtype=projection.V.dtype)
    torch.testing.assert_close(projection.W.mH @ projection.V, eye, rtol=0, atol=1e-10)


@ROUTES
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_balanced_system_has_equal_diagonal_gramians_of_hsvs(kind: str, route: Route) -> None:
    system = random_system(5, 3, 3, kind=kind)
    projection = balanced(system, system.order, route=route)
    same, hsv = system.project(projection), hankel_singular_values(system)
    for gramian in (controllability_gramian(same), observability_gramian(same)):
        torch.testing.assert_close(gramian, torch.diag(hsv).to(gramian.dtype), rtol=0, atol=1e-9 * float(hsv[0]))
    assert hinf_norm(system - same) <= 1e-11 * hsv[0]
    torch.testing.assert_close(projection.hsv, hsv, rtol=0, atol=1e-12 * float(hsv[0]))


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
@pytest.mark.parametrize("choose", [balanced, modal, random, singular_perturbation], ids=lambda f: f.__name__)
def test_h2_error_is_the_energy_of_the_error_in_the_time_domain(choose, kind: str) -> None:  # type: ignore[no-untyped-def]
    system = random_system(4, 2, 2, kind=kind, radius=(0.3, 0.9))
    reduced = system.project(choose(system, system.order // 2))
    impulses = torch.zeros(2, 400, 2, dtype=torch.float64)  # one for each input
    impulses[0, 0, 0] = impulses[1, 0, 1] = 1
    simulated = (simulate(system, impulses) - simulate(reduced, impulses)).abs().square().sum().sqrt()
    responded = (impulse_response(system, 400) - impulse_response(reduced, 400)).abs().square().sum().sqrt()
    for energy in (simulated, responded):
        torch.testing.assert_close(h2_norm(system - reduced), energy, rtol=1e-10, atol=0)


def test_the_bound_of_a_projection_is_that_of_its_hsvs() -> None:
    system = random_system(5, 2, 2)
    hsv = hankel_singular_values(system)
    for rank in (1, 4, 10):
        projection = balanced(system, rank)
        assert projection.rank == rank
        torch.testing.assert_close(projection.error_bound, error_bound(hsv, rank), rtol=1e-9, atol=1e-13)


def test_a_leading_part_is_the_projection_of_that_rank() -> None:
    system = random_system(5, 2, 2)
    part, asked = balanced(system, 8).leading(3), balanced(system, 3)
    one, two = (frequency_response(system.project(p), OMEGA) for p in (part, asked))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(part.error_bound, asked.error_bound, rtol=1e-12, atol=0)
    with pytest.raises(ShapeError, match="rank 9 was asked for, of a system of order 8"):
        balanced(system, 8).leading(9)


def test_keeping_the_largest_values_is_worth_it() -> None:
    system = random_system(8, 2, 2, radius=(0.5, 0.99), seed=4)
    others = [keep("smallest", 0), *(keep("random", seed) for seed in range(5))]
    largest, *rest = (hinf_norm(system - system.project(choose(system, 8))) for choose in (balanced, *others))
    assert all(largest < 0.2 * other for other in rest)


def test_kept_values_come_first_and_all_values_stay() -> None:
    system = random_system(4, 2, 2)
    hsv = hankel_singular_values(system)
    smallest, chance = (keep(which, 5)(system, 3) for which in ("smallest", "random"))
    torch.testing.assert_close(smallest.hsv, hsv.flip(0))
    torch.testing.assert_close(smallest.error_bound, 2 * hsv[:5].sum())
    torch.testing.assert_close(chance.hsv.sort(descending=True).values, hsv)
    assert torch.equal(chance.V, keep("random", 5)(system, 3).V)
    assert not torch.equal(chance.V, keep("random", 6)(system, 3).V)


def test_an_unknown_choice_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(GramianError, match=r"keep = 'larges' was given; .* Did you mean 'largest'\?"):
        keep("larges", 0)


@pytest.mark.parametrize("choose", [balanced, random, modal, singular_perturbation])
@pytest.mark.parametrize("rank", [0, 7])
def test_a_rank_out_of_range_is_refused(choose, rank: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ShapeError, match=rf"rank {rank} was asked for, of a system of order 6\.\n *Needed: 1 <= rank"):
        choose(random_system(3), rank)


@ROUTES
def test_states_that_contribute_nothing_are_dropped(route: Route) -> None:
    alive = random_system(3, 2, 2, kind="complex")
    B, C = torch.cat([alive.B, 0 * alive.B[:1]]), torch.cat([alive.C, alive.C[:, :1]], 1)
    system = LinearSystem(torch.cat([alive.A, torch.tensor([0.999])]), B, C)
    projection = balanced(system, 4, route=route)
    assert projection.rank == 3
    assert projection.error_bound <= 1e-13 * projection.hsv[0]
    assert hinf_norm(system - system.project(projection)) <= 1e-12 * projection.hsv[0]


@ROUTES
def test_values_below_1e_13_of_the_largest_are_taken_for_zero_but_stay_in_the_bound(route: Route) -> None:
    hsv = torch.tensor([1.0, 1e-10, 3e-13, 3e-14, 1e-20], dtype=torch.float64)
    pole = 0.5  # one mode for each channel: the HSVs are gain / (1 - pole^2)
    system = LinearSystem(torch.full((5,), pole), torch.eye(5), torch.diag(hsv * (1 - pole**2)))
    projection = balanced(system, 5, route=route)
    assert projection.rank == 3
    torch.testing.assert_close(projection.error_bound, 2 * hsv[3:].sum(), rtol=1e-6, atol=0)


@ROUTES
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_system_that_does_nothing_is_reduced_to_one_dead_state(kind: str, route: Route) -> None:
    plain = random_system(3, 2, 2, kind=kind)
    system = LinearSystem(plain.A, plain.B, 0 * plain.C, real_part=plain.real_part)
    projection = balanced(system, 2, route=route)
    reduced = system.project(projection)
    assert (projection.rank, float(projection.error_bound)) == (1, 0.0)
    assert float(hinf_norm(reduced)) == 0.0


@ROUTES
def test_a_system_whose_modes_cancel_is_not_taken_for_one_that_does_something(route: Route) -> None:
    """Its HSVs are rounding noise of the size eps (1e-8 by the default route); directions of noise are not stable."""
    slow = from_logs(torch.tensor([complex(-1e-6, 0.3)], dtype=torch.complex128), normal(1, 1), normal(1, 1, seed=1))
    nothing = slow - slow
    projection = balanced(nothing, 4, route=route)
    assert hinf_norm(nothing.project(projection)) <= 1e-7 * term_size(slow)
    if route is malmquist_takenaka:
        assert not projection.V.any()


def test_a_projection_is_applied_only_to_systems_of_its_order() -> None:
    with pytest.raises(ShapeError, match="made for order 6, 'the system' has order 8"):
        random_system(4).project(balanced(random_system(3), 2))


@ROUTES
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_batch_is_reduced_as_its_systems_are_also_where_their_orders_differ(kind: str, route: Route) -> None:
    singles = [random_system(4, 2, 2, kind=kind, seed=s) for s in range(3)]
    singles[1].B[1:3] = 0  # lower order: dropped alone, a dead state in the batch
    rank = singles[0].order - 1
    batch = batch_of(singles)
    projection = balanced(batch, rank, route=route)
    reduced = batch.project(projection)
    for i, single in enumerate(singles):
        alone = balanced(single, rank, route=route)
        assert (alone.rank < rank) == (i == 1)
        size = float(alone.hsv[0])
        torch.testing.assert_close(projection.hsv[i], alone.hsv, rtol=0, atol=1e-12 * size)
        torch.testing.assert_close(projection.error_bound[i], alone.error_bound, rtol=0, atol=1e-12 * size)
        responses = impulse_response(reduced, 30)[i], impulse_response(single.project(alone), 30)
        torch.testing.assert_close(*responses, rtol=0, atol=1e-10 * size)
