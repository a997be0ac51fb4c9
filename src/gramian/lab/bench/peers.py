"""Contestants that others have written, or that are written on what others offer; each says why if it cannot run."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from gramian.lab.bench.settings import CannotRun
from gramian.lab.bench.timing import Call
from gramian.layers.lru import LRU

__all__ = ["guarded", "mambapy_scan", "torch_lru", "torch_scan"]

_LANES = 16  # mambapy wants states in two axes, channels and N: any product will do


def guarded(call: Call, what: str) -> Call:
    """`call`, whose first failure is the reason why it has no time."""

    def run() -> object:
        try:
            return call()
        except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
            raise CannotRun(f"{what}: {type(error).__name__}: {str(error).splitlines()[0][:160]}") from error

    return run


def _associative_scan() -> Callable[..., Any]:
    try:
        from torch._higher_order_ops.associative_scan import associative_scan
    except ImportError as error:
        raise CannotRun(f"torch._higher_order_ops.associative_scan is not in torch {torch.__version__}") from error
    function: Callable[..., Any] = associative_scan
    return function


def _combine(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return first[0] * second[0], second[0] * first[1] + second[1]


def _states(poles: Tensor, x: Tensor) -> Tensor:
    """All states by torch's own associative scan; ``pointwise``, its fast mode, refuses the CPU."""
    elements = (poles.expand(x.shape), x)
    states: Tensor = _associative_scan()(_combine, elements, 1, combine_mode="generic")[1]
    return states


def torch_scan(x: Tensor, poles: Tensor, g: Tensor | None) -> Call:
    """A raw scan ``(batch, L, N)``; with the gradient `g` of its output, its gradients for input and poles as well."""

    def call() -> object:
        if g is None:
            with torch.no_grad():
                return _states(poles, x)
        leaves = (poles.detach().requires_grad_(), x.detach().requires_grad_())
        return torch.autograd.grad(_states(*leaves), leaves, g)

    _associative_scan()
    return guarded(call, "torch associative_scan")


def torch_lru(layer: LRU, u: Tensor, g: Tensor) -> Call:
    """The LRU around torch's associative scan, forward and backward."""
    parameters = dict(layer.named_parameters())

    def forward(u: Tensor) -> Tensor:
        p = parameters
        poles = torch.polar(torch.exp(-p["nu_log"].exp()), p["theta_log"].exp())
        B = torch.complex(p["B_re"], p["B_im"]) * p["gamma_log"].exp()[:, None]
        states = _states(poles, u.to(B.dtype) @ B.mT)
        return (states @ torch.complex(p["C_re"], p["C_im"]).mT).real + p["D"] * u

    def call() -> object:
        leaf = u.detach().requires_grad_()
        return torch.autograd.grad(forward(leaf), [leaf, *parameters.values()], g)

    _associative_scan()
    return guarded(call, "torch associative_scan")


def mambapy_scan(x: Tensor, backward: bool) -> Call:
    """mambapy's parallel scan of as many real numbers as complex `x` has, decay varying in time.

    Its gradients are wrong for complex numbers, so only real ones are compared.
    """
    if find_spec("mambapy") is None:
        raise CannotRun("mambapy is not installed: pip install 'gramian[bench]'")
    pscan = import_module("mambapy.pscan").pscan
    real = torch.view_as_real(x).flatten(2)
    real = real.reshape(*real.shape[:2], -1, _LANES if real.shape[2] % _LANES == 0 else 2).contiguous()
    decay = torch.rand_like(real) * 0.1 + 0.9
    g = torch.ones_like(real)

    def call() -> object:
        if not backward:
            with torch.no_grad():
                return pscan(decay, real)
        leaves = (decay.detach().requires_grad_(), real.detach().requires_grad_())
        return torch.autograd.grad(pscan(*leaves), leaves, g)

    return guarded(call, "mambapy pscan")
