"""Recurrences in chunks: sequences of different lengths in one batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrences import assert_close_results, random_recurrence, results_and_gradients, run

from gramian.kernels import diagonal_ssm
from gramian.kernels.chunked import chunk_length


@given(data=st.data())
def test_chunks_are_the_step_by_step_recurrence_for_any_lengths(data: st.DataObject) -> None:
    batch, length = data.draw(st.integers(1, 4), "batch"), data.draw(st.integers(1, 70), "L")
    order, seed = data.draw(st.integers(1, 6), "N"), data.draw(st.integers(0, 99), "seed")
    channels = data.draw(st.sampled_from([1, 2, 7, 64, 130]))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch), "lengths"))
    tensors = random_recurrence(batch=batch, length=length, order=order, channels=channels, seed=seed)
    slow = results_and_gradients(lambda t: run(t, "reference", lengths), tensors)
    backend = data.draw(st.sampled_from(["chunked", "torch"]), "backend")
    assert_close_results(results_and_gradients(lambda t: run(t, backend, lengths), tensors), slow, 1e-10)


@pytest.mark.parametrize("length", [1, 63, 64])
def test_the_state_of_a_padded_sequence_is_that_of_the_sequence_alone(length: int) -> None:
    u, *rest, D, state = random_recurrence(batch=4, length=length, order=7, channels=9)
    lengths = torch.tensor([0, length // 2, length - 1, length])
    _, final = diagonal_ssm(u, *rest, D, state, lengths)
    assert final is not None
    for i, steps in enumerate(lengths.tolist()):
        _, alone = diagonal_ssm(u[i : i + 1, :steps], *rest, D, state[i : i + 1])
        torch.testing.assert_close(final[i : i + 1], alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["chunked", "torch", "reference"])
def test_padding_does_not_reach_the_final_state_or_its_gradient(backend: str) -> None:
    u, *rest, D, state = random_recurrence(batch=2, length=20, order=5, channels=32)
    padded = u.clone()
    padded[0], padded[1, 13:] = 1e6, -1e6
    finals = []
    for inputs in (u, padded.requires_grad_()):
        _, final = diagonal_ssm(inputs, *rest, D, state, torch.tensor([0, 13]), backend=backend)
        finals.append(final)
    assert torch.equal(*finals)
    (gradient,) = torch.autograd.grad(finals[1].abs().square().sum(), padded)
    assert not gradient[0].any()
    assert not gradient[1, 13:].any()
    assert gradient[1, :13].any(-1).all()


@given(length=st.integers(1, 2000), channels=st.integers(1, 600))
def test_a_chunk_has_at_least_one_step_and_no_more_than_fit(length: int, channels: int) -> None:
    T = chunk_length(length, channels)
    assert 1 <= T <= length
    assert T == 1 or T * channels <= 128
    assert length == T or (T + 1) * channels > 128
