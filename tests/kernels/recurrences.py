"""Random recurrences for the tests of their kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gramian.kernels import diagonal_ssm

NAMES = ("y", "final state", "d u", "d decay", "d angle", "d B", "d C", "d D", "d state")
STATEFUL = ("numba", "products", "chunked", "torch")  # versions that carry a state
FAST = (*STATEFUL, "fft")


def random_recurrence(
    *,
    batch: int,
    length: int,
    order: int,
    channels: int,
    outputs: int | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """``u, decay, angle, B, C, D, state``, from poles that forget at once to poles that hardly forget, seeded.

    With `outputs` given, there are as many of them, and no D.
    """
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    decay = 10 ** (torch.rand(order, **like) * 4 - 3.5)  # 3e-4 to 3
    angle = torch.rand(order, **like) * 2 * torch.pi
    B, C = (
        torch.complex(torch.randn(*shape, **like), torch.randn(*shape, **like)) / order**0.5
        for shape in ((order, channels), (outputs or channels, order))
    )
    D = torch.randn(channels, **like)
    state = torch.complex(torch.randn(batch, order, **like), torch.randn(batch, order, **like))
    u = torch.randn(batch, length, channels, **like)
    narrow = torch.complex64 if dtype == torch.float32 else torch.complex128
    tensors = (u, decay, angle, B, C, *(() if outputs else (D,)), state)
    return tuple(t.to(narrow if t.is_complex() else dtype) for t in tensors)


def run(tensors: tuple[Tensor, ...], backend: str, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
    """``y`` and the final state (of ``fft``, ``y`` alone, from a zero state)."""
    *rest, state = tensors
    D = rest.pop() if len(rest) == 6 else None
    if backend == "fft":
        return diagonal_ssm(*rest, D, backend=backend, final_state=False)[:1]
    y, final = diagonal_ssm(*rest, D, state, lengths, backend=backend)
    assert final is not None
    return y, final


def results_and_gradients(call: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The results of `call`, and the gradients of a random linear functional of them for every tensor."""
    leaves = tuple(t.detach().requires_grad_() for t in tensors)
    results = call(leaves)
    g = torch.Generator().manual_seed(99)
    loss = torch.zeros((), dtype=torch.float64)
    for result in results:
        weight = torch.randn(
            result.shape, generator=g, dtype=torch.complex128 if result.is_complex() else torch.float64
        )
        loss = loss + (result * weight.to(result.dtype)).real.sum()
    gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
    return (*(r.detach() for r in results), *gradients)


def assert_close_results(one: tuple[Tensor, ...], two: tuple[Tensor, ...], tolerance: float, what: str = "") -> None:
    """Equal shapes, and differences of at most ``tolerance (1 + max |two|)``; NaN never passes."""
    assert len(one) == len(two)
    for i, (a, b) in enumerate(zip(one, two, strict=True)):
        assert a.shape == b.shape, (what, i)
        if b.numel():
            worst = float((a - b).abs().max() / (1 + b.abs().max()))
            assert worst <= tolerance, f"{what}: result {i} differs by {worst:.2g}"


def from_zero(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """`tensors` with a zero first state."""
    return (*tensors[:-1], torch.zeros_like(tensors[-1]))
