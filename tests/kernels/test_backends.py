"""Every fast version of the recurrence is the slow one: values and all gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrences import (
    FAST,
    STATEFUL,
    assert_close_results,
    from_zero,
    random_recurrence,
    results_and_gradients,
    run,
)
from torch import Tensor

from gramian.kernels import chunked, diagonal_ssm


def assert_is_the_reference(tensors: tuple[Tensor, ...], backend: str, tolerance: float) -> None:
    if backend == "fft":
        slow = results_and_gradients(lambda t: run(from_zero(t), "reference")[:1], tensors)
    else:
        slow = results_and_gradients(lambda t: run(t, "reference"), tensors)
    assert_close_results(results_and_gradients(lambda t: run(t, backend), tensors), slow, tolerance, backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("order", [1, 13])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 63])
def test_it_is_the_step_by_step_recurrence(length: int, batch: int, order: int, channels: int, backend: str) -> None:
    shape = {"batch": batch, "length": length, "order": order, "channels": channels}
    assert_is_the_reference(random_recurrence(**shape), backend, 1e-11)
    assert_is_the_reference(random_recurrence(**shape, dtype=torch.float32), backend, 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("order", [1, 13, 256])
@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("length", [1, 2, 63, 784])
def test_all_versions_are_the_recurrence_for_awkward_shapes(
    length: int, batch: int, order: int, dtype: torch.dtype
) -> None:
    """Steps, blocks of steps and a rest; few sequences, full vectors of them and a rest; few and many states."""
    tensors = random_recurrence(batch=batch, length=length, order=order, channels=3, dtype=dtype)
    tolerance = (1e-10 if length == 784 else 1e-11) if dtype == torch.float64 else (1e-3 if length == 784 else 1e-4)
    slow = results_and_gradients(lambda t: run(t, "reference"), tensors)
    for backend in STATEFUL:
        assert_close_results(results_and_gradients(partial(run, backend=backend), tensors), slow, tolerance, backend)
    slow = results_and_gradients(lambda t: run(from_zero(t), "reference")[:1], tensors)
    assert_close_results(results_and_gradients(lambda t: run(t, "fft"), tensors), slow, tolerance, "fft")


@pytest.mark.parametrize("backend", ["products", "chunked", "torch", "fft"])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5), (5, 2), (130, 1)])
def test_inputs_and_outputs_may_differ_in_number(inputs: int, outputs: int, backend: str) -> None:
    tensors = random_recurrence(batch=2, length=30, order=7, channels=inputs, outputs=outputs)
    assert_is_the_reference(tensors, backend, 1e-11)


@given(data=st.data())
def test_it_is_the_step_by_step_recurrence_for_any_shape(data: st.DataObject) -> None:
    batch, length = data.draw(st.integers(1, 20), "batch"), data.draw(st.integers(1, 70), "L")
    order, channels = data.draw(st.integers(1, 6), "N"), data.draw(st.sampled_from([1, 2, 7, 17, 64, 130]), "H")
    tensors = random_recurrence(
        batch=batch, length=length, order=order, channels=channels, seed=data.draw(st.integers(0, 99), "seed")
    )
    assert_is_the_reference(tensors, data.draw(st.sampled_from(FAST), "backend"), 1e-10)


@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_gradients_are_the_derivatives_of_the_values(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_COLUMNS", 6)  # chunks of 3 steps
    assert chunked.chunk_length(19, 2) == 3
    tensors = random_recurrence(batch=2, length=19, order=3, channels=2)  # more than a block of the compiled version
    leaves = tuple(t.requires_grad_() for t in tensors)
    assert torch.autograd.gradcheck(lambda *t: run(t, backend), leaves)


@pytest.mark.parametrize("backend", FAST)
def test_non_contiguous_and_lazily_conjugated_inputs_give_the_same(backend: str) -> None:
    tensors = random_recurrence(batch=3, length=30, order=6, channels=5)
    plain = results_and_gradients(lambda t: run(t, backend), tensors)

    def strided(t: Tensor) -> Tensor:
        """The same values, with other strides: every second of twice as many, last dimension first."""
        room = t.new_zeros(2 * t.shape[-1], *t.shape[:-1])
        room[::2] = t.movedim(-1, 0)
        return room[::2].movedim(0, -1)

    odd = tuple(strided(t) for t in tensors)
    assert not any(t.is_contiguous() for t in odd)
    lazy = tuple(t.conj().resolve_conj().conj() if t.is_complex() else t for t in tensors)
    assert all(t.is_conj() for t in lazy if t.is_complex())
    for other in (odd, lazy):
        assert_close_results(results_and_gradients(lambda t: run(t, backend), other), plain, 1e-11, backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_runs_are_bit_equal(dtype: torch.dtype, threads: int, backend: str) -> None:
    tensors = random_recurrence(batch=35, length=63, order=13, channels=9, dtype=dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (results_and_gradients(lambda t: run(t, backend), tensors) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", [*FAST, "reference"])
def test_poles_whose_powers_underflow_have_finite_gradients(backend: str, dtype: torch.dtype) -> None:
    u, _, angle, *rest = random_recurrence(batch=2, length=300, order=40, channels=1, dtype=dtype)
    tensors = (u, torch.logspace(-2, 3, 40, dtype=dtype), angle, *rest)  # some power of each is subnormal
    for value in results_and_gradients(lambda t: run(t, backend), tensors):
        assert torch.view_as_real(value).isfinite().all() if value.is_complex() else value.isfinite().all()
    assert_is_the_reference(tensors, backend, 1e-11 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("backend", STATEFUL)
def test_a_sequence_can_be_fed_in_pieces(backend: str) -> None:
    u, *rest, D, state = random_recurrence(batch=3, length=40, order=5, channels=4)
    whole, last = diagonal_ssm(u, *rest, D, state, backend=backend)
    pieces = []
    for piece in u.split([1, 16, 23], dim=1):
        y, state = diagonal_ssm(piece, *rest, D, state, backend=backend)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(state, last, rtol=1e-11, atol=1e-11)


def test_the_plain_torch_version_can_be_mapped_and_differentiated_twice() -> None:
    u, *rest, D, state = random_recurrence(batch=2, length=12, order=3, channels=2)

    def output(u: Tensor, decay: Tensor) -> Tensor:
        return diagonal_ssm(u, decay, *rest[1:], D, state, backend="torch")[0].square().sum()

    hessian = torch.func.jacrev(torch.func.grad(output, argnums=1), argnums=1)(u, rest[0])
    step = 1e-5 * torch.eye(3, dtype=torch.float64)
    slope = torch.func.grad(output, argnums=1)
    expected = torch.stack([(slope(u, rest[0] + s) - slope(u, rest[0] - s)) / 2e-5 for s in step])
    torch.testing.assert_close(hessian, expected, rtol=1e-6, atol=1e-6)
    many = torch.func.vmap(lambda decay: output(u, decay))(torch.stack([rest[0], 2 * rest[0]]))
    torch.testing.assert_close(many, torch.stack([output(u, rest[0]), output(u, 2 * rest[0])]))
