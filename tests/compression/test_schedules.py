"""Schedules fire exactly when they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import make_net

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Shrink
from gramian.compression.schedules import At, Every, Never, Schedule, WhenStable
from gramian.errors import GramianError
from gramian.layers.reducible import Spectrum
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem

STEPS = st.integers(1, 60)
SCHEDULES = (
    st.builds(Every, STEPS, STEPS, st.none() | STEPS)
    | st.builds(At, st.lists(STEPS, unique=True))
    | st.just(Never())
    | st.builds(WhenStable, STEPS, STEPS)
)


@given(schedule=SCHEDULES)
def test_schedule_fires_exactly_when_it_says(schedule: Schedule) -> None:
    assert [step for step in range(200) if schedule.due(step)] == schedule.steps
    assert schedule.steps == sorted(set(schedule.steps))


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [
        (Every(2000, until=10_000), [2000, 4000, 6000, 8000, 10_000]),
        (Every(200, until=1300, start=500), [500, 700, 900, 1100, 1300]),
        (Every(3, until=8), [3, 6]),
        (Every(5, until=4), []),
        (At([7, 3]), [3, 7]),
        (At([]), []),
        (Never(), []),
        (WhenStable(every=10, until=35), [10, 20, 30]),
    ],
)
def test_steps_are_those_of_the_definition(schedule: Schedule, steps: list[int]) -> None:
    assert schedule.steps == steps


@pytest.mark.parametrize("make", [lambda: Every(0, 5), lambda: Every(5, 0), lambda: Every(5, 9, start=0)])
def test_every_needs_positive_numbers(make) -> None:
    with pytest.raises(GramianError, match="at least 1"):
        make()


@pytest.mark.parametrize("at", [[0], [-3], [4, 4]])
def test_at_needs_different_steps_from_one_on(at: list[int]) -> None:
    with pytest.raises(GramianError, match="different steps of at least 1"):
        At(at)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"until": 0}, {"checks": 0}, {"tau": 0.0}, {"tau": 1.0}, {"overlap": 1.1}]
)
def test_when_stable_refuses_what_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(GramianError, match="needed"):
        WhenStable(**{"every": 5, "until": 10, **wrong})


def look(seed: int = 0, poles: tuple[float, ...] = (0.9, -0.7, 0.4, 0.1), wobble: float = 0.0) -> dict[str, Spectrum]:
    """What a schedule sees of one layer with these poles."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"dtype": torch.complex128, "generator": generator}
    B, C = torch.randn(4, 2, **shapes), torch.randn(2, 4, **shapes)
    A = torch.tensor(poles, dtype=torch.float64) * torch.exp(1j * torch.arange(4.0, dtype=torch.float64))
    system = LinearSystem(A, B + wobble, C, real_part=True)
    return {"lru": Spectrum(hankel_singular_values(system), "HSVs", 4, system)}


@pytest.mark.parametrize("schedule", [Every(1, 9), At([1, 2]), Never()])
def test_schedules_that_only_count_never_object(schedule: Schedule) -> None:
    assert schedule.objection([look(0), look(1)]) == ""


@pytest.mark.parametrize("checks", [1, 2, 4])
def test_when_stable_wants_so_many_calm_looks_in_a_row(checks: int) -> None:
    schedule = WhenStable(1, 100, checks=checks)
    for looks in range(1, checks + 1):
        objection = schedule.objection([look()] * looks)
        assert objection == f"{looks - 1} of {checks} comparisons made since the start or the last cut"
    assert schedule.objection([look()] * (checks + 1)) == ""
    assert schedule.objection([look(5)] + [look()] * (checks + 1)) == ""  # what lies further back does not count


def test_when_stable_objects_while_subspaces_still_turn() -> None:
    schedule = WhenStable(1, 100, change=1e9, checks=1)
    objection = schedule.objection([look(0), look(1)])
    assert objection.startswith("'lru' has not settled: overlap 0.")
    assert objection.endswith("is below 0.95")
    assert schedule.objection([look(0), look(0, wobble=1e-3)]) == ""


def test_when_stable_objects_while_the_rank_still_moves() -> None:
    schedule = WhenStable(1, 100, tau=0.05, change=0.1, overlap=0.0, checks=1)
    slow, fast = look(0, (0.99, 0.1, 0.1, 0.1)), look(0, (0.5, -0.5, 0.4, -0.4))
    assert schedule.objection([slow, fast]).startswith("'lru' has not settled: rank for tau=0.05 went from ")
    assert WhenStable(1, 100, change=9.0, overlap=0.0, checks=1).objection([slow, fast]) == ""


def test_when_stable_objects_to_unrest_anywhere_in_the_row() -> None:
    schedule = WhenStable(1, 100, checks=2)
    assert "not settled" in schedule.objection([look(1), look(0), look(0)])
    assert "not settled" in schedule.objection([look(0), look(0), look(1)])


def test_when_stable_needs_linear_systems() -> None:
    scores = {"mamba": Spectrum(torch.ones(3), "calibrated scores", 3)}
    with pytest.raises(GramianError, match=r"calibrated scores(.|\n)*Use Every"):
        WhenStable(1, 9, checks=1).objection([scores, scores])


def test_when_stable_cuts_after_calm_looks_and_starts_anew_after_a_cut() -> None:
    compressor = Compressor(
        make_net(), policy=Shrink(0.25), schedule=WhenStable(every=3, until=40, checks=2)
    )  # nothing is trained, so every look is calm
    events = [compressor.step() for _ in range(45)]
    assert [e.step for e in events if e.kind == "cut"] == [9, 18, 27, 36]
    assert [e.step for e in events if e.kind == "skipped"] == [3, 6, 12, 15, 21, 24, 30, 33, 39]
    reasons = [e.reason for e in events if e.kind == "skipped"]
    assert reasons[:4] == [f"{n} of 2 comparisons made since the start or the last cut" for n in (0, 1, 0, 1)]
