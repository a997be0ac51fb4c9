"""Matrix products as stages: torch's own, whatever the rows, the threads and where rows begin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gramian.kernels.products import LEAST, by_columns, fits, in_lines, product_stage, transposed_product
from gramian.kernels.stages import launch_stages

DTYPES = (torch.float32, torch.float64)


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x weight^T + bias`` in one stage."""
    out = in_lines(x, *x.shape[:2], len(weight))
    offset = None if bias is None else in_lines(bias, len(bias)).copy_(bias)
    launch_stages([product_stage(x, by_columns(weight), out, offset)], len(x), x.dtype)
    return out


def tolerance(dtype: torch.dtype) -> float:
    return 1e-4 if dtype == torch.float32 else 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("length", [LEAST, LEAST + 1, 63, 64, 127, 128, 200])
def test_rows_times_a_matrix(length: int, biased: bool, dtype: torch.dtype) -> None:
    for batch, d_in, d_out in ((1, 1, 1), (2, 5, 17), (3, 32, 130)):
        x, weight = normal(batch, length, d_in, dtype=dtype), normal(d_out, d_in, dtype=dtype, seed=1)
        bias = normal(d_out, dtype=dtype, seed=2) if biased else None
        expected = torch.nn.functional.linear(x, weight, bias)
        torch.testing.assert_close(product(x, weight, bias), expected, rtol=0, atol=tolerance(dtype) * d_in**0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_lie_some_numbers_apart(dtype: torch.dtype) -> None:
    wide, weight = normal(3, 70, 40, dtype=dtype), normal(20, 11, dtype=dtype, seed=1)
    x = wide[..., 7:18]
    assert torch.equal(product(x, weight, None), product(x.contiguous(), weight, None))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "rows", "width"), [(1, 3, 16), (255, 32, 16), (256, 33, 48), (700, 100, 160)])
def test_the_gradient_of_a_weight(steps: int, rows: int, width: int, dtype: torch.dtype) -> None:
    g = in_lines(torch.empty(0, dtype=dtype), steps, rows).copy_(normal(steps, rows, dtype=dtype))
    x = normal(steps, width, dtype=dtype, seed=1)
    found = transposed_product(g, x)
    assert found.shape == (rows, width)
    torch.testing.assert_close(found, g.t() @ x, rtol=0, atol=tolerance(dtype) * steps**0.5)


def test_bits_do_not_depend_on_threads() -> None:
    x, weight = normal(3, 90, 32, dtype=torch.float32), normal(80, 32, dtype=torch.float32, seed=1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = product(x, weight, None)
        found.append((y, transposed_product(y.flatten(0, 1), x.flatten(0, 1))))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_begin_at_lines_of_64_bytes(dtype: torch.dtype) -> None:
    like = torch.empty(0, dtype=dtype)
    y = in_lines(like, 3, 5, 11)
    assert y.shape == (3, 5, 11)
    assert y.stride() == (5 * y.stride(1), y.stride(1), 1)
    assert y.stride(1) * y.itemsize % 64 == 0
    assert in_lines(like, 4, 16).is_contiguous()
    assert [fits(torch.empty(2, n, dtype=dtype)) for n in (16, 12)] == [True, False]
