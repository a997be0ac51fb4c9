"""A reservoir keeps every sequence with the same chance, and never more steps than it has room for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gramian.layers.reservoir import Reservoir


def filled(lengths: list[int], tokens: int, seed: int = 0) -> Reservoir:
    """A reservoir that was offered sequences of these lengths: entry t of sequence i is ``i + t / 1000``."""
    reservoir = Reservoir(tokens, torch.Generator().manual_seed(seed))
    for i, length in enumerate(lengths):
        x = i + torch.arange(length, dtype=torch.float64)[:, None] / 1000
        reservoir.offer(x, -x)
    return reservoir


def numbers(reservoir: Reservoir) -> list[int]:
    return [round(float(x[0])) for x, _ in reservoir.kept]


@given(
    lengths=st.lists(st.integers(0, 30), max_size=25),
    tokens=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_it_is_as_full_as_can_be_and_never_fuller(lengths: list[int], tokens: int, seed: int) -> None:
    kept = filled(lengths, tokens, seed).kept
    assert sum(len(x) for x, _ in kept) == min(tokens, sum(lengths))
    shorter = 0
    for x, gradient in kept:
        number = round(float(x[0]))
        torch.testing.assert_close(x[:, 0], number + torch.arange(len(x), dtype=torch.float64) / 1000)  # from its start
        assert torch.equal(gradient, -x)
        shorter += len(x) < lengths[number]
    assert shorter <= 1
    assert len({round(float(x[0])) for x, _ in kept}) == len(kept)


def test_at_any_time_it_is_a_fair_sample_of_what_came_by() -> None:
    for lengths in ([5] * 12, [5] * 3 + [9] * 9):
        runs, room = 1200, 20
        counts = torch.zeros(12)
        for seed in range(runs):
            counts[numbers(filled(lengths, room, seed))] += 1
        for same in (counts[:3], counts[3:]):  # every sequence like all others, first or last, of its length
            assert (same - same.mean()).abs().max() < 4 * same.mean().sqrt()
        if len(set(lengths)) == 1:
            assert torch.equal(counts.sum(), torch.tensor(4.0 * runs))
            assert (counts - runs / 3).abs().max() < 4 * (runs / 3) ** 0.5


def test_every_place_in_a_pair_is_as_likely_as_any_other() -> None:
    pairs = {tuple(sorted(numbers(filled([2] * 4, 4, seed)))): 0 for seed in range(200)}
    for seed in range(1200):
        pairs[tuple(sorted(numbers(filled([2] * 4, 4, seed))))] += 1
    assert len(pairs) == 6
    assert all(abs(count - 200) < 5 * 200**0.5 for count in pairs.values())


def test_long_sequences_that_come_after_a_short_one_are_bounded_too() -> None:
    reservoir = filled([1] + [400] * 50, 1000)
    assert sum(len(x) for x, _ in reservoir.kept) == 1000


@pytest.mark.parametrize("length", [3, 50])
def test_what_is_kept_is_a_copy_and_nothing_larger(length: int) -> None:
    reservoir = Reservoir(10, torch.Generator().manual_seed(0))
    batch = torch.ones(6, length, 2)
    for row in batch:
        reservoir.offer(row)
    batch.zero_()
    for x, gradient in reservoir.kept:
        assert x.all()
        assert gradient is None
        assert x.untyped_storage().nbytes() == x.numel() * x.element_size()


def test_the_seed_alone_decides() -> None:
    def drawn(seed: int) -> list[Tensor]:
        return [x for x, _ in filled([4] * 30, 22, seed).kept]

    before = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(drawn(3), drawn(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn(3), drawn(4), strict=True))
    assert torch.equal(torch.get_rng_state(), before)
