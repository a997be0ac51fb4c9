"""Hankel singular values against the Hankel matrix, pyMOR and 50 digits; and the ranks that follow from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymor.models.iosys import LTIModel
from torch import Tensor

from gramian.errors import GramianError, ShapeError
from gramian.systems.gramians import Route, equilibrated, malmquist_takenaka
from gramian.systems.hankel import (
    bound_rank,
    check_rank,
    energy_rank,
    error_bound,
    hankel_singular_values,
)
from gramian.systems.linear_system import LinearSystem
from systems_zoo import (
    batch_of,
    changed_basis,
    delay_line,
    exact_values,
    first_values,
    from_logs,
    normal,
    random_system,
    systems,
    term_size,
)

ROUTES = pytest.mark.parametrize("route", [equilibrated, malmquist_takenaka], ids=lambda r: r.__name__)
CHANNELS = pytest.mark.parametrize(("n_inputs", "n_outputs"), [(1, 1), (3, 2)], ids=["SISO", "MIMO"])


@ROUTES
@CHANNELS
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_values_are_those_of_the_hankel_matrix_of_the_impulse_response(
    kind: str, n_inputs: int, n_outputs: int, route: Route
) -> None:
    system = random_system(4, n_inputs, n_outputs, kind=kind, radius=(0.3, 0.8))
    hsv = hankel_singular_values(system, route)
    explicit = first_values(system, 100)  # 0.8^199 is 5e-20
    torch.testing.assert_close(hsv, explicit[: system.order], rtol=0, atol=1e-13 * float(hsv[0]))
    assert explicit[system.order] <= 1e-13 * hsv[0]


def test_values_of_a_delay_line_are_all_one() -> None:
    torch.testing.assert_close(hankel_singular_values(delay_line(7)), torch.ones(7, dtype=torch.float64))


@ROUTES
@CHANNELS
@pytest.mark.parametrize("radius", [(0.3, 0.9), (0.9, 0.999), (0.999, 0.99999)])
def test_values_are_those_of_pymor_for_the_real_system(
    radius: tuple[float, float], n_inputs: int, n_outputs: int, route: Route
) -> None:
    system = random_system(8, n_inputs, n_outputs, radius=radius, seed=2)
    real = system.real_coordinates()
    # pyMOR reads the state before the update: it delays the same strictly proper system by one step.
    model = LTIModel.from_matrices(real.A.numpy(), real.B.numpy(), real.C.numpy(), sampling_time=1)
    oracle = torch.from_numpy(model.hsv().copy())
    hsv = hankel_singular_values(system, route)
    torch.testing.assert_close(hsv[: len(oracle)], oracle, rtol=0, atol=1e-10 * float(hsv[0]))


def clustered(n: int, n_inputs: int, kind: str) -> LinearSystem:
    """Poles within 1e-2 of each other: the smallest values are 1e-12 (MIMO) to 1e-40 (SISO) of the largest."""
    g = torch.Generator().manual_seed(1)
    spread = 1e-2 * torch.rand(2, n, dtype=torch.float64, generator=g)
    logs = torch.complex(-0.1 - spread[0], 1 + spread[1] * (kind != "real"))
    if kind == "real":
        logs = logs.real.to(torch.complex128)
    return from_logs(logs, normal(n, n_inputs, generator=g), normal(n_inputs, n, generator=g), kind)


def near_circle(n: int, n_inputs: int, kind: str, angle: float = 0.5) -> LinearSystem:
    """Poles at ``1 - 1e-7`` to ``1 - 1e-2``; from `angle` on, as far apart as they are from the circle."""
    g = torch.Generator().manual_seed(2)
    decay = torch.logspace(-7, -2, n, dtype=torch.float64)
    logs = torch.complex(-decay, angle - decay if kind != "real" else torch.zeros_like(decay))
    return from_logs(logs, normal(n, n_inputs, generator=g), normal(n_inputs, n, generator=g), kind)


@pytest.mark.parametrize("n_inputs", [1, 3], ids=["SISO", "MIMO"])
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
@pytest.mark.parametrize("example", [clustered, near_circle], ids=lambda f: f.__name__)
def test_every_value_of_the_recurrence_has_nine_digits(
    example: Callable[[int, int, str], LinearSystem], kind: str, n_inputs: int
) -> None:
    system = example(7, n_inputs, kind)
    hsv, exact = hankel_singular_values(system, malmquist_takenaka), exact_values(system, digits=120)
    for value, truth in zip(hsv.tolist(), exact, strict=True):
        assert abs(value - truth) <= 1e-9 * truth


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_every_value_has_nine_digits_in_a_cluster_of_one_input_as_tight_as_1e_8(kind: str) -> None:
    """With one input nothing is subtracted, only multiplied; more inputs lose the digits that a cluster is tight by."""
    decay = 0.1 + 1e-8 * torch.tensor([0.0, 1.0, 2.5, 3.0], dtype=torch.float64)
    logs = torch.complex(-decay, torch.zeros_like(decay) if kind == "real" else 10 * decay)
    system = from_logs(logs, normal(4, 1), normal(1, 4, seed=1), kind)
    hsv, exact = hankel_singular_values(system, malmquist_takenaka), exact_values(system, digits=250)
    for value, truth in zip(hsv.tolist(), exact, strict=True):
        assert abs(value - truth) <= 1e-9 * truth


@pytest.mark.parametrize("n_inputs", [1, 3], ids=["SISO", "MIMO"])
def test_every_value_has_nine_digits_also_for_modes_next_to_minus_one(n_inputs: int) -> None:
    system = near_circle(6, n_inputs, "real_part", angle=torch.pi)
    hsv, exact = hankel_singular_values(system, malmquist_takenaka), exact_values(system, digits=80)
    for value, truth in zip(hsv.tolist(), exact, strict=True):
        assert abs(value - truth) <= 1e-9 * truth


@pytest.mark.parametrize("example", [clustered, near_circle], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_inputs", [1, 3], ids=["SISO", "MIMO"])
def test_every_value_of_the_equilibrated_route_is_exact_relative_to_the_largest(
    example: Callable[[int, int, str], LinearSystem], n_inputs: int
) -> None:
    system = example(6, n_inputs, "real_part")
    hsv, exact = hankel_singular_values(system, equilibrated), exact_values(system, digits=120)
    for value, truth in zip(hsv.tolist(), exact, strict=True):
        assert abs(value - truth) <= 1e-13 * exact[0]


@pytest.mark.parametrize("seed", range(5))
def test_values_do_not_depend_on_the_coordinates(seed: int) -> None:
    system = random_system(5, 2, 3, seed=seed)
    hsv = hankel_singular_values(system)
    moved = hankel_singular_values(changed_basis(system, seed))
    torch.testing.assert_close(moved, hsv, rtol=0, atol=1e-12 * float(hsv[0]))


def conjugated(system: LinearSystem, mode: int) -> LinearSystem:
    """The same layer, where one mode is stored as its conjugate."""
    A, B, C, logs = system.A.clone(), system.B.clone(), system.C.clone(), system.log_poles.clone()
    A[mode], B[mode], C[:, mode], logs[mode] = A[mode].conj(), B[mode].conj(), C[:, mode].conj(), logs[mode].conj()
    return LinearSystem(A, B, C, system.D, logs, system.real_part)


@ROUTES
@pytest.mark.parametrize("mode", range(4))
def test_values_of_the_real_realisation_do_not_change_when_a_mode_is_conjugated(mode: int, route: Route) -> None:
    system = random_system(4, 2, 2)
    hsv = hankel_singular_values(system, route)
    other = hankel_singular_values(conjugated(system, mode), route)
    torch.testing.assert_close(other, hsv, rtol=0, atol=1e-13 * float(hsv[0]))


@pytest.mark.parametrize("mode", range(4))
def test_values_of_the_complex_realisation_do_change_when_a_mode_is_conjugated(mode: int) -> None:
    """Why the real realisation is the default: the layer ``Re(C x)`` is the same, its complex "HSVs" are not."""
    system = random_system(4, 2, 2, kind="complex", angle=(0.1, 1.0))
    hsv, other = hankel_singular_values(system), hankel_singular_values(conjugated(system, mode))
    assert (other - hsv).abs().max() > 0.01 * hsv[0]


@ROUTES
@pytest.mark.parametrize("n_inputs", [1, 2])
def test_a_duplicate_an_uncontrollable_and_an_unobservable_state_have_a_value_of_zero(
    n_inputs: int, route: Route
) -> None:
    alive = random_system(3, n_inputs, n_inputs, kind="complex", seed=7)
    A = torch.cat([alive.A, alive.A])
    B = torch.cat([alive.B, 2j * alive.B[:1], 0 * alive.B[1:2], alive.B[2:]])  # a multiple of mode 0, nothing, ...
    C = torch.cat([alive.C, 3 * alive.C[:, :1], alive.C[:, 1:2], 0 * alive.C[:, 2:]], 1)
    # In the last one the mode is driven twice and seen once; the first is there twice, with gain (1 + 6j).
    lean = LinearSystem(alive.A, alive.B, alive.C * torch.tensor([1 + 6j, 1, 1]))
    hsv = hankel_singular_values(LinearSystem(A, B, C), route)
    torch.testing.assert_close(hsv[:3], hankel_singular_values(lean, route), rtol=0, atol=1e-12 * float(hsv[0]))
    # For a duplicate the equilibrated route finds zero to eps^(1/2).
    assert hsv[3] <= (1e-14 if route is malmquist_takenaka else 1e-7) * hsv[0]


@ROUTES
def test_modes_that_cancel_leave_nothing(route: Route) -> None:
    A, B, C = torch.full((2,), 0.9 + 0.1j), torch.ones(2, 1), torch.tensor([[1.0, -1.0]])
    system = LinearSystem(A, B, C)
    limit = 1e-15 if route is malmquist_takenaka else 1e-7  # equilibrated: eps^(1/2) of the terms
    assert hankel_singular_values(system, route)[0] <= limit * term_size(system)


@ROUTES
@given(system=systems())
def test_values_are_finite_descending_and_as_many_as_states(route: Route, system: LinearSystem) -> None:
    hsv = hankel_singular_values(system, route)
    assert hsv.shape == (system.order,)
    assert torch.isfinite(hsv).all()
    assert (hsv >= 0).all()
    assert (hsv[1:] <= hsv[:-1]).all()


@given(system=systems())
def test_squares_of_the_values_of_both_routes_agree_to_thirteen_digits(system: LinearSystem) -> None:
    """Squares, because that is what the equilibrated route knows: it may find 1e-8 for a value of zero."""
    one, two = hankel_singular_values(system, equilibrated), hankel_singular_values(system, malmquist_takenaka)
    assert (one.square() - two.square()).abs().max() <= 1e-13 * term_size(system) ** 2


@ROUTES
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_values_of_a_batch_are_those_of_its_systems(kind: str, route: Route) -> None:
    singles = [random_system(5, 2, 3, kind=kind, seed=s, radius=(0.3, 1 - 10.0**-s)) for s in range(1, 5)]
    singles[1].B[2] = 0  # one of them is of lower order
    together = hankel_singular_values(batch_of(singles), route)
    for single, values in zip(singles, together, strict=True):
        alone = hankel_singular_values(single, route)
        torch.testing.assert_close(values, alone, rtol=0, atol=1e-13 * float(alone[0]))


@pytest.mark.parametrize("rank", [0, -1, 6])
def test_a_rank_that_the_system_does_not_have_is_refused(rank: int) -> None:
    with pytest.raises(ShapeError, match=rf"rank {rank} was asked for, of a system of order 5\.\n *Needed: 1 <= rank"):
        check_rank(rank, 5)
    with pytest.raises(ShapeError, match=f"rank {rank} was asked for"):
        error_bound(torch.ones(5), rank)


def test_error_bound_is_twice_the_tail() -> None:
    hsv = torch.tensor([[4.0, 2, 1, 0.5], [8, 4, 2, 1]])
    assert torch.equal(error_bound(hsv, 2), torch.tensor([3.0, 6]))
    assert torch.equal(error_bound(hsv, 4), torch.zeros(2))


descending = st.lists(st.floats(-12.0, 3.0), min_size=1, max_size=20).map(
    lambda powers: torch.tensor(sorted((10.0**p for p in powers), reverse=True), dtype=torch.float64)
)


@given(hsv=descending, tau=st.floats(0.0, 1.0, exclude_max=True))
def test_energy_rank_is_the_smallest_that_keeps_the_fraction(hsv: Tensor, tau: float) -> None:
    rank, total = energy_rank(hsv, tau), float(hsv.sum())
    assert 1 <= rank <= len(hsv)
    assert float(hsv[:rank].sum()) >= (1 - tau) * total * (1 - 2e-12)
    assert rank == 1 or float(hsv[: rank - 1].sum()) < (1 - tau) * total


@given(hsv=descending, tau=st.floats(0.0, 1.0, exclude_max=True), scale=st.sampled_from([2.0**-300, 2.0**300]))
def test_energy_rank_does_not_depend_on_the_units(hsv: Tensor, tau: float, scale: float) -> None:
    assert energy_rank(hsv * scale, tau) == energy_rank(hsv, tau)


@given(hsv=descending)
def test_without_a_tolerance_everything_above_rounding_is_kept(hsv: Tensor) -> None:
    assert float(hsv[energy_rank(hsv, 0.0) :].sum()) <= 1.001e-12 * float(hsv.sum())


@pytest.mark.parametrize("n", [3, 10, 1000])
@pytest.mark.parametrize("tau", [0.0, 1e-300, 1e-17])
def test_unreachable_tolerance_does_not_return_rank_one(n: int, tau: float) -> None:
    assert energy_rank(torch.full((n,), 0.1, dtype=torch.float64), tau) == n


@pytest.mark.parametrize("n", [3, 10, 700])
def test_rounding_in_the_sum_does_not_cost_a_state(n: int) -> None:
    hsv = torch.full((10 * n,), 0.1, dtype=torch.float64)
    for tenth in range(1, 10):
        assert energy_rank(hsv, tenth / 10) == (10 - tenth) * n


def test_values_that_are_all_zero_keep_one_state() -> None:
    assert energy_rank(torch.zeros(5), 0.01) == 1
    assert bound_rank(torch.zeros(5), 0.0) == 1


@pytest.mark.parametrize("tau", [-0.1, 1.0, 2.0, float("nan")])
def test_tau_that_is_no_fraction_is_refused(tau: float) -> None:
    with pytest.raises(GramianError, match=rf"tau = {tau} was given; needed: a fraction 0 <= tau < 1"):
        energy_rank(torch.ones(3), tau)


@given(hsv=descending, power=st.floats(-14.0, 4.0))
def test_bound_rank_is_the_smallest_whose_error_bound_is_within_the_tolerance(hsv: Tensor, power: float) -> None:
    tolerance = 10.0**power
    rank = bound_rank(hsv, tolerance)
    assert error_bound(hsv, rank) <= tolerance * (1 + 1e-11)
    assert rank == 1 or error_bound(hsv, rank - 1) > tolerance


def test_bound_rank_sees_a_tail_far_below_the_sum() -> None:
    hsv = torch.tensor([1.0, 1e-20, 1e-30], dtype=torch.float64)
    assert bound_rank(hsv, 0.0) == 3
    assert bound_rank(hsv, 1e-29) == 2
    assert bound_rank(hsv, 1e-19) == 1
