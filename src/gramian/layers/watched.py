"""Whether what a module computes may be computed without calling it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as modules

__all__ = ["is_watched"]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to be there when it is called: another function stands in its forward's place, hooks are on
    it or on all modules, or parameters of its own are tensors of another kind, which may want to be asked."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    everywhere = modules._global_forward_hooks, modules._global_forward_pre_hooks, modules._global_backward_hooks
    return (
        "forward" in vars(module)
        or any(hooks)
        or any(everywhere)
        or not all(type(p) in (nn.Parameter, Tensor) for p in module._parameters.values() if p is not None)
    )
