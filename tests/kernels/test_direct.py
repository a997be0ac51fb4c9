"""The direct form as an operator: with and without a state before, and one after."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, random_recurrence, results_and_gradients
from torch import Tensor

from gramian.kernels import diagonal_ssm


def pairs(batch: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Random ``u, poles, B, C, D, state`` as the operator wants them."""
    g = torch.Generator().manual_seed(0)
    shapes = ((batch, 37, 4), (3, 2), (4, 3, 2), (4, 3, 2), (4,), (batch, 3, 2))
    return [(0.5 * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype) for shape in shapes]


@pytest.mark.parametrize("final_state", [True, False])
@pytest.mark.parametrize("stateful", [True, False])
@pytest.mark.parametrize("batch", [3, 16])
def test_the_operator_passes_the_checks_of_torch(batch: int, stateful: bool, final_state: bool) -> None:
    """Of them the one that what `torch.compile` is told of results, strides included, is what they are."""
    *rest, state = (t.requires_grad_() for t in pairs(batch))
    arguments = (*rest, state if stateful else None, final_state)
    torch.library.opcheck(torch.ops.gramian.diagonal_ssm_direct.default, arguments)


@pytest.mark.parametrize("stateful", [True, False])
def test_results_lie_as_the_fake_says(stateful: bool) -> None:
    u, poles, B, C, D, state = pairs(3)
    y, final, boundary = torch.ops.gramian.diagonal_ssm_direct(u, poles, B, C, D, state, True)
    found = torch.ops.gramian.diagonal_ssm_direct_backward(y, final, u, poles, B, C, D, boundary, stateful)
    assert all(t.is_contiguous() for t in (y, final, *found))
    assert found[-1].shape == (state.shape if stateful else (0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_before_has_its_gradient_where_none_after_is_wanted(dtype: torch.dtype) -> None:
    tensors = random_recurrence(batch=3, length=63, order=5, channels=3, dtype=dtype)
    fast, slow = (
        results_and_gradients(lambda t, b=backend: diagonal_ssm(*t, backend=b, final_state=False)[:1], tensors)
        for backend in ("numba", "reference")
    )
    assert_close_results(fast, slow, 1e-11 if dtype == torch.float64 else 1e-4)


def test_an_empty_batch_has_gradients_of_zero() -> None:
    tensors = [t.requires_grad_() for t in random_recurrence(batch=0, length=5, order=3, channels=2)]
    y, final = diagonal_ssm(*tensors, backend="numba")
    assert final is not None
    gradients = torch.autograd.grad(y.sum() + final.real.sum(), tensors)
    assert all(not g.any() for g in gradients)
