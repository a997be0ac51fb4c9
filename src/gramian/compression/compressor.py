"""The compressor: one call beside ``optimizer.step()``; the loop stays the user's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn
from torch.optim import Optimizer

from gramian.compression.cuts import apply_plan_, plan_cuts
from gramian.compression.optimizer_state import Carry
from gramian.compression.policies import Policy
from gramian.compression.records import Event
from gramian.compression.rollback import RollBack, restore, snapshot
from gramian.compression.schedules import Schedule
from gramian.errors import GramianError, did_you_mean
from gramian.layers.calibration import Calibration, TimeVarying, as_calibration
from gramian.layers.reducible import Spectrum, reducible_layers
from gramian.layers.spectra import spectra_of
from gramian.systems.projections import Keep

__all__ = ["Compressor"]


@dataclass
class _Watch:
    """A cut that is not confirmed yet: where it was made, the metric before, and the way back."""

    step: int
    mark: float
    saved: dict[str, Any]
    bad_reports: int = 0


class Compressor:
    """Cut the reducible layers of `model` while it trains.

    Call `step` once after every ``optimizer.step()``, with no accumulation pending. It returns an event that says
    what happened, nearly always nothing. Parameters keep their identity, so parameter groups, schedulers and
    flags on parameters stay valid; the optimizer's moments follow the change of basis.

    Parameters
    ----------
    model
        Holds at least one `Reducible` layer.
    optimizer
        Whose state follows; None for a model that is not being optimised.
    policy
        How many states every layer keeps.
    schedule
        When; ``schedule.steps`` lists the steps.
    optimizer_state
        ``"transport"`` the moments (Adam, AdamW, NAdam, RAdam, SGD with momentum, RMSprop), or ``"reset"`` them.
    keep
        Which states: ``"largest"`` Hankel singular values, or the ablations ``"smallest"`` and ``"random"``
        (``Keep("random", seed=1)`` for another seed).
    rollback
        Go back if the metric falls; needs ``step(metric=...)``.
    calibration
        Batches for layers whose spectrum depends on data (Mamba, linear attention), or a `Calibration` that says
        more; LRU and its like need none.

    Attributes
    ----------
    steps
        Optimizer steps counted so far.
    last_spectra
        The spectra at the last step at which the schedule acted, before the cut if one was made.
    kept
        For every layer, the fraction of its spectrum's sum that all cuts together have left.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        policy: Policy,
        schedule: Schedule,
        optimizer_state: Carry = "transport",
        keep: str | Keep = "largest",
        rollback: RollBack | None = None,
        calibration: Calibration | Iterable[Any] | None = None,
    ) -> None:
        if optimizer_state not in get_args(Carry):
            hint = did_you_mean(optimizer_state, get_args(Carry))
            raise GramianError(f"optimizer_state='{optimizer_state}' was given; needed: transport or reset.{hint}")
        self.model, self.optimizer = model, optimizer
        self.layers = reducible_layers(model)
        self.policy: Policy | None = policy
        self.schedule, self.rollback, self.calibration = schedule, rollback, as_calibration(calibration)
        self._varies = any(isinstance(layer, TimeVarying) for layer in self.layers.values())
        if self._varies and schedule.remembers > 1:
            raise GramianError(
                f"{type(schedule).__name__} was given for a model with layers that change with their input.",
                "It watches how far a linear map has moved, and such a layer has none.",
                "Use Every(...) or At(...).",
            )
        self.keep = Keep(keep) if isinstance(keep, str) else keep  # type: ignore[arg-type]
        self.optimizer_state = optimizer_state
        self.steps = 0
        self.last_spectra: dict[str, Spectrum] = {}
        self.kept: dict[str, float] = {}
        self._planned_policy, self._cautions = policy, 0
        self._history: list[dict[str, Spectrum]] = []
        self._mark: float | None = None
        self._watch: _Watch | None = None

    @property
    def d_states(self) -> dict[str, int]:
        """States of every reducible layer now."""
        return {name: layer.d_state for name, layer in self.layers.items()}

    def spectra(self) -> dict[str, Spectrum]:
        """The spectrum of every reducible layer now."""
        return spectra_of(self.layers, model=self.model, calibration=self.calibration)

    def step(self, metric: float | None = None) -> Event:
        """Count one optimizer step, and cut or roll back if that is due.

        Parameters
        ----------
        metric
            The latest value of the watched metric, at steps where it was measured.

        Returns
        -------
        Event
            ``event.changed`` says whether the model is different now.
        """
        self.steps += 1
        if metric is not None and self.rollback is not None:
            event = self._judge(float(metric), self.rollback)
            if event is not None:
                return event
        if self.policy is None or not self.schedule.due(self.steps):
            return Event(self.steps, "none")
        return self._act(self.policy)

    def _act(self, policy: Policy) -> Event:
        start = time.perf_counter()
        waiting = self._waiting()
        if waiting and self._varies:  # a look would cost a calibration
            return Event(self.steps, "skipped", (), waiting, time.perf_counter() - start)
        proposing = not waiting and self.schedule.remembers == 1
        spectra = spectra_of(self.layers, for_proposals=proposing, model=self.model, calibration=self.calibration)
        self.last_spectra = {name: spectrum.light() for name, spectrum in spectra.items()}
        self._history = [*self._history, self.last_spectra][-self.schedule.remembers :]
        objection = waiting or self.schedule.objection(self._history)
        if objection:
            return Event(self.steps, "skipped", (), objection, time.perf_counter() - start)
        plan = plan_cuts(self.layers, spectra, policy, self.keep)
        del spectra
        changes = plan.changes(self.kept)
        if not plan.accepted:
            return Event(self.steps, "skipped", changes, plan.why_nothing, time.perf_counter() - start)
        if self.rollback is not None:
            assert self._mark is not None
            self._watch = _Watch(self.steps, self._mark, self._snapshot(self.rollback))
        apply_plan_(plan, self.layers, self.optimizer, self.optimizer_state, self.kept)
        self._history = []
        return Event(self.steps, "cut", changes, "", time.perf_counter() - start)

    def _waiting(self) -> str:
        if self._watch is not None:
            return f"the cut at step {self._watch.step} is not confirmed yet: waiting for step(metric=...)"
        if self.rollback is not None and self._mark is None:
            return "a roll-back needs the metric before the first cut: call step(metric=...)"
        return ""

    def _judge(self, metric: float, rollback: RollBack) -> Event | None:
        watch = self._watch
        if watch is None and math.isnan(metric):
            return None  # a mark that nothing can be compared with would undo every cut
        if watch is None or rollback.is_within(metric, watch.mark):
            self._mark, self._watch = metric, None
            return None
        watch.bad_reports += 1
        if watch.bad_reports < rollback.patience:
            return None
        start, step = time.perf_counter(), self.steps
        self._restore(watch.saved, rollback)
        cautious = self.policy.cautious() if self.policy is not None and rollback.then == "cautious" else None
        self.policy, self._watch, self._mark = cautious, None, watch.mark
        self._cautions += 1
        what_next = f"goes on with {cautious}" if cautious is not None else "no more cuts"
        reason = (
            f"the metric was {metric:.6g} after the cut at step {watch.step}, {watch.mark:.6g} before "
            f"(allowed: {rollback.drop:g}); {what_next}"
        )
        return Event(step, "rolled_back", (), reason, time.perf_counter() - start, resume_at=watch.step)

    def _snapshot(self, rollback: RollBack) -> dict[str, Any]:
        saved = snapshot(self.model, self.optimizer, rollback.also)
        return {**saved, "compressor": {"steps": self.steps, "kept": dict(self.kept)}}

    def _restore(self, saved: Mapping[str, Any], rollback: RollBack) -> None:
        restore(saved, self.model, self.optimizer, rollback.also)
        self.steps, self.kept = saved["compressor"]["steps"], dict(saved["compressor"]["kept"])
        self._history = []

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs, as plain numbers, tensors, lists and dictionaries."""
        watch = None if self._watch is None else dict(vars(self._watch))
        return {
            "steps": self.steps,
            "kept": dict(self.kept),
            "cautions": self._cautions,
            "mark": self._mark,
            "watch": watch,
            "history": [{name: s.state_dict() for name, s in spectra.items()} for spectra in self._history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` returned, with the same model, policy and schedule."""
        self.steps, self.kept, self._mark = state["steps"], dict(state["kept"]), state["mark"]
        self._watch = None if state["watch"] is None else _Watch(**state["watch"])
        self._history = [
            {name: Spectrum.from_state_dict(s) for name, s in spectra.items()} for spectra in state["history"]
        ]
        self._cautions, policy = state["cautions"], self._planned_policy
        self.policy = policy
        for _ in range(self._cautions):
            stop = self.policy is None or (self.rollback is not None and self.rollback.then == "stop")
            self.policy = None if stop or self.policy is None else self.policy.cautious()
