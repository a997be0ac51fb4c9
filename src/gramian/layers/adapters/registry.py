"""Which adapter stands for which module of another library.

An adapter is an object with what `gramian.layers.reducible.Reducible` asks for, made from a module. The library that
a module comes from is never imported here: modules are recognised by the names of their classes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

__all__ = ["adapted", "register_adapter", "why_not"]

_HERE = "gramian.layers.adapters"
_SHIPPED = {
    f"transformers.models.{kind}": f"{_HERE}.{adapter}"
    for kind, adapter in {
        "mamba.modeling_mamba.MambaMixer": "mamba1:MambaMixerAdapter",
        "falcon_mamba.modeling_falcon_mamba.FalconMambaMixer": "normed_mamba:FalconMambaMixerAdapter",
        "jamba.modeling_jamba.JambaMambaMixer": "normed_mamba:JambaMambaMixerAdapter",
        "zamba.modeling_zamba.ZambaMambaMixer": "mamba1:ZambaMixerAdapter",
        "mamba2.modeling_mamba2.Mamba2Mixer": "mamba2:Mamba2MixerAdapter",
        "bamba.modeling_bamba.BambaMixer": "mamba2:BambaMixerAdapter",
        "granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer": "mamba2:BambaMixerAdapter",
        "zamba2.modeling_zamba2.Zamba2MambaMixer": "mamba2:BambaMixerAdapter",
        "nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer": "mamba2:NemotronHMixerAdapter",
        "falcon_h1.modeling_falcon_h1.FalconH1Mixer": "mamba2:FalconH1MixerAdapter",
        "qwen3_next.modeling_qwen3_next.Qwen3NextGatedDeltaNet": "delta_rule:DeltaRuleAdapter",
        "qwen3_5.modeling_qwen3_5.Qwen3_5GatedDeltaNet": "delta_rule:DeltaRuleAdapter",
        "qwen3_5_moe.modeling_qwen3_5_moe.Qwen3_5MoeGatedDeltaNet": "delta_rule:DeltaRuleAdapter",
        "olmo_hybrid.modeling_olmo_hybrid.OlmoHybridGatedDeltaNet": "delta_rule:DeltaRuleAdapter",
        "kimi_linear.modeling_kimi_linear.KimiLinearDeltaAttention": "delta_rule:DeltaRuleAdapter",
    }.items()
}
_REFUSED = {
    "transformers.models.recurrent_gemma.modeling_recurrent_gemma.RecurrentGemmaRglru": (
        "RecurrentGemma's recurrence has one state a channel: there is nothing to leave out of it but channels"
    ),
}
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


def why_not(module: nn.Module) -> str | None:
    """Why a recurrence that is known cannot be reduced; None for any other module."""
    return next((_REFUSED[_name(kind)] for kind in type(module).__mro__ if _name(kind) in _REFUSED), None)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
