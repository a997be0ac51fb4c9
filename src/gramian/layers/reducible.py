"""The protocol by which a layer shows its spectrum, proposes a smaller self, and becomes it.

Proposing and applying are separate acts, and a proposal is a value: it can be printed (a dry run), sent to other
processes, stored in a checkpoint and replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gramian.errors import GramianError
from gramian.layers.adapters.registry import adapted, why_not
from gramian.layers.reduction import Reduction
from gramian.systems.balancing import Balancing
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Choice, balanced

if TYPE_CHECKING:
    from gramian.layers.calibration import Calibrated

__all__ = [
    "Reducible",
    "Spectrum",
    "assign_",
    "module_of",
    "reducible_layers",
    "resize_like_",
    "resized_",
]


@dataclass(frozen=True)
class Spectrum:
    """How much each state direction of a layer matters.

    Parameters
    ----------
    values
        Descending, float64, ``(n,)``: Hankel singular values, or calibrated scores.
    measure
        What the values are, in words.
    d_state
        States the layer is configured with. ``n`` may be a multiple of it: a complex state of a real layer stands
        for two.
    system
        The linear map the values belong to; None for a layer that has none.
    balancing
        What the values were computed from, where it was kept for a proposal: matrices as large as the Gramians. It
        takes no part in comparisons, and is not stored. See `light` and `release_`.
    calibrated
        The data that calibrated values were computed from, where it was kept for a proposal; treated alike.
    comparable
        Whether values of different layers are in one unit, the change of the loss, so that they can be ranked together.
    """

    values: Tensor
    measure: str
    d_state: int
    system: LinearSystem | None = None
    balancing: Balancing | None = field(default=None, repr=False, compare=False)
    calibrated: Calibrated | None = field(default=None, repr=False, compare=False)
    comparable: bool = False

    @classmethod
    def hankel(cls, system: LinearSystem, d_state: int, balanced: Balancing | Tensor) -> Spectrum:
        """Hankel singular values of a layer's linear map, with or without what they were computed from."""
        measure = f"Hankel singular values ({'real' if system.real_part else 'complex'} realization)"
        if isinstance(balanced, Tensor):
            return cls(balanced, measure, d_state, system)
        return cls(balanced.hsv, measure, d_state, system, balanced)

    @cached_property
    def norm(self) -> float:
        """H-infinity norm of the linear map, measured to a thousandth, once; NaN where there is no map."""
        return float("nan") if self.system is None else float(hinf_norm(self.system, rtol=1e-3))

    def light(self) -> Spectrum:
        """The same spectrum without the matrices it was computed from, to be kept."""
        return replace(self, balancing=None, calibrated=None)

    def release_(self) -> None:
        """Let go of the matrices of a large layer, once they have served; another proposal computes them anew."""
        object.__setattr__(self, "balancing", None)

    def d_state_for(self, order: int) -> int:
        """How many states of the layer hold `order` of the values."""
        per_state = max(1, len(self.values) // self.d_state)
        return max(1, -(-order // per_state))

    def discarded(self, order: int) -> float:
        """The fraction of the sum of all values that is lost when `order` of them are kept."""
        total = float(self.values.sum())
        return float(self.values[order:].sum()) / total if total > 0 else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, tensors and dictionaries; see `from_state_dict`."""
        state: dict[str, Any] = {key: getattr(self, key) for key in ("values", "measure", "d_state", "comparable")}
        fields = ("A", "B", "C", "D", "log_poles", "real_part", "name")
        state["system"] = None if self.system is None else {key: getattr(self.system, key) for key in fields}
        return state

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Spectrum:
        """The spectrum that `state_dict` described."""
        system = None if state["system"] is None else LinearSystem(**state["system"])
        return cls(**{**state, "system": system})


@runtime_checkable
class Reducible(Protocol):
    """A layer that can show its spectrum, *propose* a smaller self, and become it."""

    @property
    def d_state(self) -> int:
        """States the layer has now."""
        ...

    def spectrum(self) -> Spectrum:
        """How much each state direction matters, as things stand."""
        ...

    def propose(self, rank: int, choose: Choice = balanced, spectrum: Spectrum | None = None) -> Reduction:
        """A version of this layer with at most `rank` states; changes nothing.

        `spectrum` is what `spectrum` returned, if nothing has changed since: what it took to compute it is not
        computed again.
        """
        ...

    def apply_(self, reduction: Reduction) -> None:
        """Become what was proposed, in place; parameters keep their identity."""
        ...


def reducible_layers(model: nn.Module) -> dict[str, Reducible]:
    """All reducible layers of `model` by their ``named_modules`` path, in order; shared layers once.

    Modules that are not reducible themselves count where an adapter is known for them: see
    `gramian.layers.adapters.registry`.

    Raises
    ------
    GramianError
        If there are none.
    """
    found = {
        name: module if isinstance(module, Reducible) else adapted(module) for name, module in model.named_modules()
    }
    layers = {name: layer for name, layer in found.items() if layer is not None}
    if not layers:
        kinds = sorted({type(m).__name__ for m in model.modules()})
        reasons = sorted({reason for m in model.modules() if (reason := why_not(m)) is not None})
        raise GramianError(
            f"{type(model).__name__} has no layer that can be reduced (found: {', '.join(kinds)}).",
            "; ".join(reasons) or "A reducible layer has d_state, spectrum(), propose() and apply_().",
            "Use gramian.LRU or gramian.Mamba, give your layer these four, or register an adapter for it.",
        )
    return layers


def module_of(layer: Reducible) -> nn.Module:
    """The module that owns the layer's parameters: the layer itself, or what an adapter stands for."""
    module = layer if isinstance(layer, nn.Module) else getattr(layer, "module", None)
    assert isinstance(module, nn.Module)
    return module


def assign_(parameter: nn.Parameter, value: Tensor) -> None:
    """Give `parameter` a new value, of any shape, in place: identity, flags and dtype stay, the gradient is dropped.

    A graph that is still alive (``loss`` of the last iteration, say) keeps the parameter's gradient accumulator
    alive, and with it the old shape: the next backward pass would fail. Autograd forgets the accumulator only when
    the data changes type, so the data takes a detour over another dtype.
    """
    value = value.detach().to(parameter.device, parameter.dtype, copy=True)
    other = torch.float64 if parameter.dtype != torch.float64 else torch.float32
    parameter.grad = None
    parameter.data = value.to(other)
    parameter.data = value


def resize_like_(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Give the reducible layers of `model` the sizes that `state_dict` has, so that it can be loaded.

    Only shapes change: the resized parameters are zero until ``model.load_state_dict(state_dict)``.
    """
    for name, layer in reducible_layers(model).items():
        for key, parameter in module_of(layer).named_parameters(prefix=name):
            saved = state_dict.get(key)
            if saved is not None and saved.shape != parameter.shape:
                assign_(parameter, parameter.new_zeros(saved.shape))
    resized_(model)


def resized_(model: nn.Module) -> None:
    """Let attributes that hold sizes follow, in layers whose parameters were given other shapes."""
    for layer in reducible_layers(model).values():
        if hasattr(layer, "resized_"):
            layer.resized_()
