"""Whether what a module computes may be computed without calling it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules import module as modules

__all__ = ["is_watched"]


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to be there when it is called: another function stands in its forward's place, or what
    it compiles to; hooks are on it or on all modules; or parameters of its own are tensors of another kind, which may
    want to be asked."""
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return True
    if modules._global_backward_hooks or modules._global_backward_pre_hooks:
        return True
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return True
    if "forward" in vars(module) or module._compiled_call_impl is not None:
        return True
    return any(p is not None and type(p) not in (nn.Parameter, Tensor) for p in module._parameters.values())
