"""Mamba-2 with the norm before it and the sum behind it, as one operator."""

from __future__ import annotations

import pytest
import torch
from mamba2_examples import WHOLE, block_example, projected, whole_specification
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import mamba2_mixer
from gramian.kernels.mamba2_mixer_forward import forward_plan
from gramian.kernels.mamba2_mixer_sizes import Parameters, Sizes


def block_specification(t: tuple[Tensor, ...], groups: int) -> Tensor:
    u, prenorm, *rest = t
    return u + whole_specification((F.rms_norm(u, u.shape[2:], prenorm, 1e-5), *rest), groups)


def block(t: tuple[Tensor, ...], bias: Tensor | None = None, **how: int) -> Tensor:
    u, prenorm, *rest = t
    return mamba2_mixer(u, *rest, bias, prenorm=prenorm, **how)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("shape", [*WHOLE, (2, 7, *WHOLE[0][2:])], ids=str)
def test_a_residual_block_is_the_sum_of_its_input_and_of_what_follows_its_norm(shape: tuple[int, ...]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        tensors = block_example(shape, dtype)
        slow = results_and_gradients(
            lambda t: (block_specification((*t, torch.zeros(32).to(t[0])), shape[4]),), tensors
        )
        fast = results_and_gradients(lambda t: (block(t, groups=shape[4]),), tensors)
        assert_close_results(fast, slow, tolerance)


def test_a_block_with_a_last_bias_or_in_half_precision_is_the_same() -> None:
    tensors, bias = block_example(WHOLE[0]), torch.arange(32.0, dtype=torch.float64)
    torch.testing.assert_close(block(tensors, bias), block_specification((*tensors, bias), 1))
    half = tuple(t.bfloat16() for t in tensors)
    y = block(half)
    assert y.dtype == torch.bfloat16
    expected = block_specification((*tensors, torch.zeros(32, dtype=torch.float64)), 1)
    assert float((y - expected).norm() / expected.norm()) < 0.03


@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 10), (4,), (5, 6), (3, 8, 9)], ids=str)
def test_only_gradients_that_are_wanted_are_made_and_are_the_same(wanted: tuple[int, ...]) -> None:
    tensors = tuple(t.requires_grad_() for t in block_example(WHOLE[1]))
    every = torch.autograd.grad(block(tensors, groups=2).square().sum(), tensors)
    some = tuple(t if k in wanted else t.detach() for k, t in enumerate(tensors))
    found = torch.autograd.grad(block(some, groups=2).square().sum(), [some[k] for k in wanted])
    assert all(torch.equal(found[i], every[k]) for i, k in enumerate(wanted))


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_bits_of_a_block_do_not_depend_on_threads(batch: int) -> None:
    tensors = block_example((batch, 137, 6, 16, 1, 20, 4), torch.float32)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: (block(t),), tensors))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_operator_passes_the_checks_of_torch() -> None:
    tensors = [t.requires_grad_() for t in block_example((2, 9, 4, 8, 2, 4, 4))]
    torch.library.opcheck(torch.ops.gramian.mamba2_mixer.default, (*tensors, None, 2, 1e-5, 1e-5, 3))


@pytest.mark.parametrize(("batch", "heads", "threads"), [(1, 1, 2), (1, 4, 8), (2, 8, 16)])
def test_threads_may_be_more_than_the_tasks_of_a_stage(batch: int, heads: int, threads: int) -> None:
    """Every worker has room of its own: nothing is written behind the memory of a launch."""
    u, *p = (t.contiguous() for t in block_example((batch, 64, heads, 32 // heads * 2, 1, 16, 4), torch.float32))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    given = Parameters(*p, None)
    plan, shape, saved, scratch = forward_plan(Sizes.of(u, given, 1, 1e-5, 1e-5, 32))
    guarded = torch.full((scratch + 100_000,), 7.0)
    for _ in range(20):
        plan.launch((u, *given.given(), u.new_empty(shape), u.new_empty(saved), guarded))
    torch.set_num_threads(before)
    assert (guarded[scratch:] == 7).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"out_weight with sizes \(48, 16\) was given; needed: \(32, 16\)"):
        mamba2_mixer(*projected(WHOLE[0]), prenorm=torch.ones(32))
    with pytest.raises(ShapeError, match=r"prenorm with sizes \(31,\) was given; needed: \(32,\)"):
        mamba2_mixer(*projected(WHOLE[0], d_out=32), prenorm=torch.ones(31))
