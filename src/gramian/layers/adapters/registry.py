"""Which adapter stands for which module of another library.

An adapter is an object with what `gramian.layers.reducible.Reducible` asks for, made from a module. The library that
a module comes from is never imported here: modules are recognised by the names of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

__all__ = ["adapted", "register_adapter"]

_SHIPPED: dict[str, str] = {}
_registered: dict[str, Callable[[Any], Any]] = {}


def register_adapter(kind: type[nn.Module] | str, make: Callable[[Any], Any]) -> None:
    """Let ``make(module)`` stand for every module of class `kind`, or of a subclass.

    Parameters
    ----------
    kind
        The class, or its full name ``"package.module.Class"``.
    make
        Returns a `Reducible`; a subclass of `gramian.layers.selective.adapter.SelectiveAdapter`, for instance.
    """
    _registered[kind if isinstance(kind, str) else _name(kind)] = make


def adapted(module: nn.Module) -> Any:
    """What stands for `module`, or None where no adapter is known."""
    for kind in type(module).__mro__:
        name = _name(kind)
        if name in _registered:
            return _registered[name](module)
        if name in _SHIPPED:
            home, _, attribute = _SHIPPED[name].rpartition(":")
            return getattr(import_module(home), attribute)(module)
    return None


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
