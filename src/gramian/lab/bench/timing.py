"""Seconds of several contestants, all of them once a round: the machine's moods hit all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gramian.errors import ConfigError
from gramian.lab.bench.settings import CannotRun

__all__ = ["Call", "Spread", "Turns", "in_turns", "ready"]

Call = Callable[[], object]

_MOST_CALLS = 10_000


@dataclass(frozen=True)
class Spread:
    """Median and range of `n` samples."""

    median: float
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, samples: Iterable[float]) -> Spread:
        """The spread of these samples."""
        values = list(samples)
        return cls(statistics.median(values), min(values), max(values), len(values))

    def times(self, unit: float) -> str:
        """``median (min-max)`` in a unit of which `unit` make one, three digits."""
        low, high = number(self.min * unit), number(self.max * unit)
        return f"{number(self.median * unit)} ({low}-{high})"

    def __str__(self) -> str:
        return self.times(1)


def number(value: float) -> str:
    """Three digits, without an exponent where it can be read without."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


@dataclass(frozen=True)
class Turns:
    """Seconds a call, for every contestant and round, and how many calls a turn was made of."""

    samples: Mapping[str, tuple[float, ...]]
    calls: Mapping[str, int]

    def __contains__(self, name: str) -> bool:
        return name in self.samples

    def spread(self, name: str) -> Spread:
        """Seconds of one contestant."""
        return Spread.of(self.samples[name])

    def ratio(self, name: str, other: str) -> Spread:
        """Seconds of `name` over seconds of `other`, pair by pair."""
        return Spread.of(a / b for a, b in zip(self.samples[name], self.samples[other], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """All samples, for a results file."""
        return {"seconds": {k: list(v) for k, v in self.samples.items()}, "calls": dict(self.calls)}


def in_turns(
    contestants: Mapping[str, Call], rounds: int, warmup: int = 2, least: float = 0.05, settle: int = 0
) -> Turns:
    """Time contestants in turns, A B C A B C ..., after `warmup` rounds that are not counted.

    A turn is as many calls as take about `least` seconds, by the last call of the warm-up, and counts as their mean:
    so that threads of the contestant before, which spin for a moment, and caches it filled weigh little. `settle` calls
    ahead of every turn are not counted: for contestants so large that even the memory they freed weighs on the next.
    """
    last = dict.fromkeys(contestants, 0.0)
    for _ in range(warmup):
        for name, call in contestants.items():
            last[name] = _seconds(call, 1, settle)
    calls = {name: _calls(seconds, least) for name, seconds in last.items()}
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            samples[name].append(_seconds(call, calls[name], settle))
    return Turns({name: tuple(values) for name, values in samples.items()}, calls)


def ready(contestants: Mapping[str, Callable[[], Call]]) -> tuple[dict[str, Call], dict[str, str]]:
    """Those that run here, built and called once, and for the others the reason why they do not."""
    here: dict[str, Call] = {}
    missing: dict[str, str] = {}
    for name, build in contestants.items():
        built = _built(build)
        if isinstance(built, str):
            missing[name] = built
        else:
            here[name] = built
    return here, missing


def _built(build: Callable[[], Call]) -> Call | str:
    try:
        call = build()
        call()
    except (CannotRun, ConfigError) as reason:
        return str(reason).splitlines()[0]
    return call


def _seconds(call: Call, calls: int, settle: int) -> float:
    for _ in range(settle):
        call()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _calls(seconds: float, least: float) -> int:
    return max(1, min(_MOST_CALLS, math.ceil(least / seconds))) if seconds > 0 else 1
