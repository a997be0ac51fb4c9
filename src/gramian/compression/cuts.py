"""One cut: ask the policy, let every layer propose, apply what stands, move the optimizer's moments."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gramian.compression.optimizer_state import Carry, moved_states
from gramian.compression.policies import Policy
from gramian.compression.records import Event, LayerChange
from gramian.layers.calibration import Calibration, TimeVarying, as_calibration
from gramian.layers.reducible import Reducible, Spectrum, module_of, reducible_layers
from gramian.layers.reduction import Reduction
from gramian.layers.spectra import spectra_of
from gramian.systems.projections import Choice, Keep

__all__ = ["Plan", "apply_plan_", "compress_", "plan_cuts"]


@dataclass(frozen=True)
class Plan:
    """Proposals for the layers that a policy wants to cut, with the ranks it asked for before rounding."""

    reductions: dict[str, Reduction]
    asked: dict[str, int]

    @property
    def accepted(self) -> dict[str, Reduction]:
        """The proposals that stand."""
        return {name: r for name, r in self.reductions.items() if r.accepted and r.after < r.before}

    @property
    def why_nothing(self) -> str:
        """Why no proposal stands, where none does."""
        return "every proposal was refused" if self.reductions else "the policy keeps all states, up to its min_gain"

    def changes(self, kept: Mapping[str, float]) -> tuple[LayerChange, ...]:
        """One record a layer; `kept` is the fraction of its spectrum that earlier cuts have left."""
        return tuple(
            LayerChange.from_reduction(name, self.asked[name], reduction, kept.get(name, 1.0))
            for name, reduction in self.reductions.items()
        )


def plan_cuts(layers: Mapping[str, Reducible], spectra: Mapping[str, Spectrum], policy: Policy, choose: Choice) -> Plan:
    """What `policy` would do to `layers`, whose spectra these are now; changes nothing."""
    targets = {name: t for name, t in policy.targets(spectra).items() if t.rank < spectra[name].d_state}
    reductions = {
        name: layers[name].propose(target.rank, choose, spectrum=spectra[name]) for name, target in targets.items()
    }
    return Plan(reductions, {name: target.asked for name, target in targets.items()})


def apply_plan_(
    plan: Plan,
    layers: Mapping[str, Reducible],
    optimizer: Optimizer | None = None,
    carry: Carry = "transport",
    kept: MutableMapping[str, float] | None = None,
) -> None:
    """Apply the proposals that stand, and let the optimizer's state and the tally `kept` follow."""
    for name, reduction in plan.accepted.items():
        layer = layers[name]
        moved = [] if optimizer is None else moved_states(optimizer, module_of(layer), reduction, carry)
        layer.apply_(reduction)
        for parameter, state in moved:
            assert optimizer is not None
            if state:
                optimizer.state[parameter] = state
            else:
                optimizer.state.pop(parameter, None)
        if kept is not None and reduction.measurement is not None and reduction.measurement.discarded is not None:
            kept[name] = kept.get(name, 1.0) * (1 - reduction.measurement.discarded)


def compress_(
    model: nn.Module,
    policy: Policy,
    calibration: Calibration | Iterable[Any] | None = None,
    dry_run: bool = False,
    keep: Keep | None = None,
) -> Event:
    """Cut a trained model once, in place, and report what was done to every layer.

    Parameters
    ----------
    policy
        How many states every layer keeps.
    calibration
        Batches for layers whose spectrum depends on data, or a `Calibration` that says more. Linear time-invariant
        layers need none: their Hankel singular values follow from their parameters, and batches given for them alone
        are left unused, with a warning.
    dry_run
        Return the plan and change nothing.
    keep
        Which states; by default those with the largest Hankel singular values.
    """
    start = time.perf_counter()
    layers = reducible_layers(model)
    if calibration is not None and not any(isinstance(layer, TimeVarying) for layer in layers.values()):
        warnings.warn("calibration batches were not used: every reducible layer is time-invariant.", stacklevel=2)
    spectra = spectra_of(layers, for_proposals=True, model=model, calibration=as_calibration(calibration))
    plan = plan_cuts(layers, spectra, policy, keep or Keep())
    if not dry_run:
        apply_plan_(plan, layers)
    seconds = time.perf_counter() - start
    if plan.accepted:
        return Event(0, "cut", plan.changes({}), "", seconds)
    return Event(0, "skipped", plan.changes({}), plan.why_nothing, seconds)
