"""A cut that costs too much is undone, bit by bit."""

from __future__ import annotations

from typing import Any

import pytest
from small_models import identical, make_net
from watched_runs import Run

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Rank, Shrink
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Every
from gramian.errors import GramianError


@pytest.mark.parametrize("metric", [0.88, 0.9, 0.95])
def test_a_metric_within_the_drop_confirms_the_cut(metric: float) -> None:
    run = Run(drop=0.02 + 1e-12)
    run.until_cut(0.9)
    assert run.step(metric).kind == "none"
    for _ in range(3):
        assert run.step(0.0).kind == "none"  # later losses are not the cut's
    assert run.compressor.d_states == {"layers.0.lru": 6, "layers.1.lru": 4}


def test_the_mark_is_the_last_metric_before_the_cut() -> None:
    run = Run(schedule=At([4]))
    run.step(0.95)
    run.step(0.5)
    run.step()
    run.step()
    assert run.compressor.d_states["layers.0.lru"] == 6
    assert run.step(0.49).kind == "none"
    other = Run(schedule=At([2]))
    other.step(0.5)
    assert other.step(0.95).kind == "cut"
    assert other.step(0.9).kind == "rolled_back"


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_how_many_bad_reports_in_a_row_are_one_too_many(patience: int) -> None:
    run = Run(patience=patience)
    run.until_cut()
    for _ in range(patience - 1):
        assert run.step(0.1).kind == "none"
        assert run.step().kind == "none"
    assert run.step(0.1).kind == "rolled_back"


def test_one_good_report_ends_the_watch_whatever_came_before() -> None:
    run = Run(patience=3)
    run.until_cut()
    for metric in (0.1, 0.1, 0.9, 0.1, 0.1, 0.1):
        assert run.step(metric).kind == "none"


@pytest.mark.parametrize(("better", "bad", "good"), [("higher", 0.8, 1.5), ("lower", 1.5, 0.8)])
def test_better_says_which_way_a_metric_falls(better: str, bad: float, good: float) -> None:
    for metric, kind in ((bad, "rolled_back"), (good, "none")):
        run = Run(better=better)
        run.until_cut(0.9)
        assert run.step(metric).kind == kind


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_rolls_back(metric: float, better: str) -> None:
    run = Run(better=better)
    before = run.until_cut()
    event = run.step(-metric if better == "higher" else metric)
    assert event.kind == "rolled_back"
    assert identical(run.everything(), before)


def test_cautious_cuts_half_as_much_after_each_roll_back() -> None:
    run = Run(Shrink(0.5), Every(2, until=40))
    for by, sizes in ((0.5, (6, 4)), (0.25, (9, 6)), (0.125, (10, 7))):  # round(10.5), round(7)
        assert run.compressor.policy == Shrink(by)
        run.until_cut()
        assert tuple(run.compressor.d_states.values()) == sizes
        event = run.step(0.0)
        assert event.reason.endswith(f"goes on with {Shrink(by / 2)}")


def test_stop_makes_no_more_cuts() -> None:
    run = Run(Shrink(0.5), Every(2, until=40), then="stop")
    run.until_cut()
    assert run.step(0.0).reason.endswith("; no more cuts")
    assert run.compressor.policy is None
    assert {run.step(0.9).kind for _ in range(6)} == {"none"}
    assert run.compressor.d_states == {"layers.0.lru": 12, "layers.1.lru": 8}


def test_a_policy_that_cannot_be_more_cautious_stops() -> None:
    run = Run(Rank(4), Every(2, until=40), then="cautious")
    run.until_cut()
    assert run.step(0.0).reason.endswith("; no more cuts")
    assert {run.step(0.9).kind for _ in range(6)} == {"none"}


def test_no_further_cut_is_made_before_the_last_one_is_confirmed() -> None:
    run = Run(Shrink(0.25), Every(2, until=40))
    run.until_cut()  # at step 2
    assert run.step().kind == "none"
    event = run.step()
    assert (event.kind, event.reason) == (
        "skipped",
        "the cut at step 2 is not confirmed yet: waiting for step(metric=...)",
    )
    assert run.step(0.9).kind == "none"
    assert run.step().kind == "cut"


def test_a_metric_is_needed_before_the_first_cut() -> None:
    run = Run(schedule=At([1, 3]))
    event = run.step()
    assert (event.kind, event.reason) == (
        "skipped",
        "a roll-back needs the metric before the first cut: call step(metric=...)",
    )
    assert run.step(0.9).kind == "none"
    assert run.step().kind == "cut"


def test_without_a_roll_back_a_metric_is_ignored() -> None:
    model = make_net()
    compressor = Compressor(model, policy=Shrink(0.5), schedule=At([1]))
    assert compressor.step(0.9).kind == "cut"
    assert compressor.step(float("nan")).kind == "none"


@pytest.mark.parametrize(
    "wrong", [{"drop": -0.1}, {"patience": 0}, {"better": "more"}, {"then": "panic"}, {"drop": float("nan")}]
)
def test_a_roll_back_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(GramianError, match="needed"):
        RollBack(**{"drop": 0.1, **wrong})


def test_energy_becomes_cautious_too() -> None:
    run = Run(Energy(0.3), Every(2, until=40))
    run.until_cut()
    run.step(0.0)
    assert run.compressor.policy == Energy(0.15)


def test_a_metric_that_is_no_number_before_a_cut_is_no_mark() -> None:
    run = Run()
    run.compressor.step(metric=float("nan"))
    assert run.compressor.state_dict()["mark"] is None
    run.compressor.step(metric=0.5)
    run.compressor.step(metric=float("nan"))
    assert run.compressor.state_dict()["mark"] == 0.5
