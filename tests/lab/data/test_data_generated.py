"""What generated tasks share: splits that differ, seeds that decide, and rows without repetition."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gramian.lab.data import DATASETS, SequenceData, load_data
from gramian.lab.data.generated import distinct
from gramian.lab.data.parameters import Generated

TASKS = [name for name, info in DATASETS.items() if issubclass(info.parameters, Generated)]


@given(below=st.integers(1, 30), data=st.data(), seed=st.integers(0))
def test_rows_of_distinct_numbers(below: int, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(0, below))
    rows = distinct(np.random.default_rng(seed), 5, count, below)
    assert rows.shape == (5, count)
    for row in rows.tolist():
        assert len(set(row)) == count
        assert all(0 <= number < below for number in row)


def test_every_ordered_choice_is_equally_likely() -> None:
    n = 60_000
    found = Counter(map(tuple, distinct(np.random.default_rng(0), n, 3, 4).tolist()))
    assert len(found) == 4 * 3 * 2
    assert all(abs(count / n - 1 / 24) < 5 * np.sqrt(1 / 24 / n) for count in found.values())


def test_there_are_three_generated_tasks() -> None:
    assert TASKS == ["mqar", "selective_copying", "induction_heads"]


def rows(data: SequenceData) -> dict[str, set[bytes]]:
    return {name: {row.numpy().tobytes() for row in split.inputs} for name, split in data.splits.items()}


@pytest.mark.parametrize("name", TASKS)
def test_splits_have_the_sizes_asked_for_and_no_sequence_in_common(name: str) -> None:
    data = load_data(name, scale="tiny", n_train=300, n_valid=70, n_test=90)
    assert [len(split) for split in data.splits.values()] == [300, 70, 90]
    train, valid, test = rows(data).values()
    assert not train & valid
    assert not train & test
    assert not valid & test


@pytest.mark.parametrize("name", TASKS)
def test_seed_decides_everything(name: str) -> None:
    first, again, other = (load_data(name, seed=seed, scale="tiny") for seed in (3, 3, 4))
    assert first.source == again.source
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not rows(first)["train"] & rows(other)["train"]


@pytest.mark.parametrize("name", TASKS)
def test_validation_and_test_do_not_depend_on_the_size_of_training(name: str) -> None:
    small, large = (load_data(name, scale="tiny", n_train=n) for n in (10, 500))
    assert torch.equal(small.valid.inputs, large.valid.inputs)
    assert torch.equal(small.test.targets, large.test.targets)


@pytest.mark.parametrize("name", TASKS)
def test_source_names_every_parameter_and_the_seed(name: str) -> None:
    data = load_data(name, seed=5, scale="tiny", n_test=33)
    parameters = DATASETS[name].parameters.model_validate({"scale": "tiny", "n_test": 33})
    assert all(f"{key} {value}" in data.source for key, value in parameters.model_dump().items())
    assert "seed 5" in data.source
