"""The Gramians solve their Stein equations, and the factors are factors of the Gramians."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from hypothesis import given
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.gramians import (
    Factors,
    Route,
    controllability_factor,
    controllability_gramian,
    equilibrated,
    malmquist_takenaka,
    observability_gramian,
)
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from systems_zoo import (
    EPS,
    batch_of,
    changed_basis,
    delay_line,
    from_logs,
    margin,
    matrix,
    normal,
    random_system,
    systems,
    term_size,
)

SLOW = (1 - 1e-6, 1 - 1e-7)
EXAMPLES: dict[str, Callable[[], LinearSystem]] = {
    "complex": lambda: random_system(6, 2, 3, kind="complex"),
    "real poles": lambda: random_system(5, 2, 3, kind="real"),
    "real_part": lambda: random_system(6, 2, 3),
    "dense": lambda: changed_basis(random_system(4, 2, 3)),
    "dense complex": lambda: changed_basis(random_system(5, 2, 3, kind="complex")),
    "delay line": lambda: delay_line(5),
    "slow complex": lambda: random_system(6, 2, 3, kind="complex", radius=SLOW),
    "slow real poles": lambda: random_system(5, 2, 3, kind="real", radius=SLOW),
    "slow real_part": lambda: random_system(6, 2, 3, radius=SLOW),
    "slow dense": lambda: changed_basis(random_system(4, 2, 3, radius=SLOW)),
}
ROUTES = pytest.mark.parametrize("route", [equilibrated, malmquist_takenaka], ids=lambda r: r.__name__)


def residual(A: Tensor, X: Tensor, W: Tensor) -> float:
    """Of ``A X A* - X + W = 0``, relative to the size that its terms can have."""
    size = max(1.0, float(torch.linalg.matrix_norm(A, 2)) ** 2) * torch.linalg.matrix_norm(X, 2)
    return float(torch.linalg.matrix_norm(A @ X @ A.mH - X + W, 2) / size)


def controllability_of(factors: Factors) -> Tensor:
    return factors.controllability @ factors.controllability.mH


def observability_of(factors: Factors) -> Tensor:
    return factors.observability @ factors.observability.mH


@pytest.mark.parametrize("name", EXAMPLES)
def test_gramians_solve_the_stein_equations(name: str) -> None:
    system = EXAMPLES[name]()
    dense = system.dense()  # in the coordinates (Re x, Im x) for a real-part system
    assert residual(dense.A, controllability_gramian(system), dense.B @ dense.B.mH) < 1e-12
    assert residual(dense.A.mH, observability_gramian(system), dense.C.mH @ dense.C) < 1e-12


@pytest.mark.parametrize("name", EXAMPLES)
def test_gramians_are_hermitian_and_real_for_real_systems(name: str) -> None:
    system = EXAMPLES[name]()
    for gramian in (controllability_gramian(system), observability_gramian(system)):
        assert gramian.is_complex() == (system.A.is_complex() and not system.real_part)
        assert (gramian - gramian.mH).abs().max() <= 1e-15 * gramian.abs().max()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("angle", [0.0, 1.0, torch.pi], ids=["at 1", "at exp(i)", "at -1"])
def test_gramian_entries_are_exact_to_a_few_ulp_in_a_cluster_next_to_the_circle(angle: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    near = 1e-7 * torch.rand(2, 4, dtype=torch.float64, generator=g)
    logs, B = torch.complex(-near[0], angle - near[1]), normal(4, 1, generator=g)
    P = controllability_gramian(from_logs(logs, B, B.mH, "complex"))
    with mp.workdps(50):
        exact, W = matrix(logs[:, None]), matrix(B) * matrix(B).H
        for i in range(4):
            for j in range(4):
                entry = W[i, j] / (1 - mp.exp(exact[i] + mp.conj(exact[j])))
                assert abs(complex(P[i, j]) - entry) <= 16 * EPS * abs(entry)


@pytest.mark.parametrize("radius", [(0.4, 0.97), SLOW], ids=["fast", "slow"])
@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_dense_and_diagonal_route_agree(kind: str, radius: tuple[float, float]) -> None:
    system = random_system(5, 2, 2, kind=kind, radius=radius)
    tolerance = 1e-14 / margin(system)  # a dense matrix holds its poles to an ulp, and P is 1 / (1 - |l|^2)
    for gramian in (controllability_gramian, observability_gramian):
        diagonal, dense = gramian(system), gramian(system.dense())
        assert (diagonal - dense).abs().max() <= tolerance * dense.abs().max()


def test_real_part_gramians_are_the_block_formulas() -> None:
    system = random_system(5, 2, 3, seed=3)
    lam, B, C = system.A, system.B, system.C
    plain, mixed = 1 - lam[:, None] * lam.conj(), 1 - lam[:, None] * lam
    P, S = (B @ B.mH) / plain, (B @ B.mT) / mixed
    Q, R = (C.mH @ C) / plain.conj(), (C.mT @ C) / mixed
    P_R = 0.5 * torch.cat([torch.cat([(P + S).real, (S - P).imag], 1), torch.cat([(S + P).imag, (P - S).real], 1)])
    Q_R = 0.5 * torch.cat([torch.cat([(Q + R).real, -(Q + R).imag], 1), torch.cat([(Q - R).imag, (Q - R).real], 1)])
    torch.testing.assert_close(controllability_gramian(system), P_R, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(observability_gramian(system), Q_R, rtol=1e-13, atol=1e-13)


@ROUTES
@pytest.mark.parametrize("name", ["complex", "real poles", "real_part", "slow complex", "slow real_part"])
def test_factors_are_factors_of_the_gramians(name: str, route: Route) -> None:
    system = EXAMPLES[name]()
    factors = route(system)
    for product, gramian in (
        (controllability_of(factors), controllability_gramian(system)),
        (observability_of(factors), observability_gramian(system)),
    ):
        torch.testing.assert_close(product, gramian.to(product.dtype), rtol=0, atol=1e-13 * float(gramian.abs().max()))


@ROUTES
@given(system=systems())
def test_factors_are_factors_of_the_gramians_whatever_the_system(route: Route, system: LinearSystem) -> None:
    factors = route(system)
    for product, gramian in (
        (controllability_of(factors), controllability_gramian(system)),
        (observability_of(factors), observability_gramian(system)),
    ):
        size = gramian.diagonal().abs().sqrt()  # |P_ij| <= (P_ii P_jj)^(1/2)
        if system.real_part:  # rounding in one coordinate of a mode is relative to both
            size = size.unflatten(0, (2, -1)).amax(0).repeat(2)
        tolerance = 1e-13 * size[:, None] * size if route is malmquist_takenaka else 1e-13 * size.max() ** 2
        assert ((product - gramian).abs() <= tolerance).all()


@ROUTES
def test_real_makes_real_factors_of_the_same_gramians(route: Route) -> None:
    system = random_system(5)
    before, after = route(system), route(system).real()
    assert not after.controllability.is_complex()
    assert not after.observability.is_complex()
    torch.testing.assert_close(controllability_of(after), controllability_of(before).real, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(observability_of(after), observability_of(before).real, rtol=1e-13, atol=1e-13)


def test_controllability_factor_alone_is_that_of_both() -> None:
    for kind in ("complex", "real", "real_part"):
        system = random_system(5, 2, 3, kind=kind)
        assert torch.equal(controllability_factor(system), malmquist_takenaka(system).controllability)


@pytest.mark.parametrize("ask", [malmquist_takenaka, controllability_factor])
def test_the_recurrence_needs_poles_and_says_where_to_get_them(ask: Callable[[LinearSystem], object]) -> None:
    with pytest.raises(ShapeError, match=r"'the system' is dense(.|\n)*`equilibrated`, or system\.diagonalized\(\)"):
        ask(delay_line(3))


@ROUTES
@pytest.mark.parametrize("which", ["uncontrollable", "unobservable"])
def test_a_slow_dead_mode_does_not_disturb_the_others(route: Route, which: str) -> None:
    alive = random_system(3, 1, 1, kind="complex", radius=(0.5, 0.9))
    B, C = normal(1, 1, seed=5), normal(1, 1, seed=6)
    dead = from_logs(torch.tensor([complex(-1e-7, 1.0)]), B * 0 if which == "uncontrollable" else B, C, "complex")
    if which == "unobservable":
        dead = LinearSystem(dead.A, dead.B, dead.C * 0)
    wanted = torch.cat([hankel_singular_values(alive, malmquist_takenaka), torch.zeros(1)])
    found = hankel_singular_values(alive + dead, route)
    assert (found - wanted).abs().max() <= 1e-13 * wanted[0]


@pytest.mark.parametrize("kind", ["complex", "real", "real_part"])
def test_gramians_and_factors_of_a_batch_are_those_of_its_systems(kind: str) -> None:
    singles = [random_system(4, 2, 3, kind=kind, seed=s, radius=(0.4, 1 - 10.0**-s)) for s in range(1, 5)]
    batch = batch_of(singles)
    for ask in (
        controllability_gramian,
        observability_gramian,
        lambda s: controllability_of(malmquist_takenaka(s)),
        lambda s: observability_of(equilibrated(s)),
    ):
        together = ask(batch)
        for single, one in zip(singles, together, strict=True):
            alone = ask(single)
            torch.testing.assert_close(one, alone, rtol=0, atol=1e-13 * float(alone.abs().max()))


def test_a_huge_system_in_a_batch_of_dense_systems_does_not_stop_the_others_early() -> None:
    singles = [changed_basis(random_system(3, kind="complex", radius=(0.98, 0.99), seed=s)) for s in (1, 2)]
    huge = LinearSystem(0.1 * singles[1].A, 1e12 * singles[1].B, singles[1].C)
    P = controllability_gramian(batch_of([singles[0], huge]))
    assert residual(singles[0].A, P[0], singles[0].B @ singles[0].B.mH) < 1e-12


def test_terms_bound_the_largest_hankel_singular_value() -> None:
    for seed in range(10):
        system = random_system(6, seed=seed)
        assert float(hankel_singular_values(system)[0]) <= 2 * term_size(system)
