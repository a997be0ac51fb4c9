"""Contestants timed in turns; a clock of our own tells what is counted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gramian.errors import ConfigError
from gramian.lab.bench.settings import CannotRun
from gramian.lab.bench.timing import Spread, in_turns, ready


class Clock:
    """Time passes only when a contestant says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 100.0, ""
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def contestant(self, name: str, *seconds: float) -> Callable[[], None]:
        durations = list(seconds)

        def run() -> None:
            self.calls += name
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_every_contestant_has_its_turn_in_every_round_and_warm_up_is_not_counted(clock: Clock) -> None:
    contestants = {name: clock.contestant(name, 50.0, float(i + 1)) for i, name in enumerate("ABC")}
    turns = in_turns(contestants, rounds=3, warmup=1, least=0.0)
    assert clock.calls == "ABC" * 4
    assert turns.samples == {"A": (1.0,) * 3, "B": (2.0,) * 3, "C": (3.0,) * 3}


def test_calls_to_settle_are_not_counted(clock: Clock) -> None:
    contestants = {"A": clock.contestant("A", *[9.0, 1.0] * 9), "B": clock.contestant("B", 2.0)}
    turns = in_turns(contestants, rounds=2, warmup=1, least=0.0, settle=1)
    assert clock.calls == "AABB" * 3
    assert turns.samples == {"A": (1.0, 1.0), "B": (2.0, 2.0)}


def test_ratio_is_taken_round_by_round_so_that_the_machines_moods_cancel(clock: Clock) -> None:
    contestants = {"A": clock.contestant("A", 2.0, 20.0, 6.0), "B": clock.contestant("B", 1.0, 10.0, 2.0)}
    ratio = in_turns(contestants, rounds=3, warmup=0).ratio("A", "B")
    assert ratio == Spread(2.0, 2.0, 3.0, 3)


def test_turns_of_the_quick_are_as_many_calls_as_fill_them_and_count_as_their_mean(clock: Clock) -> None:
    contestants = {"A": clock.contestant("A", 9.0, 0.02), "B": clock.contestant("B", 9.0, 1.0)}
    turns = in_turns(contestants, rounds=2, warmup=2, least=0.05)
    assert clock.calls == "AB" + "AB" + "AAAB" * 2
    assert turns.calls == {"A": 3, "B": 1}
    assert turns.samples["A"] == pytest.approx((0.02, 0.02))


def test_spread_is_median_and_range_of_all_samples() -> None:
    spread = Spread.of([3e-3, 1e-3, 2e-3, 9e-3])
    assert spread == Spread(2.5e-3, 1e-3, 9e-3, 4)
    assert spread.times(1e3) == "2.5 (1-9)"


def test_contestant_that_cannot_run_has_a_reason_instead_of_a_time() -> None:
    def refuses() -> Callable[[], None]:
        raise CannotRun("no such device")

    def fails_when_called() -> Callable[[], None]:
        def call() -> None:
            raise ConfigError("backend 'x' was asked for.", "and more")

        return call

    def runs() -> Callable[[], None]:
        return lambda: None

    here, missing = ready({"a": refuses, "b": fails_when_called, "c": runs})
    assert list(here) == ["c"]
    assert missing == {"a": "no such device", "b": "backend 'x' was asked for."}


def test_contestant_of_ours_that_crashes_is_not_hidden() -> None:
    def crashes() -> Callable[[], None]:
        raise RuntimeError("wrong")

    with pytest.raises(RuntimeError, match="wrong"):
        ready({"ours": crashes})
