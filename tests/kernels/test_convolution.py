"""Impulse responses and long convolutions are what their definitions say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gramian.kernels.convolution import causal_convolution, fft_length
from gramian.kernels.response import factors_in_torch, impulse_response


def poles_and_matrices(order: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(order)
    like = {"generator": g, "dtype": torch.float64}
    tensors = (
        10 ** (2 * torch.rand(order, **like) - 3),
        6 * torch.rand(order, **like),
        torch.randn(inputs, order, 2, **like),
        torch.randn(outputs, order, 2, **like),
    )
    return tuple(t.to(dtype).requires_grad_() for t in tensors)


@pytest.mark.parametrize("length", [1, 2, 3, 30])
@pytest.mark.parametrize(("order", "inputs", "outputs"), [(1, 1, 1), (9, 3, 2), (13, 1, 5)])
def test_the_impulse_response_is_the_sum_over_the_modes(length: int, order: int, inputs: int, outputs: int) -> None:
    decay, angle, B, C = poles_and_matrices(order, inputs, outputs)
    poles = torch.exp(torch.complex(-decay, angle))
    powers = poles ** torch.arange(length)[:, None]
    expected = torch.einsum("gn,dn,hn->hgd", torch.view_as_complex(C), powers, torch.view_as_complex(B)).real
    torch.testing.assert_close(impulse_response(decay, angle, B, C, length), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-4)])
def test_the_compiled_factors_are_those_of_plain_torch(dtype: torch.dtype, tolerance: float) -> None:
    tensors = poles_and_matrices(21, 3, 2, dtype)
    ours = torch.ops.gramian.response_factors(*tensors, 5, 7)[:2]
    theirs = factors_in_torch(*tensors, 5, 7)
    g = torch.Generator().manual_seed(3)
    weights = [torch.randn(m.shape, generator=g, dtype=torch.float64).to(dtype) for m in theirs]
    gradients = (torch.autograd.grad(pair, tensors, weights) for pair in (ours, theirs))
    for a, b in zip((*ours, *next(gradients)), (*theirs, *next(gradients)), strict=True):
        assert (a - b).abs().max() <= tolerance * (1 + b.abs().max())


@given(length=st.integers(1, 5000))
def test_an_fft_is_long_enough_and_of_small_primes(length: int) -> None:
    n = fft_length(length)
    assert n >= 2 * length - 1
    assert n % 2 == 0
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    assert n == 1


@pytest.mark.parametrize("length", [1, 2, 17, 40])
@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 1, 1), (3, 5, 2), (2, 17, 4), (2, 4, 9)])
def test_a_convolution_is_the_sum_of_its_definition(length: int, batch: int, inputs: int, outputs: int) -> None:
    g = torch.Generator().manual_seed(length)
    u = torch.randn(batch, length, inputs, generator=g, dtype=torch.float64, requires_grad=True)
    K = torch.randn(inputs, outputs, length, generator=g, dtype=torch.float64, requires_grad=True)
    expected = torch.stack(
        [sum(u[:, s] @ K[:, :, t - s] for s in range(t + 1)) for t in range(length)],  # type: ignore[misc]
        1,
    )
    y = causal_convolution(u, K)
    weight = torch.randn(y.shape, generator=g, dtype=torch.float64)
    ours, theirs = torch.autograd.grad(y, (u, K), weight), torch.autograd.grad(expected, (u, K), weight)
    for a, b in zip((y, *ours), (expected, *theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_the_operators_pass_the_checks_of_torch() -> None:
    u = torch.randn(2, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    K = torch.randn(3, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.gramian.causal_convolution.default, (u, K), test_utils=checks)
    torch.library.opcheck(
        torch.ops.gramian.response_factors.default, (*poles_and_matrices(5, 3, 2), 3, 3), test_utils=checks
    )
