"""Training sequences drawn anew: no position, no repetition."""

from __future__ import annotations

import pytest
import torch

from gramian.errors import ConfigError
from gramian.lab.data import Batches, Stream, load_data, training_batches

DATA = load_data("mqar", scale="tiny", fresh=True)


def test_batches_are_drawn_anew_where_the_data_says_so() -> None:
    assert isinstance(training_batches(DATA, 4, 0), Stream)
    assert isinstance(training_batches(load_data("mqar", scale="tiny"), 4, 0), Batches)


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    in_turn = training_batches(DATA, 6, seed=1)
    expected = {step: in_turn.batch(step) for step in range(8)}
    jumping = training_batches(load_data("mqar", scale="tiny", fresh=True), 6, seed=1)
    for step in (7, 0, 3, 7):
        for found, wanted in zip(jumping.batch(step), expected[step], strict=True):
            assert torch.equal(found, wanted)


def test_steps_seeds_and_splits_have_no_sequence_in_common() -> None:
    batches = [training_batches(DATA, 50, seed).batch(step)[0] for seed in (0, 1, 2) for step in (0, 1, 2)]
    drawn = [row.numpy().tobytes() for batch in batches for row in batch]
    assert len(set(drawn)) == len(drawn)
    for split in DATA.splits.values():
        assert not set(drawn) & {row.numpy().tobytes() for row in split.inputs}


def test_stream_neither_reads_nor_moves_the_global_random_state() -> None:
    stream = training_batches(DATA, 5, seed=0)
    torch.manual_seed(0)
    first, before = stream.batch(3)[0], torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(stream.batch(3)[0], first)
    torch.manual_seed(0)
    stream.batch(4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch_size", "seed", "step"), [(0, 0, 0), (1, -1, 0), (1, 0, -1)])
def test_nonsense_is_refused(batch_size: int, seed: int, step: int) -> None:
    with pytest.raises(ConfigError):
        training_batches(DATA, batch_size, seed).batch(step)
