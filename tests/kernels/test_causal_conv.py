"""The causal convolution: every version is the loop that specifies it, and torch's own convolution."""

from __future__ import annotations

import pytest
import torch
from causal_conv_examples import example
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import CONV_BACKENDS, causal_conv1d
from gramian.kernels.causal_conv_native import TAPS

HERE = tuple(name for name in CONV_BACKENDS if name != "causal_conv1d")
FAST = tuple(name for name in HERE if name != "reference")
SHAPES = ((1, 1, 1, 1), (3, 2, 13, 4), (1, 63, 40, 3), (2, 30, 300, 4), (1, 7, 200, 2), (1, 20, 5, 9))


def run(tensors: tuple[Tensor, ...], backend: str, activation: str | None = "silu") -> tuple[Tensor, ...]:
    y, last = causal_conv1d(*tensors, activation=activation, final_state=True, backend=backend)
    assert last is not None
    return y, last


@pytest.mark.parametrize("backend", HERE)
def test_it_is_the_convolution_of_torch(backend: str) -> None:
    x, weight, bias, state = example((2, 20, 6, 4))
    whole = F.conv1d(torch.cat([state, x], 1).mT, weight[:, None], bias, groups=6).mT
    torch.testing.assert_close(run((x, weight, bias, state), backend, None)[0], whole)
    torch.testing.assert_close(run((x, weight, bias, state), backend)[0], F.silu(whole))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, int, int, int], backend: str) -> None:
    if shape[3] > TAPS and backend == "numba":
        backend = "auto"
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        for activation in ("silu", None):
            tensors = example(shape, dtype)
            slow = results_and_gradients(lambda t, a=activation: run(t, "reference", a), tensors)
            fast = results_and_gradients(lambda t, a=activation: run(t, backend, a), tensors)
            assert_close_results(fast, slow, tolerance, backend)


@pytest.mark.parametrize("backend", HERE)
def test_gradients_are_the_derivatives_of_the_values(backend: str) -> None:
    leaves = tuple(t.requires_grad_() for t in example((2, 5, 3, 4)))
    assert torch.autograd.gradcheck(lambda *t: run(t, backend), leaves)
    assert torch.autograd.gradcheck(lambda *t: causal_conv1d(*t, backend=backend)[0], leaves[:2])


@pytest.mark.parametrize("backend", HERE)
def test_pieces_are_the_whole(backend: str) -> None:
    x, weight, bias, state = example((2, 20, 5, 4))
    y, last = run((x, weight, bias, state), backend)
    parts = []
    for a, b in ((0, 1), (1, 3), (3, 3), (3, 20)):
        part, state = run((x[:, a:b], weight, bias, state), backend)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), y)
    torch.testing.assert_close(state, last)
    torch.testing.assert_close(last, x[:, -3:])


@pytest.mark.parametrize("backend", HERE)
def test_nothing_in_nothing_out(backend: str) -> None:
    for shape in ((0, 3, 2, 4), (2, 0, 2, 4), (2, 3, 0, 4)):
        leaves = tuple(t.requires_grad_() for t in example(shape))
        y, last = run(leaves, backend)
        assert y.shape == shape[:3]
        assert last.shape == leaves[3].shape
        (y.sum() + last.sum()).backward()


@pytest.mark.parametrize("backend", FAST)
def test_columns_of_a_larger_matrix_are_read_where_they_lie(backend: str) -> None:
    x, *rest = example((2, 9, 21, 4))
    expected = results_and_gradients(lambda t: run(t, backend), (x, *rest))
    wide = F.pad(x, (3, 4), value=torch.nan)[..., 3:-4]
    for strided in (wide, x.transpose(0, 1).contiguous().transpose(0, 1), x.mT.contiguous().mT):
        assert_close_results(results_and_gradients(lambda t: run(t, backend), (strided, *rest)), expected, 1e-15)


def test_two_runs_are_bit_equal_whatever_the_threads() -> None:
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: run(t, "numba"), example((5, 63, 300, 4), torch.float32)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", FAST)
def test_half_precision_is_computed_in_single(backend: str) -> None:
    tensors = example((2, 9, 5, 4), torch.bfloat16)
    wide = run(tuple(t.float() for t in tensors), backend)
    assert torch.equal(run(tensors, backend)[0], wide[0].bfloat16())


def test_what_does_not_fit_is_refused() -> None:
    x, weight, bias, state = example((2, 3, 4, 4))
    with pytest.raises(ShapeError, match=r"Needed: x \(batch, L, channels\), weight \(channels, width\)"):
        causal_conv1d(x, weight[:3])
    with pytest.raises(ShapeError, match=r"Needed: bias \(4,\)"):
        causal_conv1d(x, weight, bias[:3])
    with pytest.raises(ShapeError, match=r"Needed: state \(2, 3, 4\)"):
        causal_conv1d(x, weight, bias, state[:, :2])
    with pytest.raises(ConfigError, match="'relu' was given; needed: 'silu' or None"):
        causal_conv1d(x, weight, activation="relu")
    with pytest.raises(ConfigError, match=r"numbaa.*Did you mean 'numba'"):
        causal_conv1d(x, weight, backend="numbaa")
    with pytest.raises(ConfigError, match="computes on the CPU"):
        causal_conv1d(x.to("meta"), weight.to("meta"), backend="numba")
    with pytest.raises(ConfigError, match="it has registers for 4 weights a channel, not for 5"):
        causal_conv1d(x, torch.zeros(4, 5).to(x), backend="numba")
