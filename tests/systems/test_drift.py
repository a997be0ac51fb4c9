"""The bounds on movement hold, the overlap is an overlap of signals, and the certificate is sound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.drift import hsv_movement, rank_certificate, subspace_overlap
from gramian.systems.gramians import malmquist_takenaka
from gramian.systems.hankel import energy_rank, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import impulse_response
from gramian.systems.projections import balanced
from systems_zoo import (
    KINDS,
    batch_of,
    changed_basis,
    delay_line,
    from_logs,
    lag,
    normal,
    random_system,
    systems,
    term_size,
)


def moved(system: LinearSystem, relative: float, seed: int) -> LinearSystem:
    """`system` with random relative changes of ``B``, ``C`` and of the logarithms of its poles."""
    g = torch.Generator().manual_seed(seed)
    change = [1 + relative * (torch.rand(t.shape, dtype=torch.float64, generator=g) - 0.5) for t in parts(system)]
    logs, B, C = (t * c for t, c in zip(parts(system), change, strict=True))
    kind = "real_part" if system.real_part else "complex" if system.A.is_complex() else "real"
    if kind == "real":  # a real pole stays on its side of zero
        logs = torch.complex(logs.real, system.log_poles.imag)
    return from_logs(logs, B, C, kind)


def parts(system: LinearSystem) -> tuple[Tensor, Tensor, Tensor]:
    return system.log_poles, system.B, system.C


@given(system=systems(), power=st.floats(-9.0, 0.0), seed=st.integers(0, 2**16))
def test_values_move_at_most_as_far_as_weyl_and_mirsky_let_them(system: LinearSystem, power: float, seed: int) -> None:
    movement = hsv_movement(system, moved(system, 10.0**power, seed))
    rounding = 1e-13 * term_size(system)
    assert movement.largest <= movement.weyl * (1 + 1e-9) + rounding
    assert movement.euclidean <= movement.frobenius * (1 + 1e-9) + rounding
    assert movement.total <= movement.nuclear * (1 + 1e-9) + rounding


@pytest.mark.parametrize("relative", [1e-9, 1e-6, 1e-2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_bounds_are_reached_when_a_system_only_grows(kind: str, relative: float) -> None:
    """``C`` times ``1 + eps`` moves every value by exactly ``eps`` of itself: both sides are ``eps`` of a norm."""
    before = random_system(5, 2, 3, kind=kind, radius=(0.5, 0.9999))
    after = LinearSystem(before.A, before.B, before.C * (1 + relative), real_part=before.real_part)
    hsv, movement = hankel_singular_values(before, malmquist_takenaka), hsv_movement(before, after)
    for found, wanted in (
        (movement.largest, hsv[0]),
        (movement.weyl, hsv[0]),
        (movement.euclidean, hsv.norm()),
        (movement.frobenius, hsv.norm()),
        (movement.total, hsv.sum()),
        (movement.nuclear, hsv.sum()),
    ):
        assert found == pytest.approx(relative * float(wanted), rel=1e-14 / relative + 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_small_movements_of_a_clustered_system_stay_within_bounds_that_are_small_too(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logs = torch.complex(-0.05 - 1e-3 * torch.rand(8, generator=g).double(), 1 + 1e-3 * torch.rand(8).double())
    before = from_logs(logs, normal(8, 1, generator=g), normal(1, 8, generator=g))
    movement = hsv_movement(before, moved(before, 1e-9, seed))
    assert movement.largest <= movement.weyl <= 1e-6 * term_size(before)
    assert movement.euclidean <= movement.frobenius <= 1e-6 * term_size(before)
    assert movement.total <= movement.nuclear <= 1e-6 * term_size(before)


def test_nothing_has_moved_between_a_system_and_itself() -> None:
    system = random_system(5)
    movement = hsv_movement(system, system)
    assert (movement.largest, movement.euclidean, movement.total) == (0, 0, 0)
    assert movement.nuclear <= 1e-14 * term_size(system)


@pytest.mark.parametrize("kind", KINDS)
def test_movement_to_a_reduced_dense_system_of_lower_order(kind: str) -> None:
    fom = random_system(6, 2, 2, kind=kind)
    projection = balanced(fom, 3)
    movement = hsv_movement(fom, fom.project(projection))
    assert 0 < movement.largest <= movement.weyl
    assert movement.euclidean <= movement.frobenius
    assert movement.total <= movement.nuclear
    assert movement.largest >= float(projection.hsv[3]) * (1 - 1e-9)  # the fourth value has become zero


def test_movement_between_dense_systems() -> None:
    one, two = changed_basis(random_system(3, seed=1)), changed_basis(random_system(3, seed=2))
    movement = hsv_movement(one, two)
    expected = hsv_movement(random_system(3, seed=1), random_system(3, seed=2))
    for field, value in vars(expected).items():
        assert getattr(movement, field) == pytest.approx(value, rel=1e-6), field


def test_movement_of_a_system_that_cannot_be_diagonalised() -> None:
    movement = hsv_movement(delay_line(4), lag(0.5))
    assert movement.largest == pytest.approx(1.0, rel=1e-12)  # a value of 1 that the lag does not have
    assert movement.largest <= movement.weyl


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_overlap_is_that_of_the_singular_vectors_of_the_hankel_matrices(kind: str, rank: int) -> None:
    one, two = (random_system(4, 2, 3, kind=kind, radius=(0.3, 0.7), seed=s) for s in (1, 2))
    (U1, V1), (U2, V2) = (hankel_directions(system, rank) for system in (one, two))
    overlap = subspace_overlap(one, two, rank)
    assert overlap.past == pytest.approx(float((V1 @ V2.mH).abs().square().sum()) / rank, abs=1e-10)
    assert overlap.future == pytest.approx(float((U1.mH @ U2).abs().square().sum()) / rank, abs=1e-10)


def hankel_directions(system: LinearSystem, rank: int, length: int = 60) -> tuple[Tensor, Tensor]:
    h = impulse_response(system, 2 * length - 1)
    hankel = torch.cat([torch.cat(list(h[i : i + length]), -1) for i in range(length)], -2)
    U, _, Vh = torch.linalg.svd(hankel, full_matrices=False)
    return U[:, :rank], Vh[:rank]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_overlap_of_a_system_with_itself_in_other_coordinates_is_one(kind: str, rank: int) -> None:
    system = random_system(5, 4, 4, kind=kind)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    scale = torch.logspace(-3, 3, 5, dtype=torch.float64)
    A, B, C = system.A[order], (system.B * scale[:, None])[order], (system.C / scale)[:, order]
    if kind == "real_part":
        A[0], B[0], C[:, 0] = A[0].conj(), B[0].conj(), C[:, 0].conj()
    overlap = subspace_overlap(system, LinearSystem(A, B, C, real_part=system.real_part), rank)
    assert overlap.past == pytest.approx(1, abs=1e-10)
    assert overlap.future == pytest.approx(1, abs=1e-10)


@given(system=systems(), other=st.integers(0, 2**16), data=st.data())
def test_overlap_is_a_fraction(system: LinearSystem, other: int, data: st.DataObject) -> None:
    second = random_system(4, system.n_inputs, system.n_outputs, seed=other)
    rank = data.draw(st.integers(1, min(system.order, second.order)))
    overlap = subspace_overlap(system, second, rank)
    assert 0 <= overlap.past <= 1
    assert 0 <= overlap.future <= 1
    back = subspace_overlap(second, system, rank)
    assert (back.past, back.future) == pytest.approx((overlap.past, overlap.future), abs=1e-3)


def test_directions_that_a_system_does_not_have_are_not_shared() -> None:
    plain = random_system(3, 2, 2, kind="complex")
    system = LinearSystem(plain.A, plain.B * torch.tensor([[1.0], [1.0], [0.0]]), plain.C)
    overlap = subspace_overlap(system, system, 3)
    assert (overlap.past, overlap.future) == pytest.approx((2 / 3, 2 / 3))
    nothing = LinearSystem(plain.A, plain.B, plain.C * 0)
    assert vars(subspace_overlap(nothing, nothing, 1)) == {"past": 0.0, "future": 0.0}


@pytest.mark.parametrize("seed", range(4))
def test_overlap_of_systems_in_different_bands_is_small(seed: int) -> None:
    low = random_system(4, 2, 2, seed=seed, radius=(0.95, 0.99), angle=(0.1, 0.8))
    high = random_system(4, 2, 2, seed=seed + 100, radius=(0.95, 0.99), angle=(2.0, 3.0))
    overlap = subspace_overlap(low, high, 4)
    assert max(overlap.past, overlap.future) < 0.05


def test_overlap_sees_inputs_and_outputs_apart() -> None:
    """Two systems that listen to the same signals in the same way and answer on different channels."""
    plain = random_system(3, 2, 2, kind="complex")
    quiet = torch.zeros_like(plain.C)
    one, two = (LinearSystem(plain.A, plain.B, torch.cat(C)) for C in ((plain.C, quiet), (quiet, plain.C)))
    overlap = subspace_overlap(one, two, 3)
    assert overlap.past == pytest.approx(1, abs=1e-9)
    assert overlap.future == pytest.approx(0, abs=1e-9)


def test_systems_are_compared_one_by_one_and_overlap_wants_modes() -> None:
    system = random_system(3)
    batch = batch_of([system, system])
    for compare in (hsv_movement, lambda a, b: subspace_overlap(a, b, 2)):
        with pytest.raises(ShapeError, match=r"is a batch of shape \(2,\)"):
            compare(batch, batch)
    with pytest.raises(ShapeError, match=r"is dense\.(.|\n)*diagonalized\(\)"):
        subspace_overlap(system, changed_basis(system), 2)
    with pytest.raises(ShapeError, match="rank 5 was asked for, of a system of order 4"):
        subspace_overlap(system, random_system(2), 5)
    with pytest.raises(ShapeError, match="Only systems with the same inputs and outputs"):
        hsv_movement(system, random_system(3, 1, 1))


steps = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0])  # many ties
spectra = st.lists(st.one_of(steps, st.floats(0, 4)), min_size=1, max_size=8).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)
taus = st.one_of(st.sampled_from([0.0, 0.01, 0.05, 0.25, 0.5, 0.75]), st.floats(0, 0.999))


@given(hsv=spectra, tau=taus, data=st.data())
def test_a_certified_rank_survives_every_movement_within_the_bound(
    hsv: Tensor, tau: float, data: st.DataObject
) -> None:
    nuclear = data.draw(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(-9, -1).map(lambda x: 10.0**x)))
    assume(rank_certificate(hsv, tau, nuclear))
    directions = data.draw(st.lists(st.floats(-1, 1), min_size=len(hsv), max_size=len(hsv)))
    one_place = data.draw(st.integers(0, len(hsv) - 1))
    for direction in (torch.tensor(directions).double(), torch.eye(len(hsv)).double()[one_place]):
        for sign in (1, -1):
            change = sign * nuclear * direction / direction.abs().sum().clamp(min=1e-300)
            after = (hsv + change).clamp(min=0).sort(descending=True).values
            if float((after - hsv).abs().sum()) <= nuclear:
                assert energy_rank(after, tau) == energy_rank(hsv, tau)


def test_a_rank_is_certified_up_to_the_movement_that_can_change_it() -> None:
    hsv, tau = torch.tensor([8.0, 4, 2, 1], dtype=torch.float64), 0.1  # 15: kept 14 >= 13.5 > 12
    assert energy_rank(hsv, tau) == 3
    # One state fewer needs 0.9 (2 + 1) - 0.1 (8 + 4) = 1.5 less in the tail, one more 0.1 * 14 - 0.9 = 0.5 less room.
    assert rank_certificate(hsv, tau, 0.5 / 0.9 - 1e-9)
    assert not rank_certificate(hsv, tau, 0.5 / 0.9 + 1e-9)
    changed = hsv + torch.tensor([0, 0, 0, 0.5 / 0.9 + 1e-9], dtype=torch.float64)
    assert energy_rank(changed, tau) == 4


def test_the_guard_of_the_energy_rule_is_part_of_the_certificate() -> None:
    hsv, tau = torch.tensor([2.0, 1.0], dtype=torch.float64), 0.3
    nearly = 0.1 / 0.7 * (1 - 1e-13)  # takes the rule to within its rounding guard of rank 1
    assert energy_rank(hsv, tau) == 2
    assert energy_rank(hsv - torch.tensor([0, nearly]), tau) == 1
    assert not rank_certificate(hsv, tau, nearly)


@given(hsv=spectra, tau=st.floats(0.01, 0.9))
def test_a_settled_spectrum_is_certified_unless_the_rule_is_at_a_tie(hsv: Tensor, tau: float) -> None:
    total, kept = float(hsv.sum()), hsv.cumsum(0)
    assume(total > 0 and (kept - (1 - tau) * total).abs().min() > 1e-6 * total)
    assert rank_certificate(hsv, tau, 1e-7 * total)


def test_the_certificate_follows_from_a_movement_between_systems() -> None:
    before = random_system(6, 2, 2, seed=3)
    after = moved(before, 1e-6, 3)
    hsv = hankel_singular_values(before)
    movement = hsv_movement(before, after)
    assert rank_certificate(hsv, 0.1, movement.nuclear)
    assert energy_rank(hankel_singular_values(after), 0.1) == energy_rank(hsv, 0.1)
