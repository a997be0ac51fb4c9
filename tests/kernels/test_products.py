"""Matrix products as stages: torch's own, whatever the rows, the threads and where rows begin."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gramian.kernels.memory import in_lines
from gramian.kernels.products import LEAST, ROWS, fits, product_stage, sums_stage, transposed_stage
from gramian.kernels.stages import launch_stages

DTYPES = (torch.float32, torch.float64)


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def transposed(weight: Tensor) -> Tensor:
    out = in_lines(weight, *weight.shape[::-1])
    launch_stages([transposed_stage(weight, out)], 1, weight.dtype)
    return out


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """``x weight^T`` in one stage, and what is added."""
    out = in_lines(x, *x.shape[:2], len(weight))
    offset = None if bias is None else in_lines(bias, len(bias)).copy_(bias)
    launch_stages([product_stage(x, transposed(weight), out, offset=offset, start=start)], len(x), x.dtype)
    return out


def transposed_product(g: Tensor, x: Tensor) -> Tensor:
    """``g^T x``."""
    out, spare = x.new_empty(g.shape[1], x.shape[1]), x.new_empty(ROWS, x.shape[1])
    launch_stages([sums_stage(g, x, out, spare)], 1, x.dtype)
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
def test_a_product_is_added_to_where_it_starts_from(dtype: torch.dtype) -> None:
    x, weight = normal(3, 70, 11, dtype=dtype), normal(20, 11, dtype=dtype, seed=1)
    start = in_lines(x, 3, 70, 20).copy_(normal(3, 70, 20, dtype=dtype, seed=2))
    torch.testing.assert_close(product(x, weight, start=start), start + x @ weight.mT, rtol=0, atol=tolerance(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (33, 17), (70, 100)], ids=str)
def test_weights_are_transposed(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = normal(*shape, dtype=dtype)
    assert torch.equal(transposed(weight), weight.t())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_may_lie_some_numbers_apart(dtype: torch.dtype) -> None:
    wide, weight = normal(3, 70, 40, dtype=dtype), normal(20, 11, dtype=dtype, seed=1)
    x = wide[..., 7:18]
    assert torch.equal(product(x, weight), product(x.contiguous(), weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("steps", "rows", "width"), [(1, 3, 16), (255, 32, 16), (256, 33, 48), (700, 100, 160)])
def test_the_gradient_of_a_weight(steps: int, rows: int, width: int, dtype: torch.dtype) -> None:
    g = in_lines(torch.empty(0, dtype=dtype), steps, rows).copy_(normal(steps, rows, dtype=dtype))
    x = normal(steps, width, dtype=dtype, seed=1)
    found = transposed_product(g, x)
    torch.testing.assert_close(found, g.t() @ x, rtol=0, atol=tolerance(dtype) * steps**0.5)


def test_bits_do_not_depend_on_threads() -> None:
    x, weight = normal(3, 90, 32, dtype=torch.float32), normal(80, 32, dtype=torch.float32, seed=1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y = product(x, weight)
        found.append((y, transposed_product(y.flatten(0, 1), x.flatten(0, 1))))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_fit_that_are_lines_of_64_bytes(dtype: torch.dtype) -> None:
    assert [fits(n, dtype.itemsize) for n in (16, 12, 0)] == [True, False, False]
