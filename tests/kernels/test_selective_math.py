"""What the selective scan computes with: powers of two, softplus, SiLU, and sums over lanes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.selective_math import silu, silu_and_slope, softplus, softplus_and_slope
from gramian.kernels.vector_memory import broadcast, load, store, store_whole
from gramian.kernels.vector_power import _single, power_of_e, power_of_two
from gramian.kernels.vector_sums import totals
from gramian.kernels.vectors import lanes

EXACT = [(torch.float32, 1.2e-7), (torch.float64, 2.3e-16)]


_single_without_table = compiled(_single)  # what processors without AVX-512 run


@compiled
def _powers(index, args, real):
    n = args[0]
    x, out = array(args[1], n, real), array(args[2], n, real)
    for i in range(0, n, lanes(real)):
        store(out, i, n, _single_without_table(load(x, i, n)))


@entry
def _powers_entry(data):
    run(_powers, data)


@compiled
def _apply(index, args, real):
    n = args[0]
    x, out = array(args[1], n, real), array(args[2], 8 * n, real)
    for i in range(0, n, lanes(real)):
        v = load(x, i, n)
        store(out, i, n, power_of_two(v))
        store(out, n + i, 2 * n, softplus(v))
        a, b = softplus_and_slope(v)
        store(out, 2 * n + i, 3 * n, a)
        store(out, 3 * n + i, 4 * n, b)
        store(out, 4 * n + i, 5 * n, silu(v))
        a, b = silu_and_slope(v)
        store(out, 5 * n + i, 6 * n, a)
        store(out, 6 * n + i, 7 * n, b)
        store(out, 7 * n + i, 8 * n, power_of_e(v))


@entry
def _apply_entry(data):
    run(_apply, data)


def applied(x: Tensor) -> Tensor:
    out = torch.zeros(8, len(x), dtype=x.dtype)
    launch(_apply_entry, 1, x.dtype, len(x), x, out)
    return out


@pytest.mark.parametrize(("dtype", "ulp"), EXACT)
def test_functions_of_vectors_are_accurate(dtype: torch.dtype, ulp: float) -> None:
    x = torch.cat([torch.linspace(-40, 40, 40011), torch.linspace(-1e-3, 1e-3, 101), torch.tensor([0.0])]).to(dtype)
    exact, results = x.double(), applied(x).double()
    gate, rest = torch.sigmoid(exact), torch.sigmoid(-exact)
    assert ((results[0] / exact.exp2() - 1).abs() < 2 * ulp).all()
    assert ((results[7] / exact.exp() - 1).abs() < 2 * ulp).all()
    assert results[0][-1] == 1
    for row, y in ((1, F.softplus(exact)), (2, F.softplus(exact)), (4, F.silu(exact)), (5, F.silu(exact))):
        assert ((results[row] - y).abs() <= 4 * ulp * y.abs()).all()
    slope = torch.where(exact > 20, 1.0, gate)
    assert ((results[3] - slope).abs() <= 4 * ulp * slope).all()
    slope = gate * (1 + exact * rest)
    assert ((results[6] - slope).abs() <= 4 * ulp * slope.abs().clamp(min=0.5)).all()


@pytest.mark.parametrize(("dtype", "lowest", "highest"), [(torch.float32, -125, 127), (torch.float64, -1021, 1023)])
def test_powers_beyond_the_range_of_exponents(dtype: torch.dtype, lowest: int, highest: int) -> None:
    powers = applied(torch.tensor([-1e30, -5e6, -2000, lowest, highest, 2000, 5e6, 1e30], dtype=dtype))[0].double()
    assert (powers[:3] <= 2.0**lowest * (1 + 1e-6)).all()
    assert powers[3] == 2.0**lowest
    assert powers[4] == 2.0**highest
    assert not powers[5:].isfinite().any()
    assert applied(torch.tensor([torch.nan], dtype=dtype))[[0, 7]].isnan().all()


def test_powers_of_e_are_limited_in_float32() -> None:
    x = torch.tensor([-1e30, -87.5, -87.0, 88.0, 89.0, torch.inf])
    expected = x.clamp(-87, 88).double().exp()
    assert ((applied(x)[7].double() - expected).abs() < 2.4e-7 * expected + 2.0**-126).all()


def test_powers_need_no_table() -> None:
    x = torch.cat([torch.linspace(-126, 126, 40011), torch.tensor([0.0, 1e-3, torch.nan, 200.0, -1e30])])
    powers = torch.zeros_like(x)
    launch(_powers_entry, 1, x.dtype, len(x), x, powers)
    inside = x.abs() < 100  # far below, parts of a power are too small for the processor
    assert ((powers[inside].double() / x[inside].double().exp2() - 1).abs() < 2.4e-7).all()
    assert powers[-5] == 1
    assert powers[-3].isnan()
    assert not powers[-2].isfinite()
    assert powers[-1] <= 2.0**-125


@compiled
def _sums(index, args, real):
    W = lanes(real)
    x, out = array(args[0], W * W, real), array(args[1], 2 * W, real)
    store_whole(out, 0, totals(x, 0))
    store_whole(out, W, broadcast(x, 3))


@entry
def _sums_entry(data):
    run(_sums, data)


@pytest.mark.parametrize(("dtype", "ulp"), EXACT)
def test_vectors_are_summed_over_their_lanes(dtype: torch.dtype, ulp: float) -> None:
    W = 64 // torch.empty(0, dtype=dtype).element_size()
    x = torch.randn(W, W, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.zeros(2, W, dtype=dtype)
    launch(_sums_entry, 1, dtype, x, out)
    torch.testing.assert_close(out[0], x.sum(1), rtol=0, atol=W * 4 * ulp)
    assert (out[1] == x[0, 3]).all()
