"""Induction heads: one special token, twice, and test sets of other lengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import ConfigError, DataError
from gramian.lab.data import NOT_ASKED, Split, load_data
from gramian.lab.data.induction_heads import InductionHeads, draw_induction_heads


def assert_follows_the_rule(split: Split, vocab: int) -> None:
    special = vocab - 1
    for inputs, targets in zip(split.inputs, split.targets, strict=True):
        first, last = (inputs == special).nonzero()[:, 0].tolist()
        assert last == len(inputs) - 1
        assert targets[-1] == inputs[first + 1] != special
        assert bool((targets[:-1] == NOT_ASKED).all())


@given(length=st.integers(4, 40), vocab=st.integers(3, 9), seed=st.integers(0))
def test_answer_is_what_followed_the_special_token(length: int, vocab: int, seed: int) -> None:
    wanted = InductionHeads.model_validate({"scale": "tiny", "length": length, "vocab": vocab})
    assert_follows_the_rule(draw_induction_heads(wanted, np.random.default_rng(seed), 10), vocab)


def test_place_of_the_special_token_is_uniform() -> None:
    n = 20_000
    wanted = InductionHeads.model_validate({"scale": "tiny", "length": 8, "vocab": 4})
    places = (draw_induction_heads(wanted, np.random.default_rng(0), n).inputs == 3).int().argmax(1)
    counts = torch.bincount(places)
    assert len(counts) == 6  # of 8 steps: one for the answer, one for the question
    assert float((counts / n - 1 / 6).abs().max()) < 5 * (1 / 6 / n) ** 0.5


def test_further_test_sets_follow_the_same_rule_at_their_lengths() -> None:
    data = load_data("induction_heads", scale="tiny", test_lengths=[16, 80], n_test=50)
    assert list(data.further) == ["test-16", "test-80"]
    assert [split.inputs.shape for split in data.further.values()] == [(50, 16), (50, 80)]
    for split in data.further.values():
        assert_follows_the_rule(split, data.d_input)
    assert list(data.splits) == ["train", "valid", "test"]


@pytest.mark.parametrize("lengths", [[3], [64, 64]])
def test_lengths_that_are_too_short_or_repeated_are_refused(lengths: list[int]) -> None:
    with pytest.raises((ConfigError, DataError), match="needed: different lengths of at least 4"):
        load_data("induction_heads", scale="tiny", test_lengths=lengths)
