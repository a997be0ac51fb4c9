"""Windows on long texts: tokens in a row, cut into sequences without overlap, or drawn at random places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gramian.errors import DataError
from gramian.lab.data.generated import Ints, token_split
from gramian.lab.data.parameters import Scaled
from gramian.lab.data.sequences import Split

__all__ = ["Tokens", "Windowed", "Windows", "next_token_split", "parted"]

Tokens = NDArray[np.uint8]


class Windowed(Scaled):
    """Parameters of a task on windows.

    Parameters
    ----------
    length
        Steps.
    n_train, n_valid, n_test
        So many windows at most, chosen at random; null for all there are.
    fresh
        Training draws windows at new places at every step.
    """

    length: int = Field(ge=2)
    n_train: int | None = Field(ge=1)
    n_valid: int | None = Field(ge=1)
    n_test: int | None = Field(ge=1)
    fresh: bool


class Windows:
    """The windows of `width` tokens on stretches of tokens; none reaches from one stretch into another.

    Parameters
    ----------
    stretches
        Tokens in a row, ``(n,)`` each; those shorter than `width` have no window.
    width
        Tokens of a window.
    stride
        Tokens from the beginning of a window to that of the next, where windows are laid side by side.

    Raises
    ------
    DataError
        If there is no window at all.
    """

    def __init__(self, stretches: Sequence[Tokens], width: int, stride: int) -> None:
        ends = np.cumsum([len(stretch) for stretch in stretches])
        begins = [(end - len(stretch), end - width + 1) for end, stretch in zip(ends, stretches, strict=True)]
        self.tokens = np.concatenate([*stretches, np.empty(0, dtype=np.uint8)])
        self.width = width
        self._side_by_side = np.concatenate([np.arange(a, b, stride) for a, b in begins if a < b] or [np.empty(0, int)])
        self._anywhere = np.cumsum([0, *(max(0, b - a) for a, b in begins)])
        self._first = np.array([a for a, _ in begins], dtype=np.int64)
        if not len(self):
            longest = max((len(stretch) for stretch in stretches), default=0)
            raise DataError(f"the text has no window of {width} tokens: its longest stretch has {longest}")

    def __len__(self) -> int:
        return len(self._side_by_side)

    def laid(self, most: int | None, rng: np.random.Generator) -> Ints:
        """Windows side by side, or `most` of them chosen at random, in the order of the text: ``(n, width)``."""
        begins = self._side_by_side
        if most is not None and most < len(begins):
            begins = begins[np.sort(rng.permutation(len(begins))[:most])]
        return self._at(begins)

    def drawn(self, rng: np.random.Generator, n: int) -> Ints:
        """`n` windows, each place equally likely: ``(n, width)``."""
        number = rng.integers(0, self._anywhere[-1], n)
        stretch = np.searchsorted(self._anywhere, number, side="right") - 1
        return self._at(self._first[stretch] + number - self._anywhere[stretch])

    def _at(self, begins: Ints) -> Ints:
        return self.tokens[begins[:, None] + np.arange(self.width)].astype(np.int64)


def next_token_split(windows: Ints, unit: str) -> Split:
    """Of windows of ``length + 1`` tokens: each token but the first is to be predicted from those before it."""
    return token_split(np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:]), unit)


def parted(text: Tokens) -> tuple[Tokens, Tokens, Tokens]:
    """The first eight tenths of a text for training, one for validation, the last for the test."""
    a, b = len(text) * 8 // 10, len(text) * 9 // 10
    return text[:a], text[a:b], text[b:]
