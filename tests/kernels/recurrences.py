"""Random recurrences for the tests of their kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def random_recurrence(
    *,
    batch: int,
    length: int,
    order: int,
    inputs: int,
    outputs: int,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """``u, decay, angle, B, C, state``, from poles that forget at once to poles that hardly forget, seeded."""
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    decay = 10 ** (torch.rand(order, **like) * 4 - 3.5)  # 3e-4 to 3
    angle = torch.rand(order, **like) * 2 * torch.pi
    B, C = (
        torch.complex(torch.randn(*shape, **like), torch.randn(*shape, **like)) / order**0.5
        for shape in ((order, inputs), (outputs, order))
    )
    state = torch.complex(torch.randn(batch, order, **like), torch.randn(batch, order, **like))
    u = torch.randn(batch, length, inputs, **like)
    narrow = torch.complex64 if dtype == torch.float32 else torch.complex128
    return tuple(t.to(narrow if t.is_complex() else dtype) for t in (u, decay, angle, B, C, state))


def results_and_gradients(kernel: Callable[..., tuple[Tensor, Tensor]], tensors: tuple[Tensor, ...], *rest: object):
    """``y``, final state, and the gradients of a random linear functional of both for every tensor."""
    leaves = tuple(t.detach().requires_grad_() for t in tensors)
    y, final = kernel(*leaves, *rest)
    g = torch.Generator().manual_seed(99)
    loss = (y * torch.randn(y.shape, generator=g, dtype=torch.float64).to(y.dtype)).sum()
    weight = torch.randn(final.shape, generator=g, dtype=torch.complex128).to(final.dtype)
    loss = loss + (final * weight).real.sum()
    gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return y.detach(), final.detach(), *gradients


NAMES = ("y", "final state", "d u", "d decay", "d angle", "d B", "d C", "d state")
