"""Selective copying: order is kept, places are random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import ConfigError
from gramian.lab.data import NOT_ASKED, load_data
from gramian.lab.data.selective_copying import SelectiveCopying, draw_selective_copying


@given(memorize=st.integers(1, 9), spare=st.integers(0, 20), vocab=st.integers(3, 9), seed=st.integers(0))
def test_answers_are_the_tokens_in_their_order(memorize: int, spare: int, vocab: int, seed: int) -> None:
    length = memorize + spare
    wanted = SelectiveCopying.model_validate({"scale": "tiny", "length": length, "memorize": memorize, "vocab": vocab})
    split = draw_selective_copying(wanted, np.random.default_rng(seed), 10)
    for inputs, targets in zip(split.inputs, split.targets, strict=True):
        tokens = inputs[:length][inputs[:length] != 0]
        assert torch.equal(tokens, targets[length:])
        assert bool(((tokens >= 1) & (tokens < vocab - 1)).all())
        assert bool((inputs[length:] == vocab - 1).all())
        assert bool((targets[:length] == NOT_ASKED).all())


def test_every_set_of_places_is_equally_likely() -> None:
    n = 30_000
    wanted = SelectiveCopying.model_validate({"scale": "tiny", "length": 4, "memorize": 2, "vocab": 4})
    occupied = draw_selective_copying(wanted, np.random.default_rng(0), n).inputs[:, :4] != 0
    codes = (occupied.long() * torch.tensor([1, 2, 4, 8])).sum(1)
    counts = torch.bincount(codes)
    counts = counts[counts > 0]
    assert len(counts) == 6
    assert float((counts / n - 1 / 6).abs().max()) < 5 * (1 / 6 / n) ** 0.5


def test_more_tokens_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="memorize=40 tokens do not fit in length=32 steps"):
        load_data("selective_copying", scale="tiny", memorize=40)
