"""The section ``compress`` of a configuration: when, by which rule and how far states are cut."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from gramian.lab.validation import Strict
from gramian.layers.selective.measures import measure_named

__all__ = ["CalibrationConfig", "CompressConfig", "PolicyConfig", "ScheduleConfig"]


class EnergyConfig(Strict):
    tau: float = Field(ge=0, lt=1)


class ErrorBoundConfig(Strict):
    eps: float = Field(gt=0)


class RankConfig(Strict):
    n: int = Field(ge=1)


class ShrinkConfig(Strict):
    by: float = Field(gt=0, lt=1)


class BudgetConfig(Strict):
    total: int = Field(ge=1)


class PolicyConfig(Strict):
    """Exactly one rule, and modifiers."""

    energy: EnergyConfig | None = None
    error_bound: ErrorBoundConfig | None = None
    rank: RankConfig | None = None
    shrink: ShrinkConfig | None = None
    budget: BudgetConfig | None = None
    at_least: int = Field(1, ge=1)
    except_for: list[str] = Field(default_factory=list)
    uniform: bool = False
    round_to: int | Literal["pow2"] | None = None

    @model_validator(mode="after")
    def _exactly_one_rule(self) -> PolicyConfig:
        rules = [n for n in ("energy", "error_bound", "rank", "shrink", "budget") if getattr(self, n) is not None]
        if len(rules) != 1:
            raise ValueError(f"exactly one of energy, error_bound, rank, shrink, budget is needed, given: {rules}")
        return self


class WhenStableConfig(Strict):
    every: int = Field(ge=1)
    until: int = Field(ge=1)
    tau: float = Field(0.05, gt=0, lt=1)
    overlap: float = Field(0.95, ge=0, le=1)
    change: float = Field(0.1, ge=0)
    checks: int = Field(2, ge=1)


class ScheduleConfig(Strict):
    """``every`` with ``until`` (and ``start``), or ``at``, or ``when_stable``."""

    every: int | None = Field(None, ge=1)
    until: int | None = Field(None, ge=1)
    start: int | None = Field(None, ge=1)
    at: list[int] | None = None
    when_stable: WhenStableConfig | None = None

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> ScheduleConfig:
        kinds = [k for k in ("every", "at", "when_stable") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"exactly one of every, at, when_stable is needed, given: {kinds}")
        if (self.every is None) != (self.until is None) or (self.start is not None and self.every is None):
            raise ValueError("every and until belong together; start goes with them")
        return self


class RollBackConfig(Strict):
    """Watches validation accuracy."""

    drop: float = Field(ge=0)
    patience: int = Field(1, ge=1)
    then: Literal["cautious", "stop"] = "cautious"


class CalibrationConfig(Strict):
    """What layers that vary with time are ranked and cut by: so many batches of the training split.

    `tokens` steps of each layer are computed from; `mix` lets kept states take over what the others did. Without a
    `measure`, every layer has the one that suits it.
    """

    batches: int = Field(4, ge=1)
    tokens: int = Field(4096, ge=1)
    measure: str | None = None
    mix: bool = True

    @field_validator("measure")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            measure_named(name)
        return name


class CompressConfig(Strict):
    """When and how far states are cut.

    `analyze_every` also looks at spectra between cuts, and less often where that would take more than the fraction
    `analyze_share` of the training time (null: no limit).
    """

    policy: PolicyConfig
    schedule: ScheduleConfig
    realization: Literal["real", "complex"] = "real"
    optimizer_state: Literal["transport", "reset"] = "transport"
    keep: Literal["largest", "smallest", "random"] = "largest"
    min_gain: float = Field(0.05, ge=0, lt=1)
    rollback: RollBackConfig | None = None
    calibration: CalibrationConfig | None = None
    analyze_every: int | None = Field(None, ge=1)
    analyze_share: float | None = Field(0.01, gt=0, le=1)
