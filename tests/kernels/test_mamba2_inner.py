"""Mamba-2 between its projections: the operator is its parts, and these are the loop that specifies them."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import causal_conv1d, mamba2_inner, ssd
from gramian.kernels.gated_norm import gated_rms_norm_in_torch
from gramian.kernels.mamba2_inner import mamba2_inner_by_parts
from gramian.kernels.rows import in_lines

# batch, L, heads, head dimension, groups, N, width of the convolution
SHAPES = [
    (2, 9, 2, 4, 1, 3, 4),
    (1, 33, 6, 5, 2, 7, 4),
    (3, 70, 4, 16, 4, 16, 3),
    (8, 40, 12, 4, 1, 20, 2),  # heads of a group in more than one task
    (8, 40, 12, 4, 2, 7, 4),
    (8, 1, 2, 4, 1, 3, 1),
    (16, 100, 2, 64, 1, 70, 4),
]


def example(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    batch, length, heads, P, groups, N, width = shape
    inner, mixed = heads * P, heads * P + 2 * groups * N
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    zxbcdt = normal(batch, length, inner + mixed + heads)
    conv = normal(mixed, width), normal(mixed)
    tensors = zxbcdt, *conv, normal(heads) - 2, normal(heads) * 0.3, normal(heads), normal(inner)
    return tuple(t.to(dtype) for t in tensors)


def specification(t: tuple[Tensor, ...], groups: int) -> Tensor:
    """Loops over time, and torch."""
    zxbcdt, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight = t
    inner, heads = len(norm_weight), len(A_log)
    keys = (len(conv_weight) - inner) // 2
    z, xBC, dt = zxbcdt.split([inner, inner + 2 * keys, heads], -1)
    x, B, C = causal_conv1d(xBC, conv_weight, conv_bias, backend="reference")[0].split([inner, keys, keys], -1)
    delta = F.softplus(dt + dt_bias)
    x, B, C = x.unflatten(-1, (heads, -1)), B.unflatten(-1, (groups, -1)), C.unflatten(-1, (groups, -1))
    y, _ = ssd(x, -A_log.exp() * delta, B, C, dt=delta, D=D, backend="reference")
    return gated_rms_norm_in_torch(y.flatten(2), z, norm_weight, groups, True, 1e-5)


@pytest.mark.parametrize("run", [mamba2_inner, mamba2_inner_by_parts])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, ...], run: object) -> None:
    groups = shape[4]
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        tensors = example(shape, dtype)
        slow = results_and_gradients(lambda t: (specification(t, groups),), tensors)
        for chunk in (None, 16):
            fast = results_and_gradients(lambda t, T=chunk: (run(*t, groups=groups, chunk=T),), tensors)
            assert_close_results(fast, slow, tolerance, f"chunks of {chunk}")


def test_gradients_are_the_derivatives_of_the_values() -> None:
    leaves = tuple(t.requires_grad_() for t in example((2, 5, 2, 2, 2, 3, 4)))
    assert torch.autograd.gradcheck(lambda *t: mamba2_inner(*t, groups=2, chunk=2), leaves)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_bits_do_not_depend_on_threads(batch: int) -> None:
    """Nor on where rows begin: with whole pieces on a thread, or all tasks of a stage together."""
    tensors = example((batch, 70, 6, 8, 1, 20, 4), torch.float32)
    apart = in_lines(tensors[0], *tensors[0].shape).copy_(tensors[0])
    results, before = [], torch.get_num_threads()
    for threads, given in ((1, tensors[0]), (2, tensors[0]), (3, apart)):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: (mamba2_inner(*t),), (given, *tensors[1:])))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (3, 1), (1, 1)])
def test_pieces_of_a_larger_input_may_have_any_strides_where_an_axis_has_one_entry(batch: int, length: int) -> None:
    whole, *parameters = example((5, 20, 4, 4, 2, 3, 4))
    piece = whole[2 : 2 + batch, 7 : 7 + length]
    found, expected = (
        results_and_gradients(lambda t: (mamba2_inner(*t, groups=2),), (given, *parameters))
        for given in (piece, piece.clone())
    )
    assert_close_results(found, expected, 1e-14)


def test_the_bias_of_the_convolution_is_optional() -> None:
    zxbcdt, weight, bias, *rest = example(SHAPES[1])
    without = mamba2_inner(zxbcdt.requires_grad_(), weight, None, *rest, groups=2)
    torch.testing.assert_close(without, mamba2_inner(zxbcdt, weight, torch.zeros_like(bias), *rest, groups=2))
    without.sum().backward()
    assert zxbcdt.grad is not None


@pytest.mark.parametrize("biased", [True, False])
def test_the_operator_passes_the_checks_of_torch(biased: bool) -> None:
    zxbcdt, weight, bias, *rest = (t.requires_grad_() for t in example((2, 5, 4, 3, 2, 4, 4 if biased else 2)))
    arguments = (zxbcdt, weight, bias if biased else None, *rest, 2, 1e-5, 3)
    torch.library.opcheck(torch.ops.gramian.mamba2_inner.default, arguments)


def test_it_is_the_same_in_one_graph() -> None:
    torch.compiler.reset()
    tensors = example(SHAPES[1])
    compiled = torch.compile(lambda t: (mamba2_inner(*t, groups=2),), backend="aot_eager", fullgraph=True)
    eager = results_and_gradients(lambda t: (mamba2_inner(*t, groups=2),), tensors)
    assert_close_results(results_and_gradients(compiled, tensors), eager, 1e-12)


def test_half_precision_is_computed_in_float32() -> None:
    tensors = example(SHAPES[0], torch.bfloat16)
    y = mamba2_inner(*tensors)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, mamba2_inner(*(t.float() for t in tensors)).bfloat16())


def test_long_filters_empty_sequences_and_no_states_go_by_parts() -> None:
    for shape in ((2, 9, 2, 4, 1, 3, 6), (2, 0, 2, 4, 1, 3, 4), (0, 3, 2, 4, 1, 3, 4), (2, 9, 2, 4, 1, 0, 4)):
        tensors = example(shape)
        y = mamba2_inner(*tensors)
        assert y.shape == (*shape[:2], shape[2] * shape[3])
        torch.testing.assert_close(y, specification(tensors, 1))


def test_what_does_not_fit_is_refused() -> None:
    zxbcdt, weight, bias, dt_bias, A_log, D, norm = example(SHAPES[1])
    rest = (dt_bias, A_log, D, norm)
    with pytest.raises(ShapeError, match=r"zxbcdt with sizes \(93,\) was given; needed: \(94,\)"):
        mamba2_inner(zxbcdt[..., 1:], weight, bias, *rest, groups=2)
    with pytest.raises(ShapeError, match=r"conv_bias with sizes \(57,\)"):
        mamba2_inner(zxbcdt, weight, bias[1:], *rest, groups=2)
    with pytest.raises(ShapeError, match=r"6 heads, 4 groups, norm_weight \(30,\) and conv_weight \(58, 4\)"):
        mamba2_inner(zxbcdt, weight, bias, *rest, groups=4)
    with pytest.raises(ShapeError, match=r"D with sizes \(5,\)"):
        mamba2_inner(zxbcdt, weight, bias, dt_bias, A_log, D[1:], norm, groups=2)
    with pytest.raises(ShapeError, match=r"norm_weight \(30, 1\)"):
        mamba2_inner(zxbcdt, weight, bias, dt_bias, A_log, D, norm[:, None], groups=2)
    with pytest.raises(ShapeError, match=r"zxbcdt \(33, 94\)"):
        mamba2_inner(zxbcdt[0], weight, bias, *rest, groups=2)
    with pytest.raises(ShapeError, match=r"conv_weight \(58, 0\)"):
        mamba2_inner(zxbcdt, weight[:, :0], bias, *rest, groups=2)
    with pytest.raises(ConfigError, match="chunk=0"):
        mamba2_inner(zxbcdt, weight, bias, *rest, groups=2, chunk=0)
