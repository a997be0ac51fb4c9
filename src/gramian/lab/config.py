"""The configuration of a run: frozen, validated, and helpful about misspelt keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from gramian.errors import ConfigError, did_you_mean
from gramian.lab.compress_config import CalibrationConfig, CompressConfig, PolicyConfig, ScheduleConfig
from gramian.lab.data import DATASETS
from gramian.lab.validation import Strict, complaint

__all__ = [
    "SHIPPED",
    "CalibrationConfig",
    "CompressConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "PolicyConfig",
    "ScheduleConfig",
    "TrainConfig",
    "load_config",
    "validated",
]

SHIPPED = Path(__file__).parent / "configs"


_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "lru": {"dropout": 0.1, "norm": "batch", "r_min": 0.9, "r_max": 0.999, "tied": False},
    "mamba": {"dropout": 0.0, "d_conv": 4, "expand": 2, "tied": False},
    "mamba2": {"dropout": 0.0, "d_conv": 4, "expand": 2, "head_dim": 64, "n_groups": 1, "d_key": None, "tied": False},
    "linear_attention": {"dropout": 0.0, "n_heads": 4, "tied": False},
}
"""What can be said of each layer beside its sizes, and what it is if nothing is said."""


class ModelConfig(Strict):
    """The shape of a `gramian.lab.models.SequenceModel`; `d_state` is one number, or one for each block.

    The rest depends on the layer: LRU blocks have ``norm``, ``r_min`` and ``r_max``; the others what their layer
    is built with. With `d_key` B and C of a Mamba-2 have that many channels, projected to `d_state` by learned
    matrices. `tied` shares the weights of embedding and head where both are over the same tokens.
    """

    layer: Literal["lru", "mamba", "mamba2", "linear_attention"] = "lru"
    n_layers: int = Field(1, ge=1)
    d_model: int = Field(ge=1)
    d_state: int | list[int]
    dropout: float = Field(ge=0, lt=1)
    norm: Literal["batch", "layer"] | None = None
    r_min: float | None = Field(None, ge=0, lt=1)
    r_max: float | None = Field(None, gt=0, le=1)
    d_conv: int | None = Field(None, ge=1)
    expand: int | None = Field(None, ge=1)
    head_dim: int | None = Field(None, ge=1)
    n_groups: int | None = Field(None, ge=1)
    d_key: int | None = Field(None, ge=1)
    n_heads: int | None = Field(None, ge=1)
    tied: bool = False

    @property
    def d_states(self) -> list[int]:
        """States of every block."""
        return self.d_state if isinstance(self.d_state, list) else [self.d_state] * self.n_layers

    @property
    def options(self) -> dict[str, Any]:
        """What is said of the layer beside its sizes."""
        return {key: getattr(self, key) for key in _OPTIONS[self.layer]}

    @classmethod
    def known_keys(cls, section: Mapping[str, Any]) -> list[str]:
        """The sizes, and the options of the layer that is named."""
        options = _OPTIONS.get(str(section.get("layer", "lru")), {})
        return [key for key in cls.model_fields if key in _SIZES or key in options]

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_layer(cls, given: Any) -> Any:
        layer = str(given.get("layer", "lru")) if isinstance(given, Mapping) else ""
        if layer not in _OPTIONS:
            return given  # the field itself refuses it
        chosen = {key: value for key, value in given.items() if value is not None}
        unfitting = [key for key in chosen if key in cls.model_fields and key not in cls.known_keys(given)]
        if unfitting:
            raise ValidationError.from_exception_data(
                "ModelConfig", [_unfitting(k, chosen[k], layer) for k in unfitting]
            )
        return {**_OPTIONS[layer], **chosen}

    @model_validator(mode="after")
    def _one_for_each_block(self) -> ModelConfig:
        if len(self.d_states) != self.n_layers or min(self.d_states) < 1:
            raise ValueError(f"d_state={self.d_state} does not give each of {self.n_layers} blocks at least one state")
        return self


_SIZES = ("layer", "n_layers", "d_model", "d_state")


def _unfitting(key: str, value: Any, layer: str) -> InitErrorDetails:
    layers = ", ".join(name for name, options in _OPTIONS.items() if key in options)
    message = f"is an option of {layers}; model.layer={layer} has {', '.join(_OPTIONS[layer])}"
    return InitErrorDetails(
        type=PydanticCustomError("unfitting_option", "{text}", {"text": message}), loc=(key,), input=value
    )


class DataConfig(Strict):
    """Which data set, the folder with its files, the seed of its splits, and the parameters the data set has.

    Parameters that are not given get their defaults, so that a resolved configuration names all of them.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str
    root: str | None = None
    seed: int = 0

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters of the data set."""
        return dict(self.model_extra or {})

    @classmethod
    def known_keys(cls, section: Mapping[str, Any]) -> list[str]:
        """Name, root, seed, and the parameters of the data set that is named."""
        info = DATASETS.get(str(section.get("name")))
        return [*cls.model_fields, *(() if info is None else info.parameters.model_fields)]

    @model_validator(mode="before")
    @classmethod
    def _with_parameters(cls, given: Any) -> Any:
        info = DATASETS.get(str(given.get("name"))) if isinstance(given, Mapping) else None
        if info is None:
            return given  # `load_data` knows which names were meant
        parameters = {key: value for key, value in given.items() if key not in cls.model_fields}
        return {**given, **info.parameters.model_validate(parameters).model_dump()}


class TrainConfig(Strict):
    """How it is trained: AdamW, constant learning rate or linear warm-up and cosine decay.

    `ssm_lr_factor` scales the learning rate of what makes the recurrence and gets no weight decay: poles, input
    normalisation and B of an LRU, and what other layers mark. `warmup` is a fraction of all steps. `grad_clip` is
    the largest norm that all gradients together keep. Steps are optimizer steps.
    """

    steps: int = Field(ge=1)
    batch_size: int = Field(50, ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    grad_clip: float | None = Field(None, gt=0)
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


class Config(Strict):
    """A whole run. Without `compress` the model keeps its size."""

    name: str = "run"
    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    compress: CompressConfig | None = None

    @field_validator("compress")
    @classmethod
    def _calibration_where_it_is_needed(
        cls, compress: CompressConfig | None, info: ValidationInfo
    ) -> CompressConfig | None:
        model = info.data.get("model")
        if compress is None or model is None:
            return compress
        if model.layer == "lru" and compress.calibration is not None:
            raise ConfigError(
                "calibration serves layers that vary with time; the spectrum of model.layer=lru needs no data. "
                "Leave compress.calibration out"
            )
        if model.layer != "lru" and compress.calibration is None:
            return compress.model_copy(update={"calibration": CalibrationConfig.model_validate({})})
        return compress


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
        raise complaint("the configuration", error, Config, content) from error
