"""Two callables timed in turns; a clock of our own tells what is counted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from gramian.lab.timing import interleaved


class Clock:
    """Time passes only when a task says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.calls = 100.0, ""
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def task(self, name: str, *seconds: float) -> Callable[[], None]:
        durations = list(seconds)

        def run() -> None:
            self.calls += name
            self.now += durations.pop(0)

        return run


def test_calls_alternate_and_warm_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = clock.task("A", 50.0, 4.0, 2.0, 9.0)
    second = clock.task("B", 70.0, 2.0, 4.0, 3.0)
    times = interleaved(first, second, rounds=3, warmup=1)
    assert clock.calls == "ABABABAB"
    assert times["first"] == {"median": 4.0, "min": 2.0, "max": 9.0, "n": 3}
    assert times["second"] == {"median": 3.0, "min": 2.0, "max": 4.0, "n": 3}


def test_ratio_is_taken_pair_by_pair_and_not_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    # A mood of the machine slows the second round tenfold, for both: the ratio does not see it.
    times = interleaved(clock.task("A", 2.0, 20.0, 4.0), clock.task("B", 1.0, 10.0, 2.0), rounds=3, warmup=0)
    assert times["ratio"] == {"median": 2.0, "min": 2.0, "max": 2.0, "n": 3}


def test_by_default_seven_rounds_are_counted() -> None:
    calls = {"a": 0, "b": 0}

    def count(name: str) -> None:
        calls[name] += 1

    times = interleaved(lambda: count("a"), lambda: count("b"))
    assert {key: spread["n"] for key, spread in times.items()} == {"first": 7, "second": 7, "ratio": 7}
    assert calls == {"a": 9, "b": 9}
    for spread in times.values():
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
