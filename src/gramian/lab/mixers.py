"""The state space layers that a block can be built around, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from gramian.errors import ConfigError, did_you_mean

__all__ = ["MIXERS", "build_mixer"]

MIXERS = ("mamba", "mamba2", "linear_attention")
"""Layers that gate and project themselves; the LRU does not, and has a block of its own."""


def build_mixer(name: str, d_model: int, d_state: int, options: Mapping[str, Any]) -> nn.Module:
    """The layer of this name, freshly initialised; `options` are further arguments of its constructor.

    A Mamba-2 with the option ``d_key`` has that many channels in B and C, projected to `d_state`.
    """
    if name == "mamba":
        from gramian.layers.mamba import Mamba

        return Mamba(d_model, d_state, **options)
    if name == "mamba2":
        from gramian.layers.mamba2 import Mamba2

        rest = {key: value for key, value in options.items() if key != "d_key"}
        if options.get("d_key") is None:
            return Mamba2(d_model, d_state, **rest)
        return Mamba2(d_model, options["d_key"], projection=d_state, **rest)
    if name == "linear_attention":
        from gramian.layers.linear_attention import LinearAttention

        return LinearAttention(d_model, d_state, **options)
    raise ConfigError(f"layer '{name}' is not known.{did_you_mean(name, MIXERS)} Known: lru, {', '.join(MIXERS)}.")
