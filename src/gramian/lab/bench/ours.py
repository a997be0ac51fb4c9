"""Our own contestants, each defined once, and what all of them compute on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels.scan import scan
from gramian.lab.bench.settings import Shape
from gramian.lab.bench.timing import Call
from gramian.lab.config import TrainConfig
from gramian.lab.models import SequenceModel
from gramian.lab.summary import training_step
from gramian.layers.lru import LRU

__all__ = [
    "batch",
    "copy",
    "cut",
    "evaluation",
    "layer",
    "matrix_product",
    "model",
    "new_layer",
    "prefill",
    "raw_scan",
    "scan_data",
    "step",
    "stepping",
]

CLASSES = 10
SETTINGS = TrainConfig.model_validate({"steps": 1, "lr": 2e-3})


def batch(shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs ``(batch, L, 1)`` and classes, always the same."""
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape.batch, shape.length, 1, generator=g)
    return inputs, torch.randint(CLASSES, (shape.batch,), generator=g)


def model(shape: Shape, dropout: float = 0.1) -> SequenceModel:
    """The laboratory's model, always with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        states = [shape.states] * shape.blocks
        return SequenceModel(1, CLASSES, d_model=shape.channels, d_state=states, dropout=dropout)


def new_layer(shape: Shape, backend: str = "auto") -> LRU:
    """One LRU, always with the same parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LRU(shape.channels, shape.states, backend=backend)


def layer_data(shape: Shape) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients of a layer, ``(batch, L, H)``."""
    g = torch.Generator().manual_seed(0)
    inputs, grads = torch.randn(2, shape.batch, shape.length, shape.channels, generator=g)
    return inputs, grads


def layer(shape: Shape, backend: str = "auto") -> Call:
    """The LRU alone, forward and backward: gradients of all parameters and of the input."""
    lru, (u, g) = new_layer(shape, backend), layer_data(shape)
    leaves = [u.requires_grad_(), *lru.parameters()]
    return lambda: torch.autograd.grad(lru(u), leaves, g)


def step(shape: Shape, dropout: float = 0.1) -> Call:
    """A whole training step: forward, backward, AdamW."""
    return training_step(SETTINGS, model(shape, dropout), *batch(shape))


def evaluation(shape: Shape) -> Call:
    """The forward pass in eval mode, without gradients."""
    network, inputs = model(shape).eval(), batch(shape)[0]

    def call() -> Tensor:
        with torch.no_grad():
            logits: Tensor = network(inputs)
        return logits

    return call


def scan_data(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs ``(batch, L, N)``, poles, and output gradients of a raw scan, complex64."""
    g = torch.Generator().manual_seed(0)
    x, grads = torch.randn(2, shape.batch, shape.length, shape.states, dtype=torch.complex64, generator=g)
    radius, angle = torch.rand(2, shape.states, generator=g)
    return x, torch.polar(0.9 + 0.099 * radius, 2 * torch.pi * angle), grads


def raw_scan(x: Tensor, poles: Tensor, g: Tensor | None, backend: str = "auto") -> Call:
    """`gramian.kernels.scan.scan`; with the gradient `g` of its output, its gradients for input and poles as well."""

    def call() -> Any:
        if g is None:
            with torch.no_grad():
                return scan(x, poles, backend=backend)
        leaves = (x.detach().requires_grad_(), poles.detach().requires_grad_())
        return torch.autograd.grad(scan(*leaves, backend=backend), leaves, g)

    return call


def copy(shape: Shape) -> Call:
    """Copying the array of all states, complex64 ``(batch, L, N)``: what one pass over memory costs."""
    source = scan_data(shape)[0]
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def matrix_product(size: int) -> Call:
    """A float32 product of two square matrices, the machine at its best."""
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    out = torch.zeros(size, size)
    return lambda: torch.mm(a, b, out=out)


def cut(shape: Shape) -> Call:
    """One reduction to a quarter of the states: the spectrum, and the proposal made of it."""
    lru, rank = new_layer(shape), max(1, shape.states // 4)

    def call() -> Any:
        spectrum = lru.spectrum()
        return lru.propose(rank, spectrum=spectrum)

    return call


def stepping(shape: Shape) -> Call:
    """One step of inference; every call goes on from the state that the last one left."""
    stepper, u = new_layer(shape).stepper(shape.batch), torch.ones(shape.batch, shape.channels)
    return lambda: stepper.step(u)


def prefill(shape: Shape) -> Call:
    """A whole prompt of `length` steps at once, outputs and the state after it."""
    stepper, u = new_layer(shape).stepper(shape.batch), layer_data(shape)[0]
    return lambda: stepper.prefill(u)
