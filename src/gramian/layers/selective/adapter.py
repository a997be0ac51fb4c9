"""The base of adapters: a view of a mixer of another library as a reducible selective layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gramian.layers.selective.layer import Selective

__all__ = ["SelectiveAdapter"]


class SelectiveAdapter(Selective):
    """Stands for `module`. A subclass gives `d_state`, `signals`, `layout` and `resized_`.

    Parameters
    ----------
    module
        The mixer; its parameters and attributes are changed in place when a reduction is applied.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property
    def module(self) -> nn.Module:
        """The mixer."""
        return self._module

    def of(self, module: nn.Module) -> SelectiveAdapter:
        """The same kind of adapter for a copy of the mixer."""
        return type(self)(module)

    def hidden(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The first positional argument, or ``hidden_states``; the mask of real steps where one is given."""
        x = args[0] if args else kwargs["hidden_states"]
        return x, kwargs.get("attention_mask")
