"""The scan: every version is the loop that specifies it, and the operator fits into torch."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import scan


def example(batch: int, length: int, order: int, dtype: torch.dtype = torch.complex128) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(order)
    x = torch.randn(batch, length, order, dtype=torch.complex128, generator=g)
    like = {"generator": g, "dtype": torch.float64}
    poles = torch.polar(torch.rand(order, **like), 6 * torch.rand(order, **like))
    return tuple(t.to(dtype) for t in (x, poles, torch.randn(batch, order, dtype=torch.complex128, generator=g)))


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("order", [1, 13, 256])
@pytest.mark.parametrize("batch", [1, 3, 50])
@pytest.mark.parametrize("length", [1, 2, 63])
def test_it_is_the_loop_over_time(length: int, batch: int, order: int, backend: str) -> None:
    for dtype, tolerance in ((torch.complex128, 1e-12), (torch.complex64, 1e-4)):
        tensors = example(batch, length, order, dtype)
        slow = results_and_gradients(lambda t: (scan(*t, backend="reference"),), tensors)
        fast = results_and_gradients(lambda t, b=backend: (scan(*t, backend=b),), tensors)
        assert_close_results(fast, slow, tolerance, backend)


def test_the_loop_is_the_recurrence() -> None:
    x, poles, state = example(2, 3, 4)
    first = poles * state + x[:, 0]
    second = poles * first + x[:, 1]
    expected = torch.stack([first, second, poles * second + x[:, 2]], 1)
    torch.testing.assert_close(scan(x, poles, state, backend="reference"), expected)
    torch.testing.assert_close(scan(x, poles), scan(x, poles, torch.zeros_like(state)))


@pytest.mark.parametrize("backend", ["numba", "torch", "reference"])
def test_gradients_are_the_derivatives_of_the_values(backend: str) -> None:
    leaves = tuple(t.requires_grad_() for t in example(2, 5, 3))
    assert torch.autograd.gradcheck(lambda *t: scan(*t, backend=backend), leaves)


def test_nothing_in_nothing_out() -> None:
    for shape in ((3, 0, 4), (0, 5, 4), (3, 5, 0)):
        x = torch.zeros(shape, dtype=torch.complex64, requires_grad=True)
        poles = torch.zeros(shape[-1], dtype=torch.complex64, requires_grad=True)
        states = scan(x, poles)
        assert states.shape == shape
        states.abs().sum().backward()
        assert not poles.grad.any()


def test_strides_and_lazy_conjugation_do_not_matter() -> None:
    x, poles, state = example(3, 7, 5)
    expected = scan(x, poles, state)
    transposed = x.transpose(0, 1).contiguous().transpose(0, 1)
    lazy = (t.conj().resolve_conj().conj() for t in (transposed, poles, state))
    torch.testing.assert_close(scan(*lazy), expected)


def test_two_runs_are_bit_equal_whatever_the_threads() -> None:
    tensors = example(5, 63, 300, torch.complex64)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: (scan(*t),), tensors))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_states_that_fade_out_of_range_become_zero() -> None:
    x = torch.zeros(1, 200, 3, dtype=torch.complex64)
    x[:, 0] = 1
    states = scan(x, torch.full((3,), 0.5 + 0j, dtype=torch.complex64))
    assert states[0, 100, 0] == 0.5**100
    assert states[0, 199, 0] == 0  # 2**-199 is no float32


def test_the_operator_passes_the_checks_of_torch() -> None:
    x, poles, state = (torch.view_as_real(t).clone().requires_grad_() for t in example(2, 5, 3))
    operator = torch.ops.gramian.scan.default
    torch.library.opcheck(operator, (x, poles, state, "numba"))


def test_what_does_not_fit_is_refused() -> None:
    x, poles, _ = example(2, 3, 4)
    with pytest.raises(ShapeError, match=r"Needed: x complex \(batch, L, N\)"):
        scan(x.real, poles)
    with pytest.raises(ShapeError, match=r"poles complex \(N,\)"):
        scan(x, poles[:3])
    with pytest.raises(ConfigError, match=r"numbaa.*Did you mean 'numba'"):
        scan(x, poles, backend="numbaa")
    with pytest.raises(ConfigError, match="computes on the CPU"):
        scan(x.to("meta"), poles.to("meta"), backend="numba")
