"""The configuration of a run: frozen, validated, and helpful about misspelt keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gramian.errors import ConfigError, did_you_mean

__all__ = [
    "SHIPPED",
    "CompressConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "TrainConfig",
    "load_config",
    "validated",
]

SHIPPED = Path(__file__).parent / "configs"


class Strict(BaseModel):
    """No unknown keys, no changes after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Strict):
    """The shape of a `gramian.lab.models.SequenceModel`; `d_state` is one number, or one for each block."""

    layer: Literal["lru"] = "lru"
    n_layers: int = Field(1, ge=1)
    d_model: int = Field(ge=1)
    d_state: int | list[int]
    r_min: float = Field(0.9, ge=0, lt=1)
    r_max: float = Field(0.999, gt=0, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    norm: Literal["batch", "layer"] = "batch"

    @property
    def d_states(self) -> list[int]:
        """States of every block."""
        return self.d_state if isinstance(self.d_state, list) else [self.d_state] * self.n_layers

    @model_validator(mode="after")
    def _one_for_each_block(self) -> ModelConfig:
        if len(self.d_states) != self.n_layers or min(self.d_states) < 1:
            raise ValueError(f"d_state={self.d_state} does not give each of {self.n_layers} blocks at least one state")
        return self


class DataConfig(Strict):
    """Which data set, the folder with its files, and the seed of its splits."""

    name: str
    root: str | None = None
    seed: int = 0


class TrainConfig(Strict):
    """How it is trained: AdamW, constant learning rate or linear warm-up and cosine decay.

    `ssm_lr_factor` scales the learning rate of poles, input normalisation and B, which get no weight decay.
    `warmup` is a fraction of all steps. Steps are optimizer steps.
    """

    steps: int = Field(ge=1)
    batch_size: int = Field(50, ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    ssm_lr_factor: float = Field(1.0, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    threads: int | None = Field(None, ge=1)
    log_every: int = Field(50, ge=1)
    eval_every: int = Field(250, ge=1)
    checkpoint_every: int = Field(500, ge=1)


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
    except_for: list[str] = []
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
    analyze_every: int | None = Field(None, ge=1)
    analyze_share: float | None = Field(0.01, gt=0, le=1)


class Config(Strict):
    """A whole run. Without `compress` the model keeps its size."""

    name: str = "run"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    compress: CompressConfig | None = None


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration from a YAML file, or one that is shipped by its name, with ``a.b=c`` overrides.

    Raises
    ------
    ConfigError
        If the file is missing or no YAML mapping, an override is malformed, or a key or value cannot be used.
    """
    path = Path(source)
    if not path.is_file() and (SHIPPED / f"{source}.yaml").is_file():
        path = SHIPPED / f"{source}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in SHIPPED.glob("*.yaml"))
        raise ConfigError(
            f"'{source}' is no configuration file.{did_you_mean(str(source), shipped)}",
            f"Shipped configurations: {', '.join(shipped)}.",
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not valid YAML: {str(error).splitlines()[0]}", str(error)) from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' holds no mapping; needed: keys model, data, train (and compress).")
    return validated(_overridden({"name": path.stem, **content}, overrides))


def _overridden(content: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    wrong = [o for o in overrides if "=" not in o]
    if wrong:
        raise ConfigError(f"override '{wrong[0]}' was given; needed: key=value, for instance train.steps=1000.")
    try:
        merged = OmegaConf.merge(OmegaConf.create(content), OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"overrides {list(overrides)} cannot be merged: {error}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def validated(content: Mapping[str, Any]) -> Config:
    """The configuration that a nested mapping describes; every problem is named in one `ConfigError`."""
    try:
        return Config.model_validate(dict(content))
    except ValidationError as error:
        problems = [_problem(dict(e)) for e in error.errors()]
        raise ConfigError(
            f"the configuration has {len(problems)} problem{'s' * (len(problems) > 1)}:", "\n    ".join(problems)
        ) from error


def _problem(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    where = ".".join(location) or "the whole"
    if error["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        hint = " The tolerance is called 'tau'." if location[-1] == "tol" else did_you_mean(location[-1], known)
        return f"unknown key '{where}'.{hint} Known here: {', '.join(known)}."
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (given: {error['input']!r})"


def _known_keys(location: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        field = model.model_fields[part].annotation
        options = [field, *getattr(field, "__args__", ())]
        model = next(t for t in options if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)
