"""Ways to a smaller system beside balanced truncation: singular perturbation, selected, modal and random."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import GramianError, ShapeError
from gramian.systems.gramians import (
    equilibrated,
    malmquist_takenaka,
)
from gramian.systems.hankel import error_bound, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import frequency_response, hinf_norm
from gramian.systems.projections import (
    balanced,
    modal,
    random,
    selected,
    singular_perturbation,
)
from systems_zoo import (
    batch_of,
    delay_line,
    error_system_rounding,
    from_logs,
    lag,
    normal,
    random_system,
    systems,
    term_size,
)

ROUTES = pytest.mark.parametrize("route", [equilibrated, malmquist_takenaka], ids=lambda r: r.__name__)
OMEGA = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)


@given(system=systems(flaws=(), slowest=1e-4), data=st.data())
def test_singular_perturbation_keeps_the_gain_at_frequency_zero_and_its_bound(
    system: LinearSystem, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, system.order))
    reducer = singular_perturbation(system, rank)
    reduced, zero = system.project(reducer), torch.zeros(1, dtype=torch.float64)
    before, after = frequency_response(system, zero), frequency_response(reduced, zero)
    rounding = error_system_rounding(system)
    assert (before - after).abs().max() <= rounding
    assert reducer.error_bound is not None
    assert hinf_norm(system - reduced) <= reducer.error_bound + rounding
    # Duplicate modes, which the examples still have, leave values of up to eps^(1/2) in the default route.
    assert reducer.error_bound <= error_bound(hankel_singular_values(system), rank) + 1e-7 * term_size(system)


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_singular_perturbation_to_all_states_is_the_same_system(kind: str) -> None:
    system = random_system(4, 2, 2, kind=kind, D=True)
    same = system.project(singular_perturbation(system, system.order))
    assert same.order == system.order
    assert hinf_norm(system - same) <= 1e-10 * term_size(system)
    torch.testing.assert_close(same.D.real, system.D.real, rtol=0, atol=1e-10)


def test_truncation_does_not_keep_the_gain_at_frequency_zero_and_singular_perturbation_does() -> None:
    system, zero = lag(0.9) + lag(0.5, 0.3) + lag(-0.3), torch.zeros(1, dtype=torch.float64)
    wanted = float(frequency_response(system, zero).real)
    assert wanted == pytest.approx(10 + 0.6 + 1 / 1.3)
    assert frequency_response(system.project(balanced(system, 1)), zero).real.item() != pytest.approx(wanted, rel=1e-3)
    kept = system.project(singular_perturbation(system, 1))
    assert frequency_response(kept, zero).real.item() == pytest.approx(wanted, rel=1e-12)


def test_a_delay_line_has_no_singular_perturbation_that_reads_the_new_state() -> None:
    with pytest.raises(GramianError, match=r"3 states has a pole at zero(.|\n)*Use another rank, or `balanced`"):
        delay_line(6).project(singular_perturbation(delay_line(6), 3))


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_selected_modes_are_the_system_of_these_modes(kind: str) -> None:
    system = random_system(5, 2, 3, kind=kind)
    modes = [3, 0]
    lean = LinearSystem(system.A[modes], system.B[modes], system.C[:, modes], real_part=system.real_part)
    reduced = system.project(selected(system, modes))
    assert reduced.order == lean.order
    torch.testing.assert_close(frequency_response(reduced, OMEGA), frequency_response(lean, OMEGA))
    assert selected(system, modes).error_bound is None


@pytest.mark.parametrize("modes", [[], [5], [-1], [1, 1]])
def test_modes_that_are_not_there_or_there_twice_cannot_be_selected(modes: list[int]) -> None:
    with pytest.raises(ShapeError, match=r"needed: different indices from 0 to 4"):
        selected(random_system(5), modes)


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_modal_truncation_keeps_the_modes_of_largest_residue_over_distance_to_the_circle(kind: str) -> None:
    system = random_system(6, 2, 3, kind=kind, radius=(0.3, 0.999))
    size = system.B.norm(dim=1) * system.C.norm(dim=0) / (1 - system.A.abs())
    largest = size.argsort(descending=True)[:2].tolist()
    rank = 4 if kind == "real_part" else 2
    one, two = system.project(modal(system, rank)), system.project(selected(system, largest))
    assert one.order == rank
    torch.testing.assert_close(frequency_response(one, OMEGA), frequency_response(two, OMEGA))


@given(system=systems(flaws=()))
def test_modal_weight_of_one_mode_bounds_what_the_mode_contributes(system: LinearSystem) -> None:
    one = system.project(modal(system, 2 if system.real_part else 1))
    size = system.B.norm(dim=1) * system.C.norm(dim=0) / -torch.expm1(system.log_poles.real)
    assert hinf_norm(one) <= size.max() * (1 + 1e-6)


def test_an_odd_rank_of_a_real_part_system_keeps_whole_modes() -> None:
    system = random_system(4)
    assert [modal(system, rank).rank for rank in (1, 2, 3, 4, 5, 8)] == [2, 2, 2, 4, 4, 8]


def test_modal_truncation_needs_single_diagonal_systems() -> None:
    with pytest.raises(ShapeError, match=r"is dense\.(.|\n)*diagonalized\(\)"):
        modal(delay_line(3), 1)
    with pytest.raises(ShapeError, match=r"batch of shape \(2,\)"):
        modal(batch_of([random_system(3)] * 2), 2)


def test_balanced_beats_modal_truncation_on_clustered_poles() -> None:
    g = torch.Generator().manual_seed(0)
    logs = torch.complex(-0.02 - 1e-3 * torch.rand(8, dtype=torch.float64, generator=g), torch.full((8,), 0.5).double())
    system = from_logs(logs, normal(8, 1, generator=g), normal(1, 8, generator=g))
    by_modes, by_balance = (hinf_norm(system - system.project(choose(system, 4))) for choose in (modal, balanced))
    assert by_balance < 0.01 * by_modes


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_random_projection_is_orthonormal_stable_and_repeatable(kind: str) -> None:
    system = random_system(6, 2, 2, kind=kind, radius=(0.99, 0.9999))
    for seed in range(5):
        projection = random(system, 3, seed=seed)
        assert torch.equal(projection.V, projection.W)
        assert projection.error_bound is None
        eye = torch.eye(3, dtype=projection.V.dtype)
        torch.testing.assert_close(projection.V.mH @ projection.V, eye, rtol=0, atol=1e-14)
        assert system.project(projection).poles.abs().max() <= 0.9999
        assert torch.equal(projection.V, random(system, 3, seed=seed).V)
    assert not torch.equal(random(system, 3, seed=0).V, random(system, 3, seed=1).V)


@given(system=systems(), data=st.data())
def test_random_selected_and_modal_projections_of_diagonal_systems_are_stable(
    system: LinearSystem, data: st.DataObject
) -> None:
    rank = data.draw(st.integers(1, system.order))
    for projection in (random(system, rank), modal(system, rank), selected(system, [0])):
        assert system.project(projection).poles.abs().max() < 1


def test_feed_through_passes_through_every_projection() -> None:
    system = random_system(4, 2, 3, D=True)
    for choose in (balanced, modal, random):
        assert torch.equal(system.project(choose(system, 2)).D, system.D)
