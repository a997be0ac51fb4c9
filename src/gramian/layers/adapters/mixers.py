"""The base of the adapters for transformers' mixers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gramian.layers.selective.adapter import SelectiveAdapter

__all__ = ["MixerAdapter"]


class MixerAdapter(SelectiveAdapter):
    """Stands for a mixer of transformers. A subclass gives `d_state`, `signals`, `layout`, `resized_` and `size_key`.

    Attributes
    ----------
    size_key
        What configurations call the number of states.
    """

    size_key = ""

    @property
    @abstractmethod
    def d_state(self) -> int:
        """States of each channel now."""

    @property
    def mixer(self) -> Any:
        """The mixer, whose attributes no type checker knows."""
        return self._module

    @property
    def layer_index(self) -> int:
        """Which layer of the model the mixer is in."""
        return self.mixer.layer_idx

    def hidden(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """``hidden_states``, and the mask of real steps ``(batch, L)`` where one is given."""
        names = ("hidden_states", "cache", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return given["hidden_states"], given.get("attention_mask")
