"""Multi-query associative recall: what stands where, and how often."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.errors import ConfigError
from gramian.lab.data import NOT_ASKED, load_data
from gramian.lab.data.mqar import Mqar, draw_mqar


def parameters(**changes: object) -> Mqar:
    return Mqar.model_validate({"scale": "tiny", **changes})


@given(pairs=st.integers(1, 8), spare=st.integers(0, 6), fill=st.sampled_from(["zero", "random"]), seed=st.integers(0))
def test_every_key_is_asked_for_once_and_answered_with_its_value(pairs: int, spare: int, fill: str, seed: int) -> None:
    wanted = parameters(pairs=pairs, length=4 * pairs + 2 * spare, vocab=2 * pairs + 2 + spare, fill=fill)
    split = draw_mqar(wanted, np.random.default_rng(seed), 12)
    half = wanted.vocab // 2
    for inputs, targets in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
        keys, values = inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2]
        assert len(set(keys)) == len(set(values)) == pairs
        assert all(1 <= key < half for key in keys)
        assert all(half <= value < wanted.vocab for value in values)
        asked = [step for step, target in enumerate(targets) if target != NOT_ASKED]
        assert sorted(inputs[step] for step in asked) == sorted(keys)
        value_of = dict(zip(keys, values, strict=True))
        assert all(targets[step] == value_of[inputs[step]] for step in asked)
        assert all(step >= 2 * pairs and step % 2 == 0 for step in asked)
        if fill == "zero":
            others = set(range(2 * pairs, wanted.length)) - set(asked)
            assert all(inputs[step] == 0 for step in others)


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_chance_of_a_place_is_the_power_law(power: float) -> None:
    n, places = 40_000, 15
    split = draw_mqar(parameters(pairs=1, length=32, power=power), np.random.default_rng(0), n)
    gaps = ((split.targets != NOT_ASKED).int().argmax(1) - 2) // 2
    found = np.bincount(gaps.numpy(), minlength=places) / n
    law = np.arange(1, places + 1) ** (power - 1)
    expected = law / law.sum()
    assert np.abs(found - expected).max() < 5 * np.sqrt(expected.max() / n)


def test_second_query_is_drawn_from_the_places_that_are_left() -> None:
    n = 40_000
    split = draw_mqar(parameters(pairs=2, length=10, vocab=8, power=0.01), np.random.default_rng(1), n)
    inputs = split.inputs
    first, second = ((inputs[:, 4:] == inputs[:, [column]]).int().argmax(1) // 2 for column in (0, 2))
    law = np.arange(1, 4) ** -0.99
    law /= law.sum()
    for a in range(3):
        for b in {0, 1, 2} - {a}:
            together = float(((first == a) & (second == b)).float().mean())
            assert together == pytest.approx(law[a] * law[b] / (1 - law[a]), abs=0.012)


def test_random_fill_uses_all_tokens() -> None:
    split = draw_mqar(parameters(pairs=1, length=64, vocab=8, fill="random"), np.random.default_rng(0), 200)
    rest = split.inputs[:, 2:][split.targets[:, 2:] == NOT_ASKED]
    assert torch.bincount(rest, minlength=8).min() > 0.8 * len(rest) / 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 9}, "pairs=9 do not fit in length=32; needed: an even length of at least 36"),
        ({"length": 33}, "needed: an even length"),
        ({"vocab": 9}, "vocab=9 is too small for pairs=4 different keys; needed: at least 10"),
        ({"fill": "ones"}, "fill: Input should be 'zero' or 'random'"),
        ({"power": 0}, "power: Input should be greater than 0"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_data("mqar", scale="tiny", **changes)


def test_smallest_vocabulary_that_is_named_is_enough() -> None:
    assert load_data("mqar", scale="tiny", vocab=10).d_input == 10
