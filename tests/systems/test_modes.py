"""From a reduced system to the modes that a layer stores, and back to the same system."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gramian.systems.gramians import malmquist_takenaka
from gramian.systems.hankel import error_bound, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import Modes, fit_to_slots, to_modes
from gramian.systems.norms import frequency_response, hinf_norm
from gramian.systems.projections import Projection, balanced, random, selected
from systems_zoo import error_system_rounding, from_logs, normal, random_system, systems, term_size

OMEGA = torch.linspace(-3.1, 3.1, 41, dtype=torch.float64)


def as_system(modes: Modes, like: LinearSystem) -> LinearSystem:
    """The layer that stores `modes`."""
    return LinearSystem(modes.poles, modes.B, modes.C, real_part=like.real_part)


def real_poles(n: int, n_inputs: int, *, seed: int = 0) -> LinearSystem:
    """A real-part system whose poles are all real and positive: each reduced one takes a whole slot."""
    g = torch.Generator().manual_seed(seed)
    logs = torch.complex(-0.01 - torch.rand(n, dtype=torch.float64, generator=g), torch.zeros(n, dtype=torch.float64))
    return from_logs(logs, normal(n, n_inputs, generator=g), normal(n_inputs, n, generator=g))


def projection_of(system: LinearSystem, modes: Modes) -> Projection:
    return balanced(system, system.order).leading(modes.order)


@pytest.mark.parametrize("kind", ["complex", "real_part"])
@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(1, 1), (4, 3)])
def test_layer_to_system_and_back_is_the_same_layer(kind: str, n_inputs: int, n_outputs: int) -> None:
    system = random_system(5, n_inputs, n_outputs, kind=kind)
    modes = to_modes(system, balanced(system, system.order))
    assert (modes.order, len(modes.poles)) == (system.order, 5)
    assert hinf_norm(system - as_system(modes, system)) <= 1e-9 * term_size(system)
    found = {(round(abs(z), 9), round(abs(z.imag), 9)) for z in modes.poles.tolist()}
    assert found == {(round(abs(z), 9), round(abs(z.imag), 9)) for z in system.A.tolist()}


@given(system=systems(kinds=("complex", "real_part"), slowest=1e-3, flaws=()), data=st.data())
def test_packed_modes_are_the_reduced_system(system: LinearSystem, data: st.DataObject) -> None:
    projection = balanced(system, data.draw(st.integers(1, system.order)))
    modes = to_modes(system, projection)
    rounding = 1e-14 * modes.condition**2 * term_size(system) + error_system_rounding(system)
    assert hinf_norm(system.project(projection) - as_system(modes, system)) <= rounding


@pytest.mark.parametrize("rank", [3, 5, 6])
def test_packed_modes_obey_the_bound_of_the_projection(rank: int) -> None:
    system = random_system(6, 3, 3)
    modes = fit_to_slots(system, balanced(system, system.order), rank)
    bound = error_bound(hankel_singular_values(system), modes.order)
    assert hinf_norm(system - as_system(modes, system)) <= bound + 1e-9 * term_size(system)


@given(system=systems(kinds=("real_part",), slowest=1e-3, flaws=()), data=st.data())
def test_maps_are_biorthogonal_on_the_coordinates_in_use(system: LinearSystem, data: st.DataObject) -> None:
    projection = balanced(system, data.draw(st.integers(1, system.order)), route=malmquist_takenaka)
    modes = to_modes(system, projection)
    in_use = torch.cat([torch.ones(len(modes.poles), dtype=torch.bool), modes.poles.imag != 0])
    wanted = torch.diag(in_use.to(torch.float64))  # the imaginary part of a real pole's state is always zero
    before = float((projection.W.mT @ projection.V - torch.eye(projection.rank)).abs().max())
    assert (modes.W.mT @ modes.V - wanted).abs().max() <= 10 * modes.condition**2 * (before + 1e-14)
    assert (modes.V[:, ~in_use] == 0).all()
    assert (modes.W[:, ~in_use] == 0).all()
    assert int(in_use.sum()) == modes.order


def in_real_coordinates(modes: Modes) -> tuple[Tensor, Tensor]:
    return torch.cat([modes.B.real, modes.B.imag]), torch.cat([modes.C.real, -modes.C.imag], 1)


@pytest.mark.parametrize("make", [lambda: random_system(5, 3, 2), lambda: real_poles(5, 3)], ids=["pairs", "real"])
@pytest.mark.parametrize("rank", [2, 3, 5])
def test_maps_carry_the_inputs_and_outputs_of_the_layer_over(make, rank: int) -> None:  # type: ignore[no-untyped-def]
    """``B' = W^T B`` and ``C' = C V`` in the coordinates (Re x, Im x): what optimizer state follows."""
    system = make()
    modes = to_modes(system, balanced(system, rank))
    B, C = in_real_coordinates(modes)
    before = system.real_coordinates()
    torch.testing.assert_close(modes.W.mT @ before.B, B, rtol=0, atol=1e-10)
    in_use = torch.cat([torch.ones(len(modes.poles)), (modes.poles.imag != 0).double()])
    torch.testing.assert_close(before.C @ modes.V, C * in_use, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_maps_of_the_complex_realisation_carry_inputs_and_outputs_over(rank: int) -> None:
    system = random_system(4, 3, 2, kind="complex")
    modes = to_modes(system, balanced(system, rank))
    assert (len(modes.poles), modes.order, modes.real_poles) == (rank, rank, 0)
    B, C = in_real_coordinates(modes)
    whole = Modes(system.A, system.B, system.C, modes.V, modes.W, 0, 0, 0.0)
    B_before, C_before = in_real_coordinates(whole)
    torch.testing.assert_close(modes.W.mT @ B_before, B, rtol=0, atol=1e-10)
    torch.testing.assert_close(C_before @ modes.V, C, rtol=0, atol=1e-10)
    torch.testing.assert_close(modes.W.mT @ modes.V, torch.eye(2 * rank).double(), rtol=0, atol=1e-10)


def test_a_pair_keeps_the_upper_mode_and_twice_its_output() -> None:
    system = random_system(1, 2, 2)
    rom = system.project(balanced(system, 2))
    poles, T = torch.linalg.eig(rom.A)
    upper = int(poles.imag.argmax())
    modes = to_modes(system, balanced(system, 2))
    assert (modes.order, len(modes.poles), modes.real_poles) == (2, 1, 0)
    assert modes.poles[0].imag > 0
    # C and B of a mode are determined up to a common factor; their product is the residue.
    residue = (rom.C.to(T.dtype) @ T)[:, upper, None] @ torch.linalg.solve(T, rom.B.to(T.dtype))[upper, None]
    torch.testing.assert_close(modes.C @ modes.B, 2 * residue)


def test_a_real_pole_takes_a_whole_slot_with_its_output_once() -> None:
    log = torch.tensor([complex(-0.1, 0.0)], dtype=torch.complex128)
    system = from_logs(log, normal(1, 1), normal(1, 1, seed=1))
    modes = to_modes(system, balanced(system, 1))
    assert (modes.order, len(modes.poles), modes.real_poles) == (1, 1, 1)
    assert (modes.poles.imag == 0).all()
    assert (modes.B.imag == 0).all()
    assert (modes.C.imag == 0).all()
    torch.testing.assert_close(modes.C @ modes.B, (system.C @ system.B).real.to(torch.complex128))


@pytest.mark.parametrize("slots", range(1, 9))
@pytest.mark.parametrize("seed", range(3))
def test_slots_are_never_exceeded_when_all_poles_are_real(slots: int, seed: int) -> None:
    system = real_poles(8, 4, seed=seed)
    full = balanced(system, system.order)
    modes = fit_to_slots(system, full, slots)
    assert 1 <= len(modes.poles) <= slots
    assert len(modes.poles) == (modes.order + modes.real_poles) / 2
    packed = frequency_response(as_system(modes, system), OMEGA)
    unpacked = frequency_response(system.project(full.leading(modes.order)), OMEGA)
    torch.testing.assert_close(packed, unpacked, rtol=1e-7, atol=1e-7)


@given(seed=st.integers(0, 2**16), slots=st.integers(1, 6), real=st.integers(0, 6))
def test_slots_are_never_exceeded_and_seldom_wasted(seed: int, slots: int, real: int) -> None:
    plain = random_system(6, 2, 2, seed=seed, angle=(0.0, 0.5))
    system = LinearSystem(torch.cat([plain.A[:real].abs() + 0j, plain.A[real:]]), plain.B, plain.C, real_part=True)
    full = balanced(system, system.order)
    modes = fit_to_slots(system, full, slots)
    assert 1 <= len(modes.poles) <= slots
    assert modes.order >= min(slots, full.rank)  # n poles need at most n slots


def test_a_full_set_of_slots_is_used_when_poles_come_in_pairs() -> None:
    system = random_system(6, 3, 3, angle=(0.5, 2.5))
    full = balanced(system, system.order)
    for slots in range(1, 7):
        modes = fit_to_slots(system, full, slots)
        assert len(modes.poles) <= slots
        assert modes.order + modes.real_poles in (2 * slots, 2 * slots - 1)


def test_slots_of_the_complex_realisation_are_states() -> None:
    system = random_system(5, 2, 2, kind="complex")
    for slots in range(1, 6):
        assert len(fit_to_slots(system, balanced(system, 5), slots).poles) == slots


@pytest.mark.parametrize("kind", ["complex", "real_part"])
def test_scaling_modes_does_not_change_the_system(kind: str) -> None:
    system = random_system(5, 3, 2, kind=kind)
    modes = to_modes(system, balanced(system, 4))
    scale = torch.logspace(-3, 3, len(modes.poles), dtype=torch.float64)
    scaled = modes.scaled(scale)
    torch.testing.assert_close(scaled.B.norm(dim=1), modes.B.norm(dim=1) * scale)
    torch.testing.assert_close(
        frequency_response(as_system(scaled, system), OMEGA),
        frequency_response(as_system(modes, system), OMEGA),
        rtol=1e-12,
        atol=1e-12,
    )
    torch.testing.assert_close(scaled.W.mT @ scaled.V, modes.W.mT @ modes.V, rtol=0, atol=1e-9)
    before = system.real_coordinates() if system.real_part else None
    if before is not None:
        torch.testing.assert_close(scaled.W.mT @ before.B, in_real_coordinates(scaled)[0], rtol=1e-9, atol=1e-9)


def test_condition_is_that_of_the_eigenvectors_of_the_reduced_system() -> None:
    system = random_system(5, 3, 2)
    rom = system.project(balanced(system, 4))
    wanted = torch.linalg.cond(torch.linalg.eig(rom.A).eigenvectors)
    assert to_modes(system, balanced(system, 4)).condition == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize("kind", ["complex", "real_part"])
def test_condition_of_many_modes_is_estimated_from_below_to_a_few_percent(kind: str) -> None:
    for seed in range(5):
        system = random_system(60, 3, 2, kind=kind, seed=seed, radius=(0.9, 0.999))
        projection = balanced(system, 50)
        wanted = float(torch.linalg.cond(torch.linalg.eig(system.project(projection).A).eigenvectors))
        assert 0.97 * wanted <= to_modes(system, projection).condition <= wanted * (1 + 1e-9)


@pytest.mark.parametrize("choose", [selected, random])
def test_other_projections_are_packed_alike(choose) -> None:  # type: ignore[no-untyped-def]
    system = random_system(5, 3, 2)
    projection = choose(system, [1, 4]) if choose is selected else choose(system, 5)
    modes = to_modes(system, projection)
    torch.testing.assert_close(
        frequency_response(as_system(modes, system), OMEGA),
        frequency_response(system.project(projection), OMEGA),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(("n", "lost"), [(60, 0), (240, 4)])
def test_slots_of_a_large_system_are_nearly_all_used(n: int, lost: int) -> None:
    for seed in range(3):
        system = random_system(n, 20, 20, seed=seed, radius=(0.9, 0.999))
        modes = fit_to_slots(system, balanced(system, system.order), n - 30)
        assert n - 30 - lost <= len(modes.poles) <= n - 30
        assert len(modes.poles) == (modes.order + modes.real_poles) // 2
