"""For caution: take everything a cut touches, watch the metric, and go back if it falls."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from gramian.compression.random_state import random_state, set_random_state
from gramian.errors import GramianError
from gramian.layers.reducible import assign_, resized_

__all__ = ["RollBack", "Stateful", "restore", "snapshot"]


class Stateful(Protocol):
    """Anything with ``state_dict`` and ``load_state_dict``: a scheduler, a GradScaler, a sampler, a history."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


@dataclass(frozen=True)
class RollBack:
    """Undo a cut after which the metric stays too low.

    The metric last reported before a cut is the mark. After the cut, a report within `drop` of the mark confirms
    it; `patience` reports in a row beyond it bring everything back to where it was just before the cut. Until one or
    the other, no further cut is made.

    Parameters
    ----------
    drop
        How far the metric may fall, in its own unit (0.02 is two points of an accuracy in [0, 1]).
    patience
        Bad reports in a row that are one too many.
    better
        Whether a ``"higher"`` (accuracy) or ``"lower"`` (loss) metric is better.
    then
        After a roll-back, go on with a policy that cuts half as much (``"cautious"``), or make no more cuts
        (``"stop"``). A policy that cannot be more cautious stops.
    also
        Further objects to bring back: learning rate schedulers, GradScaler, the position in the data, a history.
    """

    drop: float
    patience: int = 1
    better: Literal["higher", "lower"] = "higher"
    then: Literal["cautious", "stop"] = "cautious"
    also: tuple[Stateful, ...] = ()

    def __post_init__(self) -> None:
        if not self.drop >= 0 or self.patience < 1:
            raise GramianError(
                f"RollBack(drop={self.drop}, patience={self.patience}) was given; needed: drop >= 0, patience >= 1."
            )
        if self.better not in ("higher", "lower") or self.then not in ("cautious", "stop"):
            raise GramianError(
                f"RollBack(better={self.better!r}, then={self.then!r}) was given; "
                "needed: better 'higher' or 'lower', then 'cautious' or 'stop'."
            )

    def is_within(self, metric: float, mark: float) -> bool:
        """Whether `metric` is good enough beside `mark`; a NaN never is."""
        fallen = mark - metric if self.better == "higher" else metric - mark
        return fallen <= self.drop


def snapshot(model: nn.Module, optimizer: Optimizer | None, also: tuple[Stateful, ...]) -> dict[str, Any]:
    """Copies of weights, buffers, optimizer state, the random generators and whatever else was named."""
    return {
        "parameters": {name: p.detach().clone() for name, p in model.named_parameters()},
        "buffers": {name: b.detach().clone() for name, b in model.named_buffers()},
        "optimizer": None if optimizer is None else _optimizer_snapshot(optimizer),
        "also": [copy.deepcopy(thing.state_dict()) for thing in also],
        "random": random_state(),
    }


def restore(
    saved: Mapping[str, Any], model: nn.Module, optimizer: Optimizer | None, also: tuple[Stateful, ...]
) -> None:
    """Bring everything back in place, with the shapes it had; gradients are dropped."""
    for name, parameter in model.named_parameters():
        assign_(parameter, saved["parameters"][name])
    for name, buffer in model.named_buffers():
        buffer.data = saved["buffers"][name].clone()
    resized_(model)
    if optimizer is not None:
        _restore_optimizer(optimizer, saved["optimizer"])
    for thing, state in zip(also, saved["also"], strict=True):
        thing.load_state_dict(copy.deepcopy(state))
    set_random_state(saved["random"])


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _optimizer_snapshot(optimizer: Optimizer) -> dict[str, Any]:
    states = [optimizer.state.get(p, {}) for p in _parameters(optimizer)]
    return {
        "states": [{key: _copied(value) for key, value in state.items()} for state in states],
        "groups": [{k: _copied(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
    }


def _restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """In place, so that learning rate schedulers keep pointing to the same groups."""
    for parameter, state in zip(_parameters(optimizer), saved["states"], strict=True):
        if state:
            optimizer.state[parameter] = {key: _copied(value) for key, value in state.items()}
        else:
            optimizer.state.pop(parameter, None)
    for group, options in zip(optimizer.param_groups, saved["groups"], strict=True):
        group.update({key: _copied(value) for key, value in options.items()})
