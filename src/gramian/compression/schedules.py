"""Which steps: objects that can say beforehand when they act.

Steps are optimizer steps, counted from 1. Schedules are frozen values; what they need to remember is handed to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gramian.errors import GramianError
from gramian.layers.reducible import Spectrum
from gramian.systems.drift import subspace_overlap
from gramian.systems.hankel import energy_rank

__all__ = ["At", "Every", "Never", "Schedule", "WhenStable"]


class Schedule(ABC):
    """When spectra are looked at, and whether a cut is then made."""

    @property
    @abstractmethod
    def steps(self) -> list[int]:
        """All steps at which the schedule acts, ascending."""

    @property
    def remembers(self) -> int:
        """How many of the latest spectra `objection` wants to see."""
        return 1

    def due(self, step: int) -> bool:
        """Whether the schedule acts at `step`."""
        return step in self.steps

    def objection(self, history: Sequence[Mapping[str, Spectrum]]) -> str:
        """Why no cut should be made although the schedule acts now; empty if there is nothing to object.

        `history` holds the spectra at the latest steps at which the schedule acted since the last cut, newest last.
        """
        return ""


@dataclass(frozen=True)
class Every(Schedule):
    """Every `k` steps from `start` (by default `k`) up to and including `until`."""

    k: int
    until: int
    start: int | None = None

    def __post_init__(self) -> None:
        if self.k < 1 or self.until < 1 or (self.start is not None and self.start < 1):
            raise GramianError(f"{self} was given; needed: k, until and start of at least 1.")

    @property
    def steps(self) -> list[int]:
        return list(range(self.k if self.start is None else self.start, self.until + 1, self.k))

    def due(self, step: int) -> bool:
        start = self.k if self.start is None else self.start
        return start <= step <= self.until and (step - start) % self.k == 0


@dataclass(frozen=True)
class At(Schedule):
    """At exactly these steps."""

    at: Sequence[int]

    def __post_init__(self) -> None:
        if any(step < 1 for step in self.at) or len(set(self.at)) != len(self.at):
            raise GramianError(f"{self} was given; needed: different steps of at least 1.")

    @property
    def steps(self) -> list[int]:
        return sorted(self.at)


@dataclass(frozen=True)
class Never(Schedule):
    """At no step: the model keeps its size."""

    @property
    def steps(self) -> list[int]:
        return []


@dataclass(frozen=True)
class WhenStable(Schedule):
    """Cut when the ranking has settled: look every `every` steps, and cut after `checks` calm looks in a row.

    A look is calm when, since the one before, in every layer the rank for the tolerance `tau` has changed by at
    most the fraction `change`, and the dominant subspaces of that rank overlap by at least `overlap`, seen from
    past inputs and from future outputs. After a cut, counting starts anew.

    Parameters
    ----------
    every, until
        Look at these steps, ``every, 2 every, ...`` up to and including `until`.
    tau
        Tolerance of the rank that is watched.
    overlap, change, checks
        What calm means, and how often it must be seen.
    """

    every: int
    until: int
    tau: float = 0.05
    overlap: float = 0.95
    change: float = 0.1
    checks: int = 2

    def __post_init__(self) -> None:
        if self.every < 1 or self.until < 1 or self.checks < 1:
            raise GramianError(f"{self} was given; needed: every, until and checks of at least 1.")
        if not (0 < self.tau < 1 and 0 <= self.overlap <= 1 and self.change >= 0):
            raise GramianError(f"{self} was given; needed: 0 < tau < 1, 0 <= overlap <= 1, change >= 0.")

    @property
    def steps(self) -> list[int]:
        """The steps at which it looks; which of them bring a cut depends on the training."""
        return list(range(self.every, self.until + 1, self.every))

    @property
    def remembers(self) -> int:
        return self.checks + 1

    def objection(self, history: Sequence[Mapping[str, Spectrum]]) -> str:
        recent = list(history)[-self.remembers :]
        if len(recent) < self.remembers:
            return f"{len(recent) - 1} of {self.checks} comparisons made since the start or the last cut"
        for before, after in pairwise(recent):
            for name in after:
                unrest = self._unrest(before[name], after[name])
                if unrest:
                    return f"'{name}' has not settled: {unrest}"
        return ""

    def _unrest(self, before: Spectrum, after: Spectrum) -> str:
        if before.system is None or after.system is None:
            raise GramianError(
                f"WhenStable was given for a layer whose spectrum is: {after.measure}.",
                "Subspaces can be compared only between linear time-invariant layers.",
                "Use Every(...) or At([...]).",
            )
        was, now = energy_rank(before.values, self.tau), energy_rank(after.values, self.tau)
        if abs(now - was) > self.change * was:
            return f"rank for tau={self.tau} went from {was} to {now}"
        shared = subspace_overlap(before.system, after.system, now)
        if min(shared.past, shared.future) < self.overlap:
            return f"overlap {shared.past:.3f} (past), {shared.future:.3f} (future) is below {self.overlap}"
        return ""
