"""The base of the adapters for transformers' mixers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gramian.errors import GramianError
from gramian.layers.calibration import Calibration, Evidence
from gramian.layers.reducible import Spectrum
from gramian.layers.selective.adapter import SelectiveAdapter
from gramian.layers.selective.layout import Fixed

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

    def calibrated_spectrum(self, evidence: Evidence, calibration: Calibration) -> Spectrum:
        """The amplitudes of the calibration's measure.

        Raises
        ------
        GramianError
            If weights are quantised, sharded, offloaded or wrapped, so that states cannot be told apart in them.
        """
        parameters = dict(self.module.named_parameters())
        for name, (dim, parts) in self.layout().parameters.items():
            size = sum(part.size if isinstance(part, Fixed) else part.groups * self.d_state for part in parts)
            _require_plain(type(self.module).__name__, name, parameters.get(name), dim, size)
        return super().calibrated_spectrum(evidence, calibration)


def _require_plain(owner: str, name: str, parameter: Tensor | None, dim: int, size: int) -> None:
    if parameter is None:
        found = "is no parameter of it"
    elif hasattr(parameter, "placements"):
        found = "is sharded over devices"
    elif parameter.is_meta:
        found = "is not in memory"
    elif not parameter.is_floating_point() or parameter.ndim <= dim or parameter.shape[dim] != size:
        found = f"is {parameter.dtype} of shape {tuple(parameter.shape)}; needed: {size} numbers along dimension {dim}"
    else:
        return
    raise GramianError(
        f"'{name}' of a {owner} {found}.",
        "States are rows of weights: these must be whole, in floating point, and under their own names.",
        "Load the model without quantisation or device_map, and merge adapters into it (peft: merge_and_unload()).",
    )
