"""Whether what a module computes may be computed without calling it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as modules

__all__ = ["is_watched"]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to be there when it is called: another function stands in its forward's place, hooks are
    on it or on all modules, or parameters of its own are tensors of another kind, which may want to be asked."""
    if modules._global_forward_hooks or modules._global_forward_pre_hooks or modules._global_backward_hooks:
        return True
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    plain = nn.Parameter, Tensor
    return "forward" in vars(module) or any(p is not None and type(p) not in plain for p in module._parameters.values())
