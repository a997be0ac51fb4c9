"""The compiled recurrence is the plain one, and its factors solve the Stein equations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from plain_takenaka import plain_takenaka_factor
from torch import Tensor

from gramian.systems.gramians import controllability_gramian, malmquist_takenaka, observability_gramian
from gramian.systems.linear_system import LinearSystem
from gramian.systems.takenaka import _by_groups, _by_steps, takenaka_factors
from gramian.systems.takenaka_groups import factor_by_groups
from systems_zoo import from_logs, normal, random_system, systems

SIZES = [(n, inputs) for n in (1, 2, 5, 19) for inputs in (1, 2, 7, 8, 9, 17)]


@pytest.mark.parametrize(("n", "n_inputs"), SIZES)
def test_compiled_factor_is_the_plain_one(n: int, n_inputs: int) -> None:
    """Up to a phase for each column; pivots are the same where energies are not equal."""
    system = random_system(n, n_inputs, 2, kind="complex", radius=(0.4, 0.99999))
    compiled = takenaka_factors(system.log_poles, system.B, pairs=False)
    plain = plain_takenaka_factor(system.log_poles, system.B)
    torch.testing.assert_close(compiled.abs(), plain.abs(), rtol=1e-9, atol=1e-13 * float(plain.abs().max()))


def stein_residual(logs: Tensor, F: Tensor, B: Tensor) -> float:
    """Of ``A F F* A* - F F* + B B* = 0`` with ``A = diag(exp(logs))``, relative to ``F F*``."""
    P, A = F @ F.mH, logs.exp()
    return float((A[:, None] * P * A.conj() - P + B @ B.mH).abs().max() / P.abs().max())


@pytest.mark.parametrize(("n", "n_inputs"), SIZES)
def test_factors_solve_the_stein_equation(n: int, n_inputs: int) -> None:
    system = random_system(n, n_inputs, 2, kind="complex")
    F = takenaka_factors(system.log_poles, system.B, pairs=False)
    assert stein_residual(system.log_poles, F, system.B) < 1e-14


@pytest.mark.parametrize(("n", "n_inputs"), SIZES)
def test_factors_of_pairs_are_real_and_solve_the_stein_equation(n: int, n_inputs: int) -> None:
    system = random_system(n, n_inputs, 2)
    F, dense = takenaka_factors(system.log_poles, system.B, pairs=True), system.dense()
    assert F.dtype == torch.float64
    assert F.shape == (2 * n, 2 * n)
    P = F @ F.mT
    assert (dense.A @ P @ dense.A.mT - P + dense.B @ dense.B.mT).abs().max() < 1e-14 * P.abs().max()


@pytest.mark.parametrize("angle", [0.0, 1e-13, 1e-8, 1e-4, torch.pi, torch.pi - 1e-9])
@pytest.mark.parametrize("imaginary", [0.0, 1e-16, 1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("n_inputs", [1, 2, 8])
def test_pairs_that_nearly_coincide_keep_their_symmetry(angle: float, imaginary: float, n_inputs: int) -> None:
    """Poles next to the real axis, and inputs next to real numbers: the second of a pair is nearly the first."""
    B = normal(6, n_inputs, seed=3)
    B = torch.complex(B.real, imaginary * B.imag)
    logs = torch.complex(-torch.linspace(0.01, 0.5, 6, dtype=torch.float64), torch.full((6,), angle).double())
    system = from_logs(logs, B, normal(2, 6))
    for F, gramian in (
        (malmquist_takenaka(system).controllability, controllability_gramian(system)),
        (malmquist_takenaka(system).observability, observability_gramian(system)),
    ):
        assert (F @ F.mT - gramian).abs().max() < 1e-13 * gramian.abs().max()


@given(system=systems(kinds=("real_part",)))
def test_a_batch_of_one_is_the_system(system: LinearSystem) -> None:
    single = takenaka_factors(system.log_poles, system.B.to(torch.complex128), pairs=True)
    batch = takenaka_factors(system.log_poles[None], system.B[None].to(torch.complex128), pairs=True)
    assert torch.equal(batch[0], single)


def test_inputs_of_no_energy_have_a_factor_of_zero() -> None:
    logs = torch.tensor([-0.1 + 1j, -0.2 + 2j], dtype=torch.complex128)
    for pairs in (False, True):
        F = takenaka_factors(logs, torch.zeros(2, 3, dtype=torch.complex128), pairs=pairs)
        assert not F.any()


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(("n", "n_inputs"), [(1, 2), (5, 7), (40, 3), (40, 64), (150, 17)])
def test_groups_of_steps_make_the_same_gramian(n: int, n_inputs: int, pairs: bool) -> None:
    system = random_system(n, n_inputs, 2, kind="real_part" if pairs else "complex", radius=(0.4, 0.99999))
    out = torch.zeros(n * (1 + pairs), 2, n, dtype=torch.float64)
    assert factor_by_groups(system.log_poles, system.B, pairs, out) == n * (1 + pairs)
    F = out.flatten(-2).mT if pairs else torch.complex(out[:, 0], out[:, 1]).mT
    gramian = controllability_gramian(system)
    assert (F @ F.mH - gramian).abs().max() < 1e-14 * gramian.abs().max()


def test_groups_take_every_row_of_a_cluster_and_keep_its_small_directions() -> None:
    """Energies collapse inside a group: the one after the other comes to the same Hankel singular values."""
    logs = torch.complex(torch.full((80,), -0.01), 0.5 + 1e-3 * torch.arange(80) / 80).to(torch.complex128)
    system = from_logs(logs, normal(80, 4), normal(4, 80, seed=1))
    values = []
    for factors in (_by_steps, _by_groups):
        both = factors(torch.stack([logs, logs.conj()]), torch.stack([system.B, system.C.mH]), True)[0]
        F_c, F_o = both.flatten(-2).mT
        values.append(torch.linalg.svdvals(F_o.mT @ F_c))
    assert (values[0] - values[1]).abs().max() < 1e-13 * values[0][0]
    kept = values[0] > 1e-13 * values[0][0]
    assert 20 < kept.sum() < 160
    torch.testing.assert_close(values[1][kept], values[0][kept], rtol=1e-6, atol=0)


def test_groups_of_rows_without_energy_have_a_factor_of_zero() -> None:
    logs, out = torch.full((3,), -0.1 + 1j, dtype=torch.complex128), torch.zeros(6, 2, 3, dtype=torch.float64)
    assert factor_by_groups(logs, torch.zeros(3, 2, dtype=torch.complex128), True, out) == 0
    assert not out.any()
