"""Operators with outputs that only the backward pass wants: it is given gradients of the others alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gramian.kernels.operators import operator

given: list[tuple[Tensor, ...]] = []


@operator("test_two_results_and_one_kept")
def _operator(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return 2 * x, 3 * x[:1], x.square()


@_operator.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(1, *x.shape[1:]), x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[2])


def _differentiate(ctx: Any, *grads: Tensor) -> Tensor:
    given.append(grads)
    g, g_first = grads
    return torch.cat([2 * g[:1] + 3 * g_first, 2 * g[1:]])


_operator.register_autograd(_differentiate, setup_context=_save, results=2)


def test_gradients_of_results_are_there_and_of_kept_outputs_are_not_made() -> None:
    x = torch.arange(6.0, dtype=torch.float64).view(3, 2).requires_grad_()
    first, second, kept = _operator(x)
    assert not kept.requires_grad
    given.clear()
    (first.sum() + second.sum()).backward()
    assert [g.shape for g in given[0]] == [(3, 2), (1, 2)]
    assert x.grad is not None
    assert x.grad.tolist() == [[5, 5], [2, 2], [2, 2]]


def test_a_result_that_nobody_used_has_a_gradient_of_zeros() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    given.clear()
    _operator(x)[0].sum().backward()
    assert torch.equal(given[0][1], torch.zeros(1, 2))
    assert x.grad is not None
    assert (x.grad == 2).all()


def test_gradients_of_gradients_are_refused() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    (g,) = torch.autograd.grad(_operator(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_the_operator_passes_the_checks_of_torch() -> None:
    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.gramian.test_two_results_and_one_kept.default, (x,))
