"""A bounded sample of sequences from a stream of any length."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Reservoir"]


@dataclass(frozen=True, eq=False)
class _Drawn:
    place: float  # in the random order
    x: Tensor
    gradient: Tensor | None

    def shortened(self, length: int) -> _Drawn:
        gradient = None if self.gradient is None else self.gradient[:length].clone()
        return _Drawn(self.place, self.x[:length].clone(), gradient)


class Reservoir:
    """The first of all sequences that came by, in a random order, as many as hold `tokens` steps.

    Each has the same chance; the last one is cut to what is left. Nothing beyond these steps is kept.
    """

    def __init__(self, tokens: int, generator: torch.Generator) -> None:
        self.tokens, self.generator = tokens, generator
        self._drawn: list[_Drawn] = []
        self._steps = 0
        self._end = 1.0  # places from here on have no room

    def offer(self, x: Tensor, gradient: Tensor | None = None) -> None:
        """Draw a place for the sequence `x`, ``(L, ...)``; keep a copy, with what belongs to its steps, if it fits."""
        place = float(torch.rand((), generator=self.generator, dtype=torch.float64))
        if place >= self._end or not len(x):
            return
        new = _Drawn(place, x, gradient).shortened(min(len(x), self.tokens))
        insort(self._drawn, new, key=lambda drawn: drawn.place)
        self._steps += len(new.x)
        while self._steps > self.tokens:
            last = self._drawn.pop()
            self._end = last.place
            rest = len(last.x) - (self._steps - self.tokens)
            self._steps -= len(last.x) - max(rest, 0)
            if rest > 0:
                self._drawn.append(last.shortened(rest))

    @property
    def kept(self) -> list[tuple[Tensor, Tensor | None]]:
        """Sequences, and what belongs to them."""
        return [(drawn.x, drawn.gradient) for drawn in self._drawn]
