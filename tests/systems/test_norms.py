"""Norms against closed forms, dense grids and the time domain."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.gains import Gains
from gramian.systems.gramians import malmquist_takenaka
from gramian.systems.h2 import h2_norm
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import fit_to_slots
from gramian.systems.norms import frequency_response, hinf_norm, impulse_response, simulate
from gramian.systems.projections import balanced
from systems_zoo import (
    EXAMPLES,
    batch_of,
    delay_line,
    from_logs,
    lag,
    normal,
    random_system,
    systems,
    term_size,
)

each_example = pytest.mark.parametrize("name", EXAMPLES)


def gains(system: LinearSystem, omega: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(frequency_response(system, omega), 2)


def gain_at(system: LinearSystem, omega: float) -> float:
    return float(gains(system, torch.tensor([omega], dtype=torch.float64)))


@each_example
def test_frequency_response_is_the_definition(name: str) -> None:
    system = EXAMPLES[name]()
    dense, omega = system.dense(), torch.linspace(-3.1, 3.1, 17, dtype=torch.float64)
    A, B, C, D = (t.numpy() for t in (dense.A, dense.B, dense.C, dense.D))
    for w, G in zip(omega.numpy(), frequency_response(system, omega).numpy(), strict=True):
        wanted = C @ np.linalg.solve(np.eye(len(A)) - np.exp(-1j * w) * A, B) + D
        np.testing.assert_allclose(G, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@each_example
def test_frequency_response_is_the_transform_of_the_impulse_response(name: str) -> None:
    system, omega = EXAMPLES[name](), torch.linspace(-3.1, 3.1, 9, dtype=torch.float64)
    response = impulse_response(system, 1200).to(torch.complex128)  # 0.97^1200 is 1e-16
    waves = torch.exp(-1j * omega[:, None] * torch.arange(1200, dtype=torch.float64))
    torch.testing.assert_close(
        torch.einsum("mk,kij->mij", waves, response), frequency_response(system, omega), rtol=1e-11, atol=1e-11
    )


@each_example
def test_impulse_response_is_the_definition(name: str) -> None:
    system = EXAMPLES[name]()
    dense = system.dense()
    wanted = torch.stack([dense.C @ torch.linalg.matrix_power(dense.A, k) @ dense.B for k in range(12)])
    wanted[0] += dense.D
    torch.testing.assert_close(impulse_response(system, 12), wanted, rtol=1e-12, atol=1e-12)


@each_example
def test_simulation_is_convolution_with_the_impulse_response(name: str) -> None:
    system, L = EXAMPLES[name](), 33
    u = normal(2, L, system.n_inputs, seed=4)
    u = u if system.B.is_complex() and not system.real_part else u.real
    response, y = impulse_response(system, L), simulate(system, u)
    for k in range(L):
        wanted = sum(u[:, k - j] @ response[j].mT for j in range(k + 1))
        torch.testing.assert_close(y[:, k], wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_batch_responds_as_its_systems_do(kind: str) -> None:
    singles = [random_system(3, 2, 3, kind=kind, seed=s, D=True) for s in range(3)]
    batch, omega = batch_of(singles), torch.linspace(0, 3, 5, dtype=torch.float64)
    u = normal(3, 7, 2, seed=5).real
    for ask in (
        h2_norm,
        lambda s: impulse_response(s, 9),
        lambda s: frequency_response(s, omega),
        lambda s: frequency_response(s.dense(), omega),
        lambda s: impulse_response(s.dense(), 9),
        lambda s: h2_norm(s.dense()),
    ):
        for single, one in zip(singles, ask(batch), strict=True):
            torch.testing.assert_close(one, ask(single), rtol=1e-12, atol=1e-12)
    for i, single in enumerate(singles):
        torch.testing.assert_close(simulate(batch, u)[i], simulate(single, u[i]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pole", [0.5, -0.5, 0.99, -0.99, 1 - 1e-7, 1e-7 - 1, 0.0])
@pytest.mark.parametrize("gain", [1.0, -3.0])
def test_hinf_norm_of_a_first_order_lag_is_its_gain_over_the_distance_to_the_circle(pole: float, gain: float) -> None:
    norm = hinf_norm(lag(pole, gain))
    assert norm == pytest.approx(abs(gain) / (1 - abs(pole)), rel=1e-12)
    if pole:
        assert norm.omega == pytest.approx(0.0 if pole > 0 else torch.pi)


@pytest.mark.parametrize("angle", [0.3, 1.0, -2.5])
@pytest.mark.parametrize("distance", [1e-2, 1e-7, 1e-12])
def test_hinf_norm_of_a_complex_mode_is_reached_at_its_angle(angle: float, distance: float) -> None:
    B, C = normal(1, 2), normal(3, 1, seed=1)
    system = from_logs(torch.tensor([complex(-distance, angle)], dtype=torch.complex128), B, C, "complex")
    norm = hinf_norm(system)
    assert norm == pytest.approx(float(B.norm() * C.norm()) / -np.expm1(-distance), rel=1e-12)
    assert norm.omega == pytest.approx(angle, abs=distance)


@each_example
def test_hinf_norm_is_the_maximum_over_a_dense_grid(name: str) -> None:
    system = EXAMPLES[name]()
    on_grid = gains(system, torch.linspace(-torch.pi, torch.pi, 20001, dtype=torch.float64))
    norm = hinf_norm(system)
    assert norm == pytest.approx(float(on_grid.max()), rel=1e-5)
    assert norm >= float(on_grid.max()) * (1 - 1e-6)
    assert norm == pytest.approx(gain_at(system, norm.omega), rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("distance", [1e-4, 1e-7])
def test_hinf_norm_finds_lightly_damped_resonances_between_grid_points(distance: float, seed: int) -> None:
    """Modes nearer to each other than the grid is wide: the peak is at none of them."""
    g = torch.Generator().manual_seed(seed)
    angles = 1.0 + distance * torch.tensor([-0.8, 0.9, 5e3, 1e4], dtype=torch.float64)
    logs = torch.complex(torch.full_like(angles, -distance), angles)
    system = from_logs(logs, normal(4, 2, generator=g), normal(2, 4, generator=g))
    around = torch.cat([a + distance * torch.linspace(-6, 6, 6001, dtype=torch.float64) for a in angles])
    peak = float(gains(system, around).max())
    assert hinf_norm(system) == pytest.approx(peak, rel=1e-5)
    assert peak > 0.1 * term_size(system)


@given(system=systems())
def test_measured_norm_lies_within_its_guaranteed_bracket(system: LinearSystem) -> None:
    norm, grid = hinf_norm(system), torch.linspace(-torch.pi, torch.pi, 401, dtype=torch.float64)
    rounding = 1e-13 * term_size(system)
    largest = hankel_singular_values(system, malmquist_takenaka)[0]
    assert isinstance(norm, float)
    assert norm.lower == norm <= norm.upper + rounding
    assert largest <= norm * (1 + 1e-5) + rounding  # ||Hankel operator|| <= ||G||_inf
    assert gains(system, grid).max() <= norm * (1 + 1e-5) + rounding


def test_upper_end_of_the_bracket_holds_with_feed_through() -> None:
    for seed in range(10):
        system = random_system(4, 2, 3, seed=seed, D=True)
        assert hinf_norm(system) <= hinf_norm(system).upper


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(40, 40), (64, 33), (33, 64)])
def test_many_channels_are_measured_as_by_an_exact_svd(n_inputs: int, n_outputs: int, kind: str) -> None:
    system = random_system(12, n_inputs, n_outputs, kind=kind, radius=(0.5, 0.999), angle=(-3, 3), D=True)
    norm = hinf_norm(system)
    there = gain_at(system, norm.omega)
    omega = torch.cat([torch.linspace(-torch.pi, torch.pi, 601, dtype=torch.float64), system.poles.angle()])
    assert norm <= there * (1 + 1e-12)
    assert norm == pytest.approx(max(there, float(gains(system, omega).max())), rel=1e-6)


def test_many_channels_of_nearly_equal_gain_are_never_overestimated_and_two_percent_under() -> None:
    """The worst case of the subspace iteration: 64 singular values between 0.9 and 1 of the largest."""
    n = 64
    C = torch.linalg.qr(normal(n, n).real)[0] * torch.linspace(0.9, 1, n, dtype=torch.float64)
    norm = hinf_norm(LinearSystem(torch.full((n,), 0.1, dtype=torch.float64), torch.eye(n), C))
    assert 0.98 / 0.9 < norm <= 1 / 0.9 * (1 + 1e-12)


@pytest.mark.parametrize("seed", [0, 9, 14, 19, 25, 28])
def test_the_screening_survives_the_cancellation_in_a_difference(seed: int) -> None:
    """Squares of a difference of 1e-10 cancel to rounding noise: they must not decide where to look."""
    g = torch.Generator().manual_seed(seed)
    fom = random_system(12, 3, 3, seed=seed, radius=(0.9, 0.99999))
    change = 1e-10 * fom.B * torch.randn(12, 1, dtype=torch.float64, generator=g)
    difference = fom - LinearSystem(fom.A, fom.B + change, fom.C, real_part=True)
    exact = hinf_norm(LinearSystem(fom.A, change, fom.C, real_part=True))
    assert hinf_norm(difference) == pytest.approx(float(exact), rel=1e-3)


def test_hinf_norm_of_a_system_that_cannot_be_diagonalised() -> None:
    assert hinf_norm(delay_line(6)) == pytest.approx(1.0, rel=1e-12)
    assert hinf_norm(delay_line(6) + lag(0.5)) == pytest.approx(3.0, rel=1e-12)  # 1 + 2, in phase at omega = 0


def test_a_complex_system_is_searched_at_negative_frequencies_too() -> None:
    """``G = 1 + exp(i (phi - omega))``: its poles, both at zero, do not say where to look."""
    line, phi = delay_line(2), torch.tensor([[-2.0j, 0.0]], dtype=torch.complex128)
    system = LinearSystem(line.A, line.B, torch.exp(phi) * line.C, torch.ones(1, 1))
    norm = hinf_norm(system)
    assert norm == pytest.approx(2.0, rel=1e-6)
    assert norm.omega == pytest.approx(-2.0, abs=1e-2)


@pytest.mark.parametrize("name", ["complex", "real poles", "real_part", "SISO", "dense"])
def test_surveyed_gains_are_the_gains_or_those_of_places_that_cannot_be_the_maximum(name: str) -> None:
    system, omega = EXAMPLES[name](), torch.linspace(-3.1, 3.1, 201, dtype=torch.float64)
    found, wanted = Gains(system, 30).survey(omega)[0], gains(system, omega)
    measured = found > 0
    torch.testing.assert_close(found[measured], wanted[measured], rtol=1e-12, atol=1e-13 * float(wanted.max()))
    assert measured[wanted.argmax()]
    assert (wanted[~measured] <= found.max()).all()


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_a_survey_of_many_channels_is_never_above_the_gains(kind: str) -> None:
    system = random_system(12, 40, 33, kind=kind, radius=(0.5, 0.999), angle=(-3, 3), D=True)
    omega = torch.linspace(-3.1, 3.1, 201, dtype=torch.float64)
    found, vectors = Gains(system, 30).survey(omega)
    wanted = gains(system, omega)
    assert vectors is not None
    assert (found <= wanted * (1 + 1e-12)).all()
    assert (found >= 0.5 * wanted).all()
    assert found.max() == pytest.approx(float(wanted.max()), rel=1e-9)


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
@pytest.mark.parametrize("distance", [1.0, 1e-3, 1e-6, 1e-9])
def test_a_rough_norm_of_a_difference_is_a_gain_in_double_precision(distance: float, kind: str) -> None:
    """In single precision, a difference of nearly equal systems is noise, or next to noise."""
    fom = random_system(12, 40, 33, kind=kind, radius=(0.9, 0.999), angle=(-3, 3))
    change = distance * fom.B * torch.randn(12, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    difference = fom - LinearSystem(fom.A, fom.B + change, fom.C, real_part=fom.real_part)
    exact = LinearSystem(fom.A, change, fom.C, real_part=fom.real_part)
    norm = hinf_norm(difference, rtol=1e-3)
    assert norm <= gain_at(exact, norm.omega) * (1 + 1e-12 + 1e-14 / distance)
    assert norm == pytest.approx(float(hinf_norm(exact)), rel=2e-3)


@pytest.mark.parametrize(("distance", "is_single"), [(1.0, True), (1e-7, False)])
def test_single_precision_leads_only_where_double_precision_agrees(distance: float, is_single: bool) -> None:
    one = random_system(12, 40, 33, radius=(0.9, 0.999))
    difference = one - LinearSystem(one.A, (1 + distance) * one.B, one.C, real_part=True)
    gains_of, omega = Gains(difference, 6, is_rough=True), torch.linspace(0, torch.pi, 64, dtype=torch.float64)
    found, vectors = gains_of.survey(omega)
    assert gains_of.is_single == is_single
    largest, there = gains_of.largest(omega, found, vectors)
    assert (largest == float(found.max())) != is_single
    assert largest <= gain_at(difference, there) * (1 + 1e-12 + 1e-14 / distance)
    assert largest >= found.max()
    assert not Gains(difference, 6).is_single


@pytest.mark.parametrize("rtol", [1e-6, 1e-3])
@pytest.mark.parametrize(("seed", "slowest"), [(0, 0.0), (2, 0.0), (3, 0.0), (5, 0.0), (1, 0.9), (5, 0.9)])
def test_the_highest_of_many_peaks_of_many_channels_is_found(seed: int, slowest: float, rtol: float) -> None:
    """What a truncation leaves out has peaks all around the circle, nearly as high, and a start vector sees few."""
    fom = random_system(96, 36, 36, seed=seed, radius=(slowest, 0.999))
    modes = fit_to_slots(fom, balanced(fom, 48), 24)
    error = fom - LinearSystem(modes.poles, modes.B, modes.C, real_part=True)
    omega = torch.cat([torch.linspace(0, torch.pi, 1500, dtype=torch.float64), error.log_poles.imag.abs()])
    assert hinf_norm(error, rtol) >= gains(error, omega).max() * (1 - 1e-3)


def test_hinf_norm_wants_one_system() -> None:
    with pytest.raises(ShapeError, match=r"is a batch of shape \(3,\); needed: one system"):
        hinf_norm(batch_of([lag(0.5)] * 3))
