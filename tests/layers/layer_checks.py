"""What every layer with a state promises, as checks that the tests of each layer call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def sequences(batch: int, length: int, channels: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, channels, generator=g, dtype=torch.float64).to(dtype)


def assert_same_state(one: Any, two: Any) -> None:
    """States are tensors, or tuples of them."""
    for a, b in zip(_tensors(one), _tensors(two), strict=True):
        torch.testing.assert_close(a, b)


def assert_steps_are_the_sequence(layer: nn.Module, u: Tensor) -> None:
    """Step by step from the zero state, the outputs and the final state are those of the whole, and so is forward."""
    whole, final = layer.scan(u)
    torch.testing.assert_close(layer(u), whole)
    state, outputs = layer.initial_state(len(u)), []
    for t in range(u.shape[1]):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    assert_same_state(state, final)


def assert_pieces_are_the_whole(layer: nn.Module, u: Tensor) -> None:
    """Also through pieces of one step and of none, and the gradient of the first piece is that of the whole."""
    u = u.requires_grad_()
    whole, final = layer.scan(u)
    state, outputs = layer.initial_state(len(u)), []
    for a, b in ((0, 1), (1, 1), (1, u.shape[1] // 2), (u.shape[1] // 2, u.shape[1])):
        y, state = layer.scan(u[:, a:b], state)
        outputs.append(y)
    pieces = torch.cat(outputs, 1)
    torch.testing.assert_close(pieces, whole)
    assert_same_state(state, final)
    weight = sequences(*whole.shape, seed=1)
    grads = [torch.autograd.grad((y * weight).sum(), [u, *layer.parameters()]) for y in (pieces, whole)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def assert_autocast_changes_little(layer: nn.Module, u: Tensor) -> None:
    """Projections in bfloat16, all the rest in float32: results in bfloat16 near those in float32, with gradients."""
    exact = layer(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer.scan(u)
        whole = layer(u)
    assert whole.dtype == y.dtype == torch.bfloat16
    assert float(((whole - exact).norm() / exact.norm()).detach()) < 0.02
    recurrent = _tensors(state)[-1]
    assert recurrent.dtype == torch.float32
    assert float(((y - exact).norm() / exact.norm()).detach()) < 0.02
    (y.float().square().sum() + whole.float().square().sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


def assert_one_graph(layer: nn.Module, u: Tensor) -> None:
    """Compiled without a break, the layer is the same, gradients too."""
    torch.compiler.reset()
    u = u.requires_grad_()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    results: list[Mapping[str, Tensor]] = []
    for module in (layer, compiled):
        y = module(u)
        leaves = {"u": u, **dict(layer.named_parameters())}
        grads = torch.autograd.grad(y.square().sum(), list(leaves.values()))
        results.append({"y": y, **dict(zip(leaves, grads, strict=True))})
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def _tensors(state: Any) -> tuple[Tensor, ...]:
    return (state,) if isinstance(state, Tensor) else tuple(state)
