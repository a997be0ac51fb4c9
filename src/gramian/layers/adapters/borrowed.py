"""A mixer's own forward pass, with a function that it calls replaced by another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType, MethodType
from typing import Any

from torch import nn

__all__ = ["called_by", "forward_with"]


def called_by(module: nn.Module) -> dict[str, Any]:
    """The globals that the forward pass of the module's class uses, by name: functions of its file, imports, ..."""
    forward = _forward(module)
    code = getattr(forward, "__code__", None)  # none for what was compiled or bound otherwise
    names = () if code is None else code.co_names
    return {name: forward.__globals__[name] for name in names if name in forward.__globals__}


def forward_with(module: nn.Module, functions: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The forward pass that the class of `module` defines, in which these names of globals mean these functions.

    Nothing else that calls the originals is touched. Decorators of the forward pass are left out: those of transformers
    rename arguments that are deprecated, and move weights that were offloaded.
    """
    original = _forward(module)
    borrowed = FunctionType(
        original.__code__,
        {**original.__globals__, **functions},
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    borrowed.__kwdefaults__ = original.__kwdefaults__
    return MethodType(borrowed, module)


def _forward(module: nn.Module) -> Any:
    return inspect.unwrap(type(module).forward)
