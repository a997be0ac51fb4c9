"""Mamba and its selective scan, ours and mambapy's, which is plain torch: same weights, same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.kernels import selective_scan
from gramian.lab.bench.settings import CannotRun, Shape
from gramian.lab.bench.timing import Call
from gramian.layers.mamba import Mamba
from gramian.layers.rms_norm import RMSNorm

__all__ = ["mambapy_layer", "mambapy_model", "mambapy_scan", "model", "scan"]


class _Block(nn.Module):
    """``x + mixer(norm(x))``: mambapy's ``ResidualBlock``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.mixer = Mamba(shape.channels, shape.states)
        self.norm = RMSNorm(shape.channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.mixer(self.norm(x))
        return y


def blocks(shape: Shape) -> nn.Sequential:
    """As many blocks as the shape says, always with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(_Block(shape) for _ in range(shape.blocks)))


def model(shape: Shape) -> Call:
    """Forward and backward of `blocks`: gradients of the input and of all parameters."""
    network = blocks(shape)
    return _with_gradients(network, list(network.parameters()), shape)


def mambapy_model(shape: Shape) -> Call:
    """The same by mambapy."""
    module = _mambapy("mamba")
    config = module.MambaConfig(d_model=shape.channels, n_layers=shape.blocks, d_state=shape.states)
    network = module.Mamba(config)
    for layer, block in zip(network.layers, blocks(shape), strict=True):
        layer.load_state_dict(block.state_dict())
    return _with_gradients(network, list(network.parameters()), shape)


def mambapy_layer(layer: Mamba) -> nn.Module:
    """A layer of mambapy with the sizes and the weights of `layer`."""
    module = _mambapy("mamba")
    config = module.MambaConfig(d_model=layer.d_model, n_layers=1, d_state=layer.d_state)
    theirs: nn.Module = module.MambaBlock(config)
    theirs.load_state_dict(layer.state_dict())
    return theirs


def _with_gradients(forward: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], shape: Shape) -> Call:
    x, grads = torch.randn(
        2, shape.batch, shape.length, shape.channels, generator=torch.Generator().manual_seed(0)
    ).unbind()
    return _gradients(forward, [x], parameters, grads)


def _gradients(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], parameters: Sequence[Tensor], grads: Tensor
) -> Call:
    leaves = [t.requires_grad_() for t in inputs]

    def call() -> tuple[Tensor, tuple[Tensor, ...]]:
        y = forward(*leaves)
        return y, torch.autograd.grad(y, [*leaves, *parameters], grads)

    return call


def scan_inputs(shape: Shape) -> tuple[list[Tensor], Tensor]:
    """u, dt, A, B, C, D, z and the bias of dt for as many channels as the shape says, and a gradient of the output.

    A and the step sizes are those that Mamba starts with, ``-1 ... -N`` and 0.001 to 0.1.
    """
    g = torch.Generator().manual_seed(0)
    batch, length, channels, states = shape.batch, shape.length, shape.channels, shape.states
    u, dt, z, grads = torch.randn(4, batch, length, channels, generator=g)
    B, C = torch.randn(2, batch, length, states, generator=g)
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    step = 10 ** (torch.rand(channels, generator=g) * 2 - 3)
    return [u, 0.3 * dt, A, B, C, torch.ones(channels), z, step + torch.log(-torch.expm1(-step))], grads


def scan(shape: Shape, backend: str = "auto") -> Call:
    """`gramian.kernels.selective_scan`, with the gradients of all its tensors."""
    inputs, grads = scan_inputs(shape)
    return _gradients(lambda *t: selective_scan(*t, backend=backend)[0], inputs, (), grads)


def mambapy_scan(shape: Shape) -> Call:
    """The same around mambapy's parallel scan, in the form in which its Mamba calls it."""
    pscan = _mambapy("pscan").pscan
    inputs, grads = scan_inputs(shape)

    def forward(
        u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, dt_bias: Tensor
    ) -> Tensor:
        delta = F.softplus(dt + dt_bias)[..., None]
        states = pscan(torch.exp(delta * A), delta * B[:, :, None] * u[..., None])
        y: Tensor = ((states @ C[..., None])[..., 0] + D * u) * F.silu(z)
        return y

    return _gradients(forward, inputs, (), grads)


def _mambapy(module: str) -> Any:
    if find_spec("mambapy") is None:
        raise CannotRun("mambapy is not installed: pip install 'gramian[bench]'")
    return import_module(f"mambapy.{module}")
