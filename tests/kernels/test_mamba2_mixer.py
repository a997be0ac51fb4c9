"""Mamba-2 as one operator: it is its parts, and these are the loop that specifies them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mamba2_examples import SHAPES, WHOLE, example, projected, specification, whole_specification
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import mamba2_mixer
from gramian.kernels.mamba2_mixer import mamba2_mixer_by_parts
from gramian.kernels.memory import in_lines


def between(run: Callable[..., Tensor], t: tuple[Tensor, ...], **how: object) -> Tensor:
    """Without projections."""
    return run(t[0], None, None, *t[1:], None, None, **how)


@pytest.mark.parametrize("run", [mamba2_mixer, mamba2_mixer_by_parts])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, ...], run: Callable[..., Tensor]) -> None:
    groups = shape[4]
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        tensors = example(shape, dtype)
        slow = results_and_gradients(lambda t: (specification(t, groups),), tensors)
        for chunk in (None, 16):
            fast = results_and_gradients(lambda t, T=chunk: (between(run, t, groups=groups, chunk=T),), tensors)
            assert_close_results(fast, slow, tolerance, f"chunks of {chunk}")


@pytest.mark.parametrize("run", [mamba2_mixer, mamba2_mixer_by_parts])
@pytest.mark.parametrize("shape", WHOLE, ids=str)
def test_with_projections_it_is_the_loop_over_time(shape: tuple[int, ...], run: Callable[..., Tensor]) -> None:
    groups = shape[4]
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        tensors = projected(shape, dtype)
        slow = results_and_gradients(lambda t: (whole_specification(t, groups),), tensors)
        fast = results_and_gradients(lambda t: (run(*t, groups=groups),), tensors)
        assert_close_results(fast, slow, tolerance)


@pytest.mark.parametrize("missing", [(1, 2), (9, 10), (2,), (10,), (4,), (2, 4, 10)], ids=str)
def test_projections_and_biases_are_optional(missing: tuple[int, ...]) -> None:
    tensors = list(projected(WHOLE[1], d_out=96))
    if 1 in missing:
        tensors[0] = example(WHOLE[1])[0]
    given = [k for k in range(11) if k not in missing]

    def run(f: Callable[..., Tensor], t: tuple[Tensor, ...]) -> Tensor:
        some = dict(zip(given, t, strict=True))
        return f(*(some.get(k) for k in range(11)), groups=2)

    leaves = tuple(tensors[k] for k in given)
    found, expected = (
        results_and_gradients(lambda t, f=f: (run(f, t),), leaves) for f in (mamba2_mixer, mamba2_mixer_by_parts)
    )
    assert_close_results(found, expected, 1e-11)


def test_rows_that_are_no_lines_short_sequences_and_mixed_types_are_projected_by_torch() -> None:
    short = (2, 7, *WHOLE[0][2:])
    for shape, sizes in ((WHOLE[0], {"d_model": 20}), (WHOLE[0], {"d_out": 20}), (SHAPES[1], {}), (short, {})):
        tensors = projected(shape, **sizes)
        y = mamba2_mixer(*tensors, groups=shape[4])
        torch.testing.assert_close(y, whole_specification(tensors, shape[4]))

    def by_hand(u: Tensor, in_weight: Tensor, in_bias: Tensor, *rest: Tensor) -> Tensor:
        *inner, out_weight, out_bias = rest
        return F.linear(between(mamba2_mixer, (F.linear(u, in_weight, in_bias), *inner)), out_weight, out_bias)

    tensors = projected(WHOLE[0], torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert mamba2_mixer(*tensors).dtype == torch.bfloat16
        assert torch.equal(mamba2_mixer(*tensors), by_hand(*tensors))
    half = [t.bfloat16() for t in tensors]
    assert torch.equal(mamba2_mixer(*half), by_hand(*half))


def test_weights_that_are_frozen_get_no_gradient() -> None:
    u, in_weight, in_bias, *inner, out_weight, out_bias = projected(WHOLE[0])
    mamba2_mixer(u.requires_grad_(), in_weight, in_bias, *inner, out_weight, out_bias).sum().backward()
    assert u.grad is not None
    assert in_weight.grad is None


def test_gradients_are_the_derivatives_of_the_values() -> None:
    leaves = tuple(t.requires_grad_() for t in example((2, 5, 2, 2, 2, 3, 4)))
    assert torch.autograd.gradcheck(lambda *t: between(mamba2_mixer, t, groups=2, chunk=2), leaves)
    leaves = tuple(t.requires_grad_() for t in projected((1, 9, 2, 4, 1, 3, 4), d_model=8, d_out=8))
    assert torch.autograd.gradcheck(lambda *t: mamba2_mixer(*t, chunk=4), leaves)


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_bits_do_not_depend_on_threads(batch: int) -> None:
    """Nor on where rows begin: with whole pieces on a thread, or all tasks of a stage together."""
    tensors = example((batch, 70, 6, 8, 1, 20, 4), torch.float32)
    apart = in_lines(tensors[0], *tensors[0].shape).copy_(tensors[0])
    results, before = [], torch.get_num_threads()
    for threads, given in ((1, tensors[0]), (2, tensors[0]), (3, apart)):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: (between(mamba2_mixer, t),), (given, *tensors[1:])))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("batch", "length"), [(1, 9), (3, 1), (1, 1)])
def test_pieces_of_a_larger_input_may_have_any_strides_where_an_axis_has_one_entry(batch: int, length: int) -> None:
    whole, *parameters = example((5, 20, 4, 4, 2, 3, 4))
    piece = whole[2 : 2 + batch, 7 : 7 + length]
    found, expected = (
        results_and_gradients(lambda t: (between(mamba2_mixer, t, groups=2),), (given, *parameters))
        for given in (piece, piece.clone())
    )
    assert_close_results(found, expected, 1e-14)


def test_one_step_of_sequences_that_lie_in_any_order() -> None:
    zxbcdt, *parameters = example((3, 1, 4, 4, 2, 3, 4))
    expected = between(mamba2_mixer, (zxbcdt, *parameters), groups=2)
    by_step = zxbcdt.transpose(0, 1).contiguous().transpose(0, 1)
    by_channel = zxbcdt.mT.contiguous().mT
    for given in (by_step, by_channel, zxbcdt[:, 0][:, :, None].mT):
        torch.testing.assert_close(between(mamba2_mixer, (given, *parameters), groups=2), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_tensors_may_have_been_packed_meanwhile(dtype: torch.dtype) -> None:
    """As hooks on saved tensors may leave them that keep them elsewhere."""
    tensors = projected(WHOLE[0], dtype)
    expected = results_and_gradients(lambda t: (mamba2_mixer(*t),), tensors)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.clone(memory_format=torch.contiguous_format), lambda t: t
    ):
        found = results_and_gradients(lambda t: (mamba2_mixer(*t),), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_projection_out_to_nothing_gives_nothing() -> None:
    *some, out_weight, out_bias = projected(WHOLE[0])
    assert mamba2_mixer(*some, out_weight[:0], out_bias[:0]).shape == (*WHOLE[0][:2], 0)


def test_the_bias_of_the_convolution_is_optional() -> None:
    zxbcdt, weight, bias, *rest = example(SHAPES[1])
    tensors = zxbcdt.requires_grad_(), weight, None, *rest
    without = between(mamba2_mixer, tensors, groups=2)
    zero = between(mamba2_mixer, (zxbcdt, weight, torch.zeros_like(bias), *rest), groups=2)
    torch.testing.assert_close(without, zero)
    without.sum().backward()
    assert zxbcdt.grad is not None


@pytest.mark.parametrize("biased", [True, False])
def test_the_operator_passes_the_checks_of_torch(biased: bool) -> None:
    zxbcdt, weight, bias, *rest = (t.requires_grad_() for t in example((2, 5, 4, 3, 2, 4, 4 if biased else 2)))
    inner = weight, bias if biased else None, *rest
    operator = torch.ops.gramian.mamba2_mixer.default
    torch.library.opcheck(operator, (zxbcdt, None, None, None, *inner, None, None, 2, 1e-5, 1e-5, 3))
    whole = [t.requires_grad_() for t in projected((2, 9, 4, 8, 2, 4, 4), d_out=32)]
    if not biased:
        whole[2] = whole[4] = whole[10] = None
    torch.library.opcheck(operator, (whole[0], None, *whole[1:], 2, 1e-5, 1e-5, 3))


def test_it_is_the_same_in_one_graph() -> None:
    torch.compiler.reset()
    tensors = example(SHAPES[1])
    calls = (
        (lambda t: (between(mamba2_mixer, t, groups=2),), tensors),
        (lambda t: (mamba2_mixer(*t),), projected(WHOLE[0])),
    )
    for call, given in calls:
        compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
        found, eager = results_and_gradients(compiled, given), results_and_gradients(call, given)
        assert_close_results(found, eager, 1e-12)


def test_sizes_may_be_symbols() -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    tensors = projected(WHOLE[0])
    traced = make_fx(lambda *t: mamba2_mixer(*t), tracing_mode="symbolic")(*tensors)
    longer = tensors[0].repeat(1, 3, 1)
    torch.testing.assert_close(traced(longer, *tensors[1:]), mamba2_mixer(longer, *tensors[1:]))


def test_half_precision_is_computed_in_float32() -> None:
    tensors = example(SHAPES[0], torch.bfloat16)
    y = between(mamba2_mixer, tensors)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, between(mamba2_mixer, tuple(t.float() for t in tensors)).bfloat16())


def test_long_filters_empty_sequences_and_no_states_go_by_parts() -> None:
    for shape in ((2, 9, 2, 4, 1, 3, 6), (2, 0, 2, 4, 1, 3, 4), (0, 3, 2, 4, 1, 3, 4), (2, 9, 2, 4, 1, 0, 4)):
        tensors = example(shape)
        y = between(mamba2_mixer, tensors)
        assert y.shape == (*shape[:2], shape[2] * shape[3])
        torch.testing.assert_close(y, specification(tensors, 1))


def test_what_does_not_fit_is_refused() -> None:
    zxbcdt, weight, bias, dt_bias, A_log, D, norm = example(SHAPES[1])
    rest = (dt_bias, A_log, D, norm)

    def run(*t: Tensor, groups: int = 2, chunk: int | None = None) -> None:
        between(mamba2_mixer, t, groups=groups, chunk=chunk)

    with pytest.raises(ShapeError, match=r"u with sizes \(93,\) was given; needed: \(94,\)"):
        run(zxbcdt[..., 1:], weight, bias, *rest)
    with pytest.raises(ShapeError, match=r"conv_bias with sizes \(57,\)"):
        run(zxbcdt, weight, bias[1:], *rest)
    with pytest.raises(ShapeError, match=r"6 heads, 4 groups, norm_weight \(30,\) and conv_weight \(58, 1, 4\)"):
        run(zxbcdt, weight, bias, *rest, groups=4)
    with pytest.raises(ShapeError, match=r"D with sizes \(5,\)"):
        run(zxbcdt, weight, bias, dt_bias, A_log, D[1:], norm)
    with pytest.raises(ShapeError, match=r"norm_weight \(30, 1\)"):
        run(zxbcdt, weight, bias, dt_bias, A_log, D, norm[:, None])
    with pytest.raises(ShapeError, match=r"u \(33, 94\)"):
        run(zxbcdt[0], weight, bias, *rest)
    with pytest.raises(ShapeError, match=r"conv_weight \(58, 1, 0\)"):
        run(zxbcdt, weight[..., :0], bias, *rest)
    with pytest.raises(ConfigError, match="chunk=0"):
        run(zxbcdt, weight, bias, *rest, chunk=0)
    u, in_weight, in_bias, *inner, out_weight, out_bias = projected(WHOLE[0])
    with pytest.raises(ShapeError, match=r"u with sizes \(31,\) was given; needed: \(32,\)"):
        mamba2_mixer(u[..., 1:], in_weight, in_bias, *inner, out_weight, out_bias)
    with pytest.raises(ShapeError, match=r"in_weight with sizes \(39, 32\) was given; needed: \(40, 32\)"):
        mamba2_mixer(u, in_weight[1:], in_bias, *inner, out_weight, out_bias)
    with pytest.raises(ShapeError, match=r"in_bias with sizes \(40,\) was given; needed: \(\)"):
        mamba2_mixer(example(WHOLE[0])[0], None, in_bias, *inner, out_weight, out_bias)
    with pytest.raises(ShapeError, match=r"out_weight with sizes \(48, 15\) was given; needed: \(48, 16\)"):
        mamba2_mixer(u, in_weight, in_bias, *inner, out_weight[:, 1:], out_bias)
    with pytest.raises(ShapeError, match=r"out_bias with sizes \(47,\) was given; needed: \(48,\)"):
        mamba2_mixer(u, in_weight, in_bias, *inner, out_weight, out_bias[1:])
