"""Large systems: one factor and a Gramian say what two factors do, and two factors are taken where modes cancel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gramian.systems import balancing as module
from gramian.systems.balancing import (
    Balancing,
    balancing,
    balancing_values,
    balancings,
    is_better_alone,
)
from gramian.systems.gramians import Factors, accurate, controllability_gramian, malmquist_takenaka
from gramian.systems.h2 import h2_norm, h2_norm_and_energy
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from systems_zoo import KINDS, batch_of, changed_basis, exact_values, from_logs, normal, random_system, term_size

each_kind = pytest.mark.parametrize("kind", KINDS)


def by_two(system: LinearSystem) -> Factors:
    """The route of two factors: any route that is not the default one."""
    return accurate(system)


@pytest.fixture
def all_very_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems of any order are balanced as the very large ones are."""
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(module, "_VERY_LARGE", 1)


def has_one_factor(basis: Balancing) -> bool:
    return isinstance(basis, module._OfOneFactor)


def clustered(width: float, n: int = 40, channels: int = 4, kind: str = "real_part") -> LinearSystem:
    """Poles within `width` bandwidths of each other: all but a few values are tiny."""
    g = torch.Generator().manual_seed(0)
    decay, angle = 0.01 * (1 + width * torch.rand(2, n, dtype=torch.float64, generator=g))
    logs = torch.complex(-decay, torch.zeros_like(angle) if kind == "real" else angle)
    return from_logs(logs, normal(n, channels, generator=g), normal(channels, n, generator=g), kind)


def cancelling(distance: float, n: int = 20, channels: int = 3) -> LinearSystem:
    """Every mode with another one of opposite sign, at a relative `distance` of its logarithm."""
    one = random_system(n, channels, channels, kind="complex", radius=(0.9, 0.999))
    other = one.log_poles * (1 + distance * torch.rand(n, dtype=torch.float64, generator=torch.Generator()))
    logs = torch.cat([one.log_poles, other])
    return from_logs(logs, torch.cat([one.B, one.B]), torch.cat([one.C, -one.C], 1))


SYSTEMS = {
    **{f"random {kind}": lambda kind=kind: random_system(30, 5, 4, kind=kind, radius=(0.4, 0.9999)) for kind in KINDS},
    **{f"clustered {kind}": lambda kind=kind: clustered(1.0, kind=kind) for kind in KINDS},
    **{f"clustered to {w}": lambda w=w: clustered(w) for w in (1e-2, 1e-6, 1e-10)},
    **{f"cancelling to {d}": lambda d=d: cancelling(d) for d in (1e-2, 1e-3, 1e-4, 1e-6, 1e-9)},
}
each_system = pytest.mark.parametrize("name", SYSTEMS)


@pytest.mark.usefixtures("all_very_large")
@each_system
def test_squares_of_values_are_exact_relative_to_the_largest(name: str) -> None:
    """Whichever way is taken: against singular values of the product of factors, which are exact relative to terms."""
    system = SYSTEMS[name]()
    wanted = hankel_singular_values(system, malmquist_takenaka)
    for hsv in (balancing(system).hsv, balancing_values(system)):
        assert (hsv.square() - wanted.square()).abs().max() <= 1e-14 * wanted[0] ** 2


@pytest.mark.usefixtures("all_very_large")
@pytest.mark.parametrize("make", [lambda: clustered(0.1, 8), lambda: cancelling(1e-4, 4), lambda: cancelling(1e-8, 4)])
def test_squares_of_values_are_those_of_fifty_digits(make) -> None:  # type: ignore[no-untyped-def]
    system = make()
    wanted = torch.tensor([float(x) for x in exact_values(system)], dtype=torch.float64)
    rounding = 1e-15 * max(wanted[0], term_size(system)) * wanted[0]  # where terms cancel, it is relative to them
    assert (balancing(system).hsv.square() - wanted.square()).abs().max() <= 4 * rounding


@pytest.mark.usefixtures("all_very_large")
@each_system
def test_directions_are_those_of_two_factors(name: str) -> None:
    """The part of the system's Gramians that they hold is the same, whatever signs and turns eigenvectors have."""
    system = SYSTEMS[name]()
    one, two = balancing(system), balancing(system, by_two)
    assert not has_one_factor(two)
    kept = torch.arange(_gap(two.hsv))
    (V, W), (V_2, W_2) = one.directions(kept), two.directions(kept)
    torch.testing.assert_close(V @ V.mH, V_2 @ V_2.mH, rtol=0, atol=1e-7 * float((V_2 @ V_2.mH).abs().max()))
    torch.testing.assert_close(W @ W.mH, W_2 @ W_2.mH, rtol=0, atol=1e-7 * float((W_2 @ W_2.mH).abs().max()))
    rounding = 1e-8 + 1e-15 * term_size(system) / float(two.hsv[0])
    torch.testing.assert_close(W.mH @ V, torch.eye(len(kept), dtype=V.dtype), rtol=0, atol=rounding)


def _gap(hsv: Tensor) -> int:
    """How many values come before the widest gap among the first few: a subspace that is well determined."""
    few = hsv[: max(2, int((hsv > 1e-3 * hsv[0]).sum()))]
    return int((few[:-1] / few[1:]).argmax()) + 1


@pytest.mark.usefixtures("all_very_large")
@each_kind
def test_one_factor_is_taken_where_modes_do_not_cancel(kind: str) -> None:
    assert has_one_factor(balancing(random_system(30, 5, 4, kind=kind)))
    assert has_one_factor(balancing(clustered(1e-2, kind=kind)))


@pytest.mark.usefixtures("all_very_large")
def test_two_factors_are_taken_where_modes_cancel_and_for_dense_systems_and_batches() -> None:
    assert not has_one_factor(balancing(cancelling(1e-6)))
    assert not has_one_factor(balancing(changed_basis(random_system(4))))
    assert not has_one_factor(balancing(batch_of([random_system(4)] * 2)))
    assert is_better_alone(random_system(4))
    assert not is_better_alone(changed_basis(random_system(4)))


@pytest.mark.usefixtures("all_very_large")
@each_kind
def test_directions_too_small_for_squares_are_left_to_the_svd(kind: str) -> None:
    system = clustered(1e-2, 12, kind=kind)
    basis = balancing(system)
    assert has_one_factor(basis)
    wanted = hankel_singular_values(system)
    kept = torch.arange(int((wanted > 1e-9 * wanted[0]).sum()))
    assert wanted[kept[-1]] < 1e-4 * wanted[0]
    V, W = basis.directions(kept)
    torch.testing.assert_close(W.mH @ V, torch.eye(len(kept), dtype=V.dtype), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("all_very_large")
@each_system
def test_what_is_significant_is_said_as_by_two_factors(name: str) -> None:
    system = SYSTEMS[name]()
    one, two = balancing(system), balancing(system, by_two)
    assert int((one.significant != two.significant).sum()) <= int((one.hsv < 1e-7 * one.hsv[0]).sum())
    assert one.significant[one.hsv[: len(one.significant)] > 1e-7 * one.hsv[0]].all()


@pytest.mark.usefixtures("all_very_large")
@each_system
def test_energies_from_a_balancing_are_those_of_the_system(name: str) -> None:
    system = SYSTEMS[name]()
    basis, M = balancing(system), system.input_output_matrices()[1]
    known, plain = h2_norm_and_energy(system, basis.times_factor), h2_norm_and_energy(system)
    assert float(plain[0]) == float(h2_norm(system))
    for one, two in zip(known, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=0)
    P, image = controllability_gramian(system), basis.times_factor(M)
    # C P C* may cancel; its rounding is relative to |C| diag(P)^(1/2).
    size = float((M.abs() @ P.diagonal().abs().sqrt()).max())
    torch.testing.assert_close(image @ image.mH, (M @ P.to(M.dtype) @ M.mH), rtol=0, atol=1e-13 * size**2)


@each_kind
def test_balancings_of_a_batch_are_those_of_its_systems(kind: str) -> None:
    singles = [random_system(5, 2, 3, kind=kind, seed=s) for s in range(3)]
    for single, one in zip(singles, balancings(batch_of(singles)), strict=True):
        assert one.system.equals(single)
        torch.testing.assert_close(one.hsv, balancing(single).hsv, rtol=1e-12, atol=0)
