"""Windows on texts: none reaches over an end, and none of a text is lost that could be used."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import DataError
from gramian.lab.data.windows import Tokens, Windows, next_token_split, parted


def numbered(*lengths: int) -> list[Tokens]:
    """Stretches in which every token is its own number in the whole."""
    ends = np.cumsum(lengths)
    return [np.arange(end - n, end, dtype=np.uint8) for end, n in zip(ends, lengths, strict=True)]


@given(lengths=st.lists(st.integers(0, 25), min_size=1, max_size=8), width=st.integers(1, 9), stride=st.integers(1, 9))
def test_windows_are_those_of_each_stretch_alone(lengths: list[int], width: int, stride: int) -> None:
    stretches, rng = numbered(*lengths), np.random.default_rng(0)
    expected = [s[i : i + width].tolist() for s in stretches for i in range(0, len(s) - width + 1, stride)]
    if not expected:
        with pytest.raises(DataError, match=f"no window of {width} tokens: its longest stretch has {max(lengths)}"):
            Windows(stretches, width, stride)
        return
    windows = Windows(stretches, width, stride)
    assert windows.laid(None, rng).tolist() == expected
    assert len(windows) == len(expected)
    anywhere = {tuple(s[i : i + width].tolist()) for s in stretches for i in range(len(s) - width + 1)}
    assert {tuple(row) for row in windows.drawn(rng, 40).tolist()} <= anywhere


def test_every_place_is_drawn_equally_often() -> None:
    n = 30_000
    begins = Windows(numbered(5, 2, 9, 3), 3, 1).drawn(np.random.default_rng(0), n)[:, 0]
    counts = np.bincount(begins)
    counts = counts[counts > 0]
    assert len(counts) == 3 + 0 + 7 + 1
    assert np.abs(counts / n - 1 / 11).max() < 5 * np.sqrt(1 / 11 / n)


def test_some_of_the_windows_are_chosen_once_each_and_in_order() -> None:
    windows = Windows(numbered(200), 4, 4)
    chosen = windows.laid(20, np.random.default_rng(0))[:, 0].tolist()
    assert len(chosen) == 20
    assert chosen == sorted(set(chosen))
    assert chosen != windows.laid(20, np.random.default_rng(1))[:, 0].tolist()
    assert len(windows.laid(1_000, np.random.default_rng(0))) == 50


def test_each_token_is_predicted_from_those_before_it() -> None:
    split = next_token_split(np.arange(12).reshape(2, 6), "byte")
    assert split.inputs.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert split.targets.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert split.unit == "byte"


def test_parts_are_the_text_in_order() -> None:
    text = np.arange(100, dtype=np.uint8)
    parts = parted(text)
    assert [len(part) for part in parts] == [80, 10, 10]
    assert np.array_equal(np.concatenate(parts), text)
