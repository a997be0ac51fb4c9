"""From a configuration to the objects of a run."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Budget, Energy, ErrorBound, Policy, Rank, Shrink
from gramian.compression.rollback import RollBack, Stateful
from gramian.compression.schedules import At, Every, Schedule, WhenStable
from gramian.errors import ConfigError
from gramian.lab.config import (
    CalibrationConfig,
    CompressConfig,
    DataConfig,
    ModelConfig,
    PolicyConfig,
    ScheduleConfig,
    TrainConfig,
)
from gramian.lab.data import Batches, SequenceData, load_data
from gramian.lab.evaluate import predictions
from gramian.lab.models import Head, SequenceModel
from gramian.layers.calibration import Calibration, TimeVarying
from gramian.layers.lru import LRU
from gramian.layers.reducible import reducible_layers
from gramian.layers.selective.measures import measure_named

__all__ = [
    "build_calibration",
    "build_compressor",
    "build_data",
    "build_model",
    "build_optimizer",
    "build_policy",
    "build_schedule",
    "build_scheduler",
    "find_device",
    "set_threads",
]

_SSM = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")
_OF_AN_LRU_BLOCK = ("norm", "r_min", "r_max")


def set_threads(threads: int | None) -> int:
    """Set how many threads torch computes with, here and nowhere else; without a number it stays as it is."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def find_device(name: str) -> torch.device:
    """The device of this name; a `ConfigError` if torch has none here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ConfigError(f"train.device='{name}' cannot be used here: {reason}", cure="train.device=cpu") from error


def build_data(config: DataConfig) -> SequenceData:
    """The data set, with its parameters."""
    return load_data(config.name, config.root, config.seed, **config.parameters)


def build_model(
    config: ModelConfig,
    d_input: int,
    n_outputs: int,
    realization: str = "real",
    *,
    tokens: bool = False,
    head: Head = "classification",
) -> SequenceModel:
    """The model, freshly initialised from torch's global generator."""
    shared = {key: value for key, value in config.options.items() if key in ("dropout", "tied", *_OF_AN_LRU_BLOCK)}
    return SequenceModel(
        d_input,
        n_outputs,
        d_model=config.d_model,
        d_state=config.d_states,
        head=head,
        tokens=tokens,
        realization="complex" if realization == "complex" else "real",
        layer=config.layer,
        options={key: value for key, value in config.options.items() if key not in shared},
        **shared,
    )


def build_optimizer(config: TrainConfig, model: nn.Module) -> AdamW:
    """AdamW in one pass; what makes a recurrence has its own learning rate and no weight decay.

    Of an LRU that is poles, input normalisation and B; of other layers what they mark ``_no_weight_decay``. Norms and
    biases, whatever is a vector, have no weight decay either, except around LRUs, where the published models have it.
    """
    ssm: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    decays_all = any(isinstance(module, LRU) for module in model.modules())
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen:  # the weights of a tied head
                continue
            seen.add(parameter)
            if (isinstance(module, LRU) and name in _SSM) or getattr(parameter, "_no_weight_decay", False):
                ssm.append(parameter)
            elif parameter.ndim < 2 and not decays_all:
                undecayed.append(parameter)
            else:
                rest.append(parameter)
    groups = [
        {"params": ssm, "lr": config.lr * config.ssm_lr_factor, "weight_decay": 0.0},
        {"params": rest, "lr": config.lr, "weight_decay": config.weight_decay},
        {"params": undecayed, "lr": config.lr, "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], betas=config.betas, fused=True)


def build_scheduler(config: TrainConfig, optimizer: Optimizer) -> LambdaLR:
    """Linear warm-up over a fraction of the steps, then constant or half a cosine down to zero."""
    warmup = round(config.warmup * config.steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if config.lr_schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))

    return LambdaLR(optimizer, factor)


def build_policy(config: PolicyConfig, min_gain: float) -> Policy:
    """The one rule that is set, with its modifiers."""
    policy: Policy
    if config.energy is not None:
        policy = Energy(config.energy.tau, min_gain=min_gain, round_to=config.round_to)
    elif config.error_bound is not None:
        policy = ErrorBound(config.error_bound.eps, min_gain=min_gain, round_to=config.round_to)
    elif config.rank is not None:
        policy = Rank(config.rank.n, min_gain=min_gain, round_to=config.round_to)
    elif config.shrink is not None:
        policy = Shrink(config.shrink.by, min_gain=min_gain, round_to=config.round_to)
    elif config.budget is not None:
        policy = Budget(config.budget.total, min_gain=min_gain, round_to=config.round_to)
    else:
        raise ConfigError("the policy has no rule; needed: energy, error_bound, rank, shrink or budget.")
    policy = policy.at_least(config.at_least).except_for(*config.except_for)
    return policy.uniform() if config.uniform else policy


def build_schedule(config: ScheduleConfig) -> Schedule:
    """The one kind of schedule that is set."""
    if config.when_stable is not None:
        return WhenStable(**config.when_stable.model_dump())
    if config.at is not None:
        return At(tuple(config.at))
    assert config.every is not None
    assert config.until is not None
    return Every(config.every, until=config.until, start=config.start)


def build_compressor(
    config: CompressConfig,
    model: nn.Module,
    optimizer: Optimizer,
    also: tuple[Stateful, ...],
    calibration: Calibration | None = None,
) -> Compressor:
    """The compressor; `also` is what a roll-back brings back beside model and optimizer."""
    rollback = config.rollback
    return Compressor(
        model,
        optimizer,
        policy=build_policy(config.policy, config.min_gain),
        schedule=build_schedule(config.schedule),
        optimizer_state=config.optimizer_state,
        keep=config.keep,
        rollback=None if rollback is None else RollBack(**rollback.model_dump(), also=also),
        calibration=calibration,
    )


def build_calibration(config: CalibrationConfig | None, model: nn.Module, batches: Batches) -> Calibration | None:
    """The first of `batches`, with inputs and targets where `model` is; nothing for a model that needs no data."""
    varying = any(isinstance(layer, TimeVarying) for layer in reducible_layers(model).values())
    if config is None or not varying:
        return None
    device = next(model.parameters()).device
    return Calibration(
        [tuple(tensor.to(device) for tensor in batches.batch(step)) for step in range(config.batches)],
        measure=None if config.measure is None else measure_named(config.measure),
        mix=config.mix,
        tokens=config.tokens,
        loss=lambda model, batch: F.cross_entropy(*predictions(model, *batch)),
    )
