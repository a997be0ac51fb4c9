"""Optimizer moments across a change of basis.

Slicing moments by index after states were mixed is wrong: it leaves no correlation with the true moments. They are
carried through the reduction's `MomentMap`, which keeps the effective learning rate, or started anew.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from gramian.layers.reduction import Reduction

__all__ = ["Carry", "moved_states"]

Carry = Literal["transport", "reset"]

_KNOWN = (Adam, AdamW, NAdam, RAdam, SGD, RMSprop)
_ORDER = {  # the optimizers' own names of first and second moments
    "exp_avg": 1,
    "momentum_buffer": 1,
    "grad_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "square_avg": 2,
}


def moved_states(
    optimizer: Optimizer, layer: nn.Module, reduction: Reduction, carry: Carry
) -> list[tuple[nn.Parameter, dict[str, Any]]]:
    """The optimizer's new state for every parameter that `reduction` changes; reads everything, changes nothing.

    To be written into ``optimizer.state`` right after the reduction was applied. ``"transport"`` carries the
    moments of Adam, AdamW, NAdam, RAdam, SGD and RMSprop and keeps their step counts; ``"reset"`` starts them anew,
    step count included. Of any other optimizer, tensors of the parameter's shape become zeros of the new shape
    either way, with one warning.
    """
    parameters = {name: layer.get_parameter(name) for name in reduction.tensors}
    old = {name: dict(optimizer.state.get(p, {})) for name, p in parameters.items()}
    moved = []
    for name, parameter in parameters.items():
        if not old[name]:
            continue
        state = None
        if not isinstance(optimizer, _KNOWN):
            _warn_once(optimizer)
        elif carry == "transport":
            state = _transported(name, old, reduction)
        if state is None:
            state = _anew(optimizer, old[name], parameter, reduction.tensors[name].shape)
        moved.append((parameter, state))
    return moved


def _transported(name: str, old: dict[str, dict[str, Any]], reduction: Reduction) -> dict[str, Any] | None:
    moment_map = reduction.moments[name]
    state = dict(old[name])
    for key, order in _ORDER.items():
        if isinstance(state.get(key), Tensor):
            sources = {source: old[source].get(key) for source in moment_map.sources}
            if any(moment is None for moment in sources.values()):
                return None  # a source was never trained: there is nothing consistent to carry
            state[key] = moment_map.carry({k: v for k, v in sources.items() if v is not None}, order)
    if isinstance(state.get("grad_avg"), Tensor):  # centred RMSprop divides by the root of the variance
        variances = {source: _variance(old[source]) for source in moment_map.sources}
        state["square_avg"] = moment_map.carry(variances, 2) + state["grad_avg"].square()
    return state


def _variance(state: dict[str, Any]) -> Tensor:
    return (state["square_avg"] - state["grad_avg"].square()).clamp(min=0)


def _anew(optimizer: Optimizer, state: dict[str, Any], parameter: nn.Parameter, shape: torch.Size) -> dict[str, Any]:
    """No state where the optimizer makes one when it needs it; zeros for fused SGD, Adagrad and others that do not."""
    if isinstance(optimizer, _KNOWN) and not isinstance(optimizer, SGD):
        return {}

    def fitted(value: Any) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return value.new_zeros(shape) if same else value

    return {key: fitted(value) for key, value in state.items()}


def _warn_once(optimizer: Optimizer) -> None:
    if not getattr(optimizer, "_gramian_warned", False):
        optimizer._gramian_warned = True  # type: ignore[attr-defined]
        warnings.warn(
            f"{type(optimizer).__name__} is not known here: its moments of cut layers were set to zero. "
            "Adam, AdamW, NAdam, RAdam, SGD and RMSprop keep theirs.",
            stacklevel=6,
        )
