"""The chunked recurrence is the slow one: values and all gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrences import NAMES, random_recurrence, results_and_gradients
from torch import Tensor

from gramian.kernels import chunked, diagonal_ssm
from gramian.kernels.chunked import chunk_length, diagonal_ssm_by_chunks
from gramian.kernels.reference import diagonal_ssm_by_steps


def assert_twins_agree(tensors: tuple[Tensor, ...], lengths: Tensor | None, tolerance: float) -> None:
    fast = results_and_gradients(diagonal_ssm, tensors, lengths, "chunked")
    slow = results_and_gradients(diagonal_ssm, tensors, lengths, "reference")
    for name, one, two in zip(NAMES, fast, slow, strict=True):
        assert one.shape == two.shape, name
        if two.numel():
            assert (one - two).abs().max() <= tolerance * (1 + two.abs().max()), name


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (5, 2), (130, 1)])
@pytest.mark.parametrize("order", [1, 13])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 63])
def test_chunked_is_the_step_by_step_recurrence(length: int, batch: int, order: int, inputs: int, outputs: int) -> None:
    shape = {"batch": batch, "length": length, "order": order, "inputs": inputs, "outputs": outputs}
    assert_twins_agree(random_recurrence(**shape), None, 1e-11)
    assert_twins_agree(random_recurrence(**shape, dtype=torch.float32), None, 1e-4)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 2), (5, 2)])
def test_chunked_is_the_step_by_step_recurrence_over_a_long_sequence(inputs: int, outputs: int) -> None:
    shape = {"batch": 3, "length": 784, "order": 13, "inputs": inputs, "outputs": outputs}
    lengths = torch.tensor([784, 0, 700])
    assert_twins_agree(random_recurrence(**shape), lengths, 1e-10)
    assert_twins_agree(random_recurrence(**shape, dtype=torch.float32), lengths, 1e-3)


@given(data=st.data())
def test_chunked_is_the_step_by_step_recurrence_for_any_shape_and_lengths(data: st.DataObject) -> None:
    batch, length = data.draw(st.integers(1, 4), "batch"), data.draw(st.integers(0, 70), "L")
    order, seed = data.draw(st.integers(1, 6), "N"), data.draw(st.integers(0, 99), "seed")
    inputs, outputs = data.draw(st.sampled_from([1, 2, 7, 64, 130])), data.draw(st.sampled_from([1, 3, 40]))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch), "lengths"))
    tensors = random_recurrence(batch=batch, length=length, order=order, inputs=inputs, outputs=outputs, seed=seed)
    assert_twins_agree(tensors, lengths, 1e-10)


@pytest.mark.parametrize("length", [1, 63, 64])
def test_the_state_of_a_padded_sequence_is_that_of_the_sequence_alone(length: int) -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=4, length=length, order=7, inputs=9, outputs=3)
    lengths = torch.tensor([0, length // 2, length - 1, length])
    _, final = diagonal_ssm(u, decay, angle, B, C, state, lengths)
    for i, steps in enumerate(lengths.tolist()):
        _, alone = diagonal_ssm(u[i : i + 1, :steps], decay, angle, B, C, state[i : i + 1])
        torch.testing.assert_close(final[i : i + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_padding_does_not_reach_the_final_state_or_its_gradient(backend: str) -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=2, length=20, order=5, inputs=32, outputs=2)
    padded = u.clone()
    padded[0], padded[1, 13:] = 1e6, -1e6
    finals = []
    for inputs in (u, padded.requires_grad_()):
        _, final = diagonal_ssm(inputs, decay, angle, B, C, state, torch.tensor([0, 13]), backend)
        finals.append(final)
    assert torch.equal(*finals)
    (gradient,) = torch.autograd.grad(finals[1].abs().square().sum(), padded)
    assert not gradient[0].any()
    assert not gradient[1, 13:].any()
    assert gradient[1, :13].any(-1).all()


@pytest.mark.parametrize("kernel", [diagonal_ssm_by_chunks, diagonal_ssm_by_steps])
def test_gradients_are_the_derivatives_of_the_values(kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_COLUMNS", 6)  # chunks of 3 steps
    tensors = random_recurrence(batch=2, length=8, order=3, inputs=2, outputs=2)
    lengths = torch.tensor([8, 4])
    assert chunk_length(8, 2) == 3
    leaves = tuple(t.requires_grad_() for t in tensors)
    assert torch.autograd.gradcheck(lambda *t: kernel(*t, lengths), leaves)


def test_non_contiguous_and_lazily_conjugated_inputs_give_the_same() -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=3, length=30, order=6, inputs=40, outputs=5)
    plain = results_and_gradients(diagonal_ssm, (u, decay, angle, B, C, state), None, "chunked")

    def strided(t: Tensor) -> Tensor:
        """The same values, with other strides: every second of twice as many, last dimension first."""
        room = t.new_zeros(2 * t.shape[-1], *t.shape[:-1])
        room[::2] = t.movedim(-1, 0)
        return room[::2].movedim(0, -1)

    odd = tuple(strided(t) for t in (u, decay, angle, B, C, state))
    assert not any(t.is_contiguous() for t in odd)
    lazy = (u, decay, angle, *(t.conj().resolve_conj().conj() for t in (B, C, state)))
    assert all(t.is_conj() for t in lazy[3:])
    for other in (odd, lazy):
        for name, one, two in zip(
            NAMES, plain, results_and_gradients(diagonal_ssm, other, None, "chunked"), strict=True
        ):
            torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_runs_are_bit_equal(dtype: torch.dtype) -> None:
    tensors = random_recurrence(batch=3, length=63, order=13, inputs=40, outputs=3, dtype=dtype)
    lengths = torch.tensor([63, 0, 40])
    first, second = (results_and_gradients(diagonal_ssm, tensors, lengths, "chunked") for _ in range(2))
    for name, one, two in zip(NAMES, first, second, strict=True):
        assert torch.equal(one, two), name


@given(length=st.integers(1, 2000), channels=st.integers(1, 600))
def test_a_chunk_has_at_least_one_step_and_no_more_than_fit(length: int, channels: int) -> None:
    T = chunk_length(length, channels)
    assert 1 <= T <= length
    assert T == 1 or T * channels <= 128
    assert length == T or (T + 1) * channels > 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_poles_whose_powers_underflow_have_finite_gradients(backend: str, dtype: torch.dtype) -> None:
    u, _, angle, B, C, state = random_recurrence(batch=2, length=300, order=40, inputs=1, outputs=1, dtype=dtype)
    decay = torch.logspace(-2, 3, 40, dtype=dtype)  # some power of each is subnormal
    tensors = u, decay, angle, B, C, state
    for name, value in zip(NAMES, results_and_gradients(diagonal_ssm, tensors, None, backend), strict=True):
        assert torch.view_as_real(value).isfinite().all() if value.is_complex() else value.isfinite().all(), name
    assert_twins_agree(tensors, None, 1e-11 if dtype == torch.float64 else 1e-3)
