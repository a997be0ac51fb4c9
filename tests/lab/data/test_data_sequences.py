"""Splits, the task made of them, and batches without a position."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.errors import ConfigError, DataError
from gramian.lab.data import NOT_ASKED, Batches, SequenceData, Split


def numbered_split(n: int, start: int = 0) -> Split:
    """Samples whose entries are their own number, so that a batch tells which samples it holds."""
    numbers = torch.arange(start, start + n)
    return Split(numbers.float()[:, None, None].expand(n, 3, 2).contiguous(), numbers % 2)


def task(**changes: object) -> SequenceData:
    facts = {
        "train": numbered_split(6),
        "valid": numbered_split(4, start=6),
        "test": numbered_split(4, start=10),
        "n_classes": 2,
        "origin": "made by a test",
    }
    return SequenceData.from_splits("made", **(facts | changes))  # type: ignore[arg-type]


def sample_numbers(batches: Batches, steps: range) -> list[int]:
    return [int(number) for step in steps for number in batches.batch(step)[0][:, 0, 0]]


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 40), seed=st.integers(0, 2**63), epoch=st.integers(0, 5))
def test_an_epoch_visits_each_sample_at_most_once_and_drops_less_than_a_batch(
    n: int, batch_size: int, seed: int, epoch: int
) -> None:
    if batch_size > n:
        batch_size = n
    batches = Batches(numbered_split(n), batch_size, seed)
    first = epoch * batches.steps_per_epoch
    visited = sample_numbers(batches, range(first, first + batches.steps_per_epoch))
    assert len(visited) == len(set(visited))
    assert 0 <= n - len(visited) < batch_size


def test_an_epoch_of_whole_batches_visits_every_sample_exactly_once() -> None:
    batches = Batches(numbered_split(24), batch_size=6, seed=3)
    assert batches.steps_per_epoch == 4
    for first in (0, 4, 8):
        assert sorted(sample_numbers(batches, range(first, first + 4))) == list(range(24))


def test_targets_and_indices_go_with_the_inputs() -> None:
    split = numbered_split(25)
    batches = Batches(split, batch_size=6, seed=3)
    for step in (0, 5, 17):
        inputs, targets = batches.batch(step)
        chosen = batches.indices(step)
        assert torch.equal(inputs, split.inputs[chosen])
        assert torch.equal(targets, inputs[:, 0, 0].long() % 2)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    split = numbered_split(64)
    orders = [
        tuple(sample_numbers(Batches(split, 64, seed), range(epoch, epoch + 1)))
        for seed in range(3)
        for epoch in range(3)
    ]
    assert len(set(orders)) == 9
    assert tuple(range(64)) not in orders


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    split = numbered_split(30)
    in_turn = Batches(split, batch_size=7, seed=1)
    expected = {step: in_turn.batch(step)[0] for step in range(20)}
    jumping = Batches(split, batch_size=7, seed=1)
    for step in (19, 0, 11, 3, 12, 3, 19):
        assert torch.equal(jumping.batch(step)[0], expected[step])
    for step, inputs in expected.items():
        assert torch.equal(Batches(split, batch_size=7, seed=1).batch(step)[0], inputs)


def test_batches_neither_read_nor_move_the_global_random_state() -> None:
    split = numbered_split(30)
    torch.manual_seed(0)
    first = sample_numbers(Batches(split, 7, seed=1), range(12))
    torch.manual_seed(1)
    before_torch, (_, keys, *position) = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    assert sample_numbers(Batches(split, 7, seed=1), range(12)) == first
    assert torch.equal(torch.get_rng_state(), before_torch)
    _, keys_after, *position_after = np.random.get_state()  # noqa: NPY002
    assert (keys_after.tobytes(), position_after) == (keys.tobytes(), position)


def test_writing_into_a_batch_leaves_the_data_alone() -> None:
    split = numbered_split(8)
    before = split.inputs.clone()
    Batches(split, 4, seed=0).batch(0)[0].zero_()
    assert torch.equal(split.inputs, before)


def test_in_order_yields_every_sample_once_including_the_incomplete_last_batch() -> None:
    split = numbered_split(10)
    for batches in (list(split.in_order(4)), list(Batches(split, 3, seed=0).in_order(4))):
        assert [len(targets) for _, targets in batches] == [4, 4, 2]
        assert torch.equal(torch.cat([inputs for inputs, _ in batches]), split.inputs)
        assert torch.equal(torch.cat([targets for _, targets in batches]), split.targets)


def test_in_order_accepts_a_batch_larger_than_the_split() -> None:
    (only,) = numbered_split(3).in_order(100)
    assert len(only[1]) == 3


def test_a_batch_larger_than_the_split_is_refused_with_the_largest_that_fits() -> None:
    with pytest.raises(DataError, match=r"batch_size=11 is more than the 10 samples(.|\n)*at most 10"):
        Batches(numbered_split(10), batch_size=11, seed=0)


def test_nonsense_batch_sizes_steps_and_seeds_are_refused() -> None:
    split = numbered_split(4)
    with pytest.raises(ConfigError, match="batch_size=0"):
        Batches(split, 0, seed=0)
    with pytest.raises(ConfigError, match="batch_size=-1"):
        split.in_order(-1)
    with pytest.raises(ConfigError, match="seed=-2"):
        Batches(split, 2, seed=-2)
    with pytest.raises(ConfigError, match="step=-1"):
        Batches(split, 2, seed=0).batch(-1)


@pytest.mark.parametrize(
    ("inputs", "targets", "named"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), "inputs"),
        (torch.zeros(4, 3, 1).double(), torch.zeros(4).long(), "inputs"),
        (torch.zeros(4, 3, 1), torch.zeros(5).long(), "targets"),
        (torch.zeros(4, 3, 1), torch.zeros(4).int(), "targets"),
    ],
)
def test_a_split_of_another_shape_or_dtype_is_refused(inputs: torch.Tensor, targets: torch.Tensor, named: str) -> None:
    with pytest.raises(DataError, match=f"^{named} are"):
        Split(inputs, targets)


@pytest.mark.parametrize("lengths", [[0, 3], [1, 4]])
def test_lengths_outside_the_sequence_are_refused(lengths: list[int]) -> None:
    with pytest.raises(DataError, match=r"1\.\.3"):
        Split(torch.zeros(2, 3, 1), torch.zeros(2).long(), torch.tensor(lengths))


@pytest.mark.parametrize("label", ["train", "valid", "test"])
def test_an_empty_split_is_refused_by_name(label: str) -> None:
    with pytest.raises(DataError, match=f"the {label} split of 'made' is empty"):
        task(**{label: Split(torch.zeros(0, 3, 2), torch.zeros(0).long())})


def test_splits_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match=re.escape("the test split of 'made' has samples of shape (5, 2)")):
        task(test=Split(torch.zeros(2, 5, 2), torch.zeros(2).long()))


def test_targets_beyond_the_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"targets in 0\.\.1; expected 0\.\.0"):
        task(n_classes=1)


def test_lengths_for_one_split_only_are_refused() -> None:
    padded = numbered_split(4, start=10)
    with pytest.raises(DataError, match="for some splits only"):
        task(test=Split(padded.inputs, padded.targets, torch.tensor([1, 2, 3, 3])))


def test_testing_on_the_validation_set_is_refused() -> None:
    with pytest.raises(DataError, match="same inputs in validation and test"):
        task(test=numbered_split(4, start=6))


def test_source_ends_with_the_digest_of_inputs_and_targets() -> None:
    made = task()
    digest = hashlib.sha256()
    for split in (made.train, made.valid, made.test):
        digest.update(split.inputs.numpy().tobytes())
        digest.update(split.targets.numpy().tobytes())
    assert made.source == f"made by a test; sha256 {digest.hexdigest()}"
    relabelled = Split(made.train.inputs, 1 - made.train.targets)
    assert task(train=relabelled).source != made.source


def token_split(n: int = 4, **changes: torch.Tensor) -> Split:
    """Sequences of three tokens; the last step of each asks for a class."""
    inputs = torch.arange(3 * n).reshape(n, 3) % 5
    targets = torch.full_like(inputs, NOT_ASKED)
    targets[:, -1] = 1
    return Split(**{"inputs": inputs, "targets": targets, **changes})


def test_tokens_and_targets_of_steps_are_told_by_type_and_shape() -> None:
    split, plain = token_split(), numbered_split(4)
    assert (split.tokens, split.stepwise, split.asked.tolist()) == (True, True, [1] * 4)
    assert (plain.tokens, plain.stepwise) == (False, False)
    assert torch.equal(plain.asked, plain.targets)
    assert repr(split) == "Split(n=4, length=3, tokens)"


def test_task_of_tokens_knows_its_head_and_how_many_tokens_there_are() -> None:
    splits = {"train": token_split(6), "valid": token_split(3), "test": token_split(4)}
    data = SequenceData.from_splits("made", **splits, n_classes=2, n_tokens=5, origin="a test")  # type: ignore[arg-type]
    assert (data.tokens, data.head, data.d_input, data.length) == (True, "next_token", 5, 3)
    assert (task().tokens, task().head, task().d_input) == (False, "classification", 2)


def test_sequence_in_which_nothing_is_asked_is_refused() -> None:
    silent = torch.full((4, 3), NOT_ASKED)
    silent[:3, 0] = 1
    with pytest.raises(DataError, match="none of whose steps has a target"):
        token_split(targets=silent)


def test_targets_of_steps_of_another_length_are_refused() -> None:
    with pytest.raises(DataError, match=re.escape("targets are (4, 2); expected one a step, (4, 3)")):
        token_split(targets=torch.zeros(4, 2, dtype=torch.int64))


def test_tokens_beyond_the_vocabulary_are_refused_also_in_further_test_sets() -> None:
    splits = {"train": token_split(6), "valid": token_split(3), "test": token_split(4)}
    made = {"n_classes": 2, "origin": "a test"}
    with pytest.raises(DataError, match=re.escape("the train split of 'made' has tokens in 0..4; expected 0..3")):
        SequenceData.from_splits("made", **splits, **made, n_tokens=4)  # type: ignore[arg-type]
    longer = token_split(2, inputs=torch.full((2, 7), 5), targets=torch.ones(2, 7, dtype=torch.int64))
    with pytest.raises(DataError, match=r"the test-7 split of .made. has tokens in 5\.\.5; expected 0\.\.4"):
        SequenceData.from_splits("made", **splits, **made, n_tokens=5, further={"test-7": longer})  # type: ignore[arg-type]
