"""Spectra in, ranks out: how many states each layer keeps.

A policy is a frozen value. Modifiers return a new one::

    Energy(tau=0.04).at_least(8).except_for("encoder.*").uniform()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, NamedTuple, TypeVar

from gramian.errors import GramianError
from gramian.layers.reducible import Spectrum
from gramian.systems.hankel import bound_rank, energy_rank

__all__ = ["Budget", "Energy", "ErrorBound", "Policy", "Rank", "RoundTo", "Shrink", "Target"]

RoundTo = int | Literal["pow2"] | None
_P = TypeVar("_P", bound="Policy")


class Target(NamedTuple):
    """A rank as the rule asks for it, and as it is after limits and rounding."""

    asked: int
    rank: int


@dataclass(frozen=True)
class Policy(ABC):
    """What all policies share: limits on the ranks that a rule asks for.

    Parameters
    ----------
    minimum
        States that every layer keeps at least.
    excluded
        Patterns (as in file names) of layers that are left alone.
    same
        All layers get the largest rank that any of them needs.
    round_to
        Round ranks up to a multiple of this number, or to a power of two (``"pow2"``).
    min_gain
        A cut that removes less than this fraction of a layer's states is not made.
    """

    minimum: int = field(default=1, kw_only=True)
    excluded: tuple[str, ...] = field(default=(), kw_only=True)
    same: bool = field(default=False, kw_only=True)
    round_to: RoundTo = field(default=None, kw_only=True)
    min_gain: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        if self.minimum < 1:
            raise GramianError(f"at_least({self.minimum}) was given; needed: a layer keeps at least 1 state.")
        if not 0 <= self.min_gain < 1:
            raise GramianError(f"min_gain={self.min_gain} was given; needed: a fraction 0 <= min_gain < 1.")
        if not (self.round_to in (None, "pow2") or (isinstance(self.round_to, int) and self.round_to >= 1)):
            raise GramianError(f"round_to={self.round_to!r} was given; needed: None, 'pow2' or a whole number >= 1.")

    @abstractmethod
    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        """The ranks that the rule itself asks for, one for each spectrum, before limits and rounding."""

    @abstractmethod
    def cautious(self) -> Policy | None:
        """A policy of the same kind that cuts less; None where that cannot be said."""

    def __call__(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        """The states every layer keeps; a layer that is not to be cut keeps its ``d_state``."""
        return {name: target.rank for name, target in self.targets(spectra).items()}

    def targets(self, spectra: Mapping[str, Spectrum]) -> dict[str, Target]:
        """For every layer the rank that the rule asks for, and the rank after limits and rounding."""
        included = {n: s for n, s in spectra.items() if not any(fnmatchcase(n, p) for p in self.excluded)}
        asked = self.asked(included) if included else {}
        if self.same and asked:
            asked = dict.fromkeys(asked, max(asked.values()))
        unchanged = {name: Target(s.d_state, s.d_state) for name, s in spectra.items()}
        return unchanged | {name: Target(rank, self._limited(rank, spectra[name])) for name, rank in asked.items()}

    def _limited(self, rank: int, spectrum: Spectrum) -> int:
        rank = _rounded_up(max(rank, self.minimum), self.round_to)
        gain = (spectrum.d_state - rank) / spectrum.d_state
        return rank if gain > 0 and gain >= self.min_gain else spectrum.d_state

    def at_least(self: _P, n: int) -> _P:
        """The same policy, but every layer keeps `n` states or more."""
        return replace(self, minimum=n)

    def except_for(self: _P, *patterns: str) -> _P:
        """The same policy, but layers whose name matches one of `patterns` (``"blocks.0.*"``) are left alone."""
        return replace(self, excluded=self.excluded + patterns)

    def uniform(self: _P) -> _P:
        """The same policy, but all layers get the largest rank that any of them needs."""
        return replace(self, same=True)


@dataclass(frozen=True)
class Energy(Policy):
    """Keep the smallest rank that holds the fraction ``1 - tau`` of the sum of the spectrum.

    ``tau`` is no error: it compounds over repeated cuts, and the true error is usually far smaller. A real pole takes
    a complex state of its own, so a cut can give up slightly more than was asked. Events report what was given up,
    by the cut and in total.
    """

    tau: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.tau < 1:
            raise GramianError(f"Energy(tau={self.tau}) was given; needed: a fraction 0 <= tau < 1.")

    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        return {name: s.d_state_for(energy_rank(s.values, self.tau)) for name, s in spectra.items()}

    def cautious(self) -> Energy:
        return replace(self, tau=self.tau / 2)


@dataclass(frozen=True)
class ErrorBound(Policy):
    """Keep the smallest rank whose error bound, twice the discarded tail, is at most ``eps * ||G||_inf``."""

    eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eps > 0:
            raise GramianError(f"ErrorBound(eps={self.eps}) was given; needed: eps > 0, relative to the layer's norm.")

    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        return {
            name: s.d_state_for(bound_rank(s.values, self.eps * self._norm(name, s))) for name, s in spectra.items()
        }

    def _norm(self, name: str, spectrum: Spectrum) -> float:
        if spectrum.system is None:
            raise GramianError(
                f"ErrorBound was given for '{name}', whose spectrum is: {spectrum.measure}.",
                "Only a linear time-invariant layer has an a-priori error bound.",
                f'Use Energy(tau=...), or leave it out: ErrorBound({self.eps}).except_for("{name}").',
            )
        return spectrum.norm

    def cautious(self) -> ErrorBound:
        return replace(self, eps=self.eps / 2)


@dataclass(frozen=True)
class Rank(Policy):
    """Keep `n` states in every layer (all, where a layer has fewer)."""

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n < 1:
            raise GramianError(f"Rank(n={self.n}) was given; needed: n >= 1.")

    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        return {name: min(self.n, s.d_state) for name, s in spectra.items()}

    def cautious(self) -> None:
        return None


@dataclass(frozen=True)
class Shrink(Policy):
    """Remove the fraction `by` of every layer's states at each cut, whatever the spectrum says."""

    by: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.by < 1:
            raise GramianError(f"Shrink(by={self.by}) was given; needed: a fraction 0 < by < 1.")

    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        return {name: max(1, round(s.d_state * (1 - self.by))) for name, s in spectra.items()}

    def cautious(self) -> Shrink:
        return replace(self, by=self.by / 2)


@dataclass(frozen=True)
class Budget(Policy):
    """Share `total` states among all layers: one common energy tolerance, found by bisection.

    Where the values of different layers are in one unit (``Spectrum.comparable``: scores of what a state does to the
    loss), the largest `total` of all values are kept instead, and one state of every layer at least.

    Limits act after the sharing and may exceed the total: ``min_gain=0`` cuts even where little is gained.
    """

    total: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total < 1:
            raise GramianError(f"Budget(total={self.total}) was given; needed: total >= 1.")

    def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        if self.total < len(spectra):
            raise GramianError(
                f"Budget(total={self.total}) was given for {len(spectra)} layers; needed: one state for each at least."
            )

        if all(s.comparable for s in spectra.values()):
            return self._largest(spectra)

        def ranks(tau: float) -> dict[str, int]:
            return {n: min(s.d_state, s.d_state_for(energy_rank(s.values, tau))) for n, s in spectra.items()}

        low, high = 0.0, 1.0 - 1e-12
        if sum(ranks(low).values()) <= self.total:
            return ranks(low)
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if sum(ranks(middle).values()) > self.total else (low, middle)
        return ranks(high)

    def _largest(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
        others = [(float(v), name) for name, s in spectra.items() for v in s.values[1 : s.d_state]]
        taken = [name for _, name in sorted(others, reverse=True)[: self.total - len(spectra)]]
        return {name: 1 + taken.count(name) for name in spectra}

    def cautious(self) -> None:
        return None


def _rounded_up(rank: int, to: RoundTo) -> int:
    if to is None:
        return rank
    if to == "pow2":
        return 1 << (rank - 1).bit_length()
    return -(-rank // to) * to
