"""From a configuration to the objects of a run."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_runs import small_config
from torch import nn
from torch.nn import functional as F

from gramian.compression.policies import Budget, Energy, ErrorBound, Policy, Rank, Shrink
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Every, Schedule, WhenStable
from gramian.errors import ConfigError
from gramian.lab.build import (
    build_calibration,
    build_compressor,
    build_data,
    build_model,
    build_optimizer,
    build_policy,
    build_schedule,
    build_scheduler,
    set_threads,
)
from gramian.lab.config import CompressConfig, Config, PolicyConfig, ScheduleConfig, TrainConfig, validated
from gramian.lab.data import NOT_ASKED, Batches
from gramian.lab.models import SequenceModel

SSM = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im"}


def train_config(**changes: Any) -> TrainConfig:
    return small_config(train=changes).train


def model_of(**changes: Any) -> SequenceModel:
    torch.manual_seed(0)
    return build_model(small_config(model=changes).model, 1, 10)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"energy": {"tau": 0.2}}, Energy(0.2, min_gain=0.07)),
        ({"error_bound": {"eps": 0.2}}, ErrorBound(0.2, min_gain=0.07)),
        ({"rank": {"n": 5}}, Rank(5, min_gain=0.07)),
        ({"shrink": {"by": 0.2}}, Shrink(0.2, min_gain=0.07)),
        ({"budget": {"total": 30}}, Budget(30, min_gain=0.07)),
    ],
)
def test_policy_is_the_rule_that_is_set_with_its_modifiers(rule: dict[str, Any], expected: Policy) -> None:
    assert build_policy(PolicyConfig(**rule), 0.07) == expected
    modified = PolicyConfig(**rule, at_least=3, except_for=["blocks.0.*", "x"], uniform=True, round_to="pow2")
    limited = build_policy(modified, 0.07)
    assert (limited.minimum, limited.excluded, limited.same, limited.round_to) == (3, ("blocks.0.*", "x"), True, "pow2")
    assert limited.min_gain == 0.07
    assert type(limited) is type(expected)
    assert build_policy(PolicyConfig(**rule, round_to=8), 0.0).round_to == 8


def test_policy_without_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no rule"):
        build_policy(PolicyConfig.model_construct(), 0.0)


@pytest.mark.parametrize(
    ("settings", "expected", "steps"),
    [
        ({"every": 10, "until": 35}, Every(10, until=35), [10, 20, 30]),
        ({"every": 10, "until": 35, "start": 15}, Every(10, until=35, start=15), [15, 25, 35]),
        ({"at": [7, 3]}, At((7, 3)), [3, 7]),
        (
            {"when_stable": {"every": 4, "until": 12, "overlap": 0.5, "checks": 3, "tau": 0.2, "change": 0.3}},
            WhenStable(4, 12, tau=0.2, overlap=0.5, change=0.3, checks=3),
            [4, 8, 12],
        ),
    ],
)
def test_schedule_is_the_kind_that_is_set(settings: dict[str, Any], expected: Schedule, steps: list[int]) -> None:
    schedule = build_schedule(ScheduleConfig(**settings))
    assert schedule == expected
    assert schedule.steps == steps


def test_optimizer_groups_are_the_recurrence_and_the_rest() -> None:
    model = model_of(n_layers=2)
    config = train_config(lr=4e-3, ssm_lr_factor=0.25, weight_decay=0.05)
    ssm, rest = build_optimizer(config, model).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    in_ssm = [names[p] for p in ssm["params"]]
    assert sorted(in_ssm) == sorted(f"blocks.{i}.lru.{name}" for i in range(2) for name in SSM)
    assert {names[p] for p in rest["params"]} == set(names.values()) - set(in_ssm)
    assert len(ssm["params"]) + len(rest["params"]) == len(names)
    assert (ssm["lr"], rest["lr"]) == (1e-3, 4e-3)
    assert (ssm["weight_decay"], rest["weight_decay"]) == (0.0, 0.05)


def test_names_of_ssm_parameters_in_other_modules_are_not_taken_for_a_recurrence() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nu_log = nn.Parameter(torch.ones(3))

    model = nn.ModuleDict({"model": model_of(), "other": Other()})
    ssm, rest = build_optimizer(train_config(), model).param_groups
    other = model["other"].nu_log
    assert len(ssm["params"]) == 5
    assert any(p is other for p in rest["params"])


def test_weight_decay_moves_only_what_is_not_the_recurrence() -> None:
    model = model_of()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(train_config(lr=0.1, weight_decay=0.5), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name.rpartition(".")[2] in SSM else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def learning_rates(**changes: Any) -> tuple[list[float], list[float]]:
    """Rates of both groups as the steps 1, 2, ... use them."""
    config = train_config(**changes)
    optimizer = build_optimizer(config, model_of())
    scheduler = build_scheduler(config, optimizer)
    used: tuple[list[float], list[float]] = ([], [])
    for _ in range(config.steps):
        for rates, group in zip(used, optimizer.param_groups, strict=True):
            rates.append(group["lr"])
        optimizer.step()
        scheduler.step()
    return used


def test_constant_rate_without_warm_up_is_constant() -> None:
    ssm, rest = learning_rates(steps=20, lr=1e-2, ssm_lr_factor=0.5)
    assert rest == [1e-2] * 20
    assert ssm == [5e-3] * 20


def test_warm_up_rises_in_equal_steps_to_the_full_rate_and_stays() -> None:
    _, rest = learning_rates(steps=40, lr=1e-2, warmup=0.25)
    assert rest[:10] == pytest.approx([1e-2 * (i + 1) / 10 for i in range(10)])
    assert rest[10:] == [1e-2] * 30


def test_cosine_falls_from_the_full_rate_to_nearly_nothing_symmetrically() -> None:
    ssm, rest = learning_rates(steps=50, lr=1e-2, warmup=0.2, lr_schedule="cosine", ssm_lr_factor=0.25)
    assert rest[9] == rest[10] == 1e-2
    assert all(a > b for a, b in pairwise(rest[10:]))
    assert rest[-1] == pytest.approx(1e-2 * 0.5 * (1 - math.cos(math.pi / 40)))
    falling = rest[10:]
    for i in range(1, 40):
        assert falling[i] + falling[40 - i] == pytest.approx(1e-2)
    assert ssm == pytest.approx([0.25 * rate for rate in rest])


def test_model_of_a_seed_is_always_the_same_and_has_the_sizes_asked_for() -> None:
    first, second = model_of(n_layers=2, d_state=[7, 4]), model_of(n_layers=2, d_state=[7, 4])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert [block.lru.d_state for block in first.blocks] == [7, 4]  # type: ignore[union-attr]
    assert first(torch.zeros(2, 5, 1)).shape == (2, 10)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_realization_reaches_the_layers(realization: str) -> None:
    model = build_model(small_config().model, 1, 10, realization)
    assert model.blocks[0].lru.realization == realization  # type: ignore[union-attr]


def test_compressor_gets_every_setting() -> None:
    model = model_of()
    optimizer = build_optimizer(train_config(), model)
    scheduler = build_scheduler(train_config(), optimizer)
    settings = CompressConfig(
        policy=PolicyConfig.model_validate({"shrink": {"by": 0.5}}),
        schedule=ScheduleConfig(at=[3]),
        optimizer_state="reset",
        keep="random",
        min_gain=0.2,
        rollback={"drop": 0.03, "patience": 2, "then": "stop"},  # type: ignore[arg-type]
    )
    compressor = build_compressor(settings, model, optimizer, (scheduler,))
    assert compressor.model is model
    assert compressor.optimizer is optimizer
    assert compressor.policy == Shrink(0.5, min_gain=0.2)
    assert compressor.schedule.steps == [3]
    assert compressor.optimizer_state == "reset"
    assert compressor.keep.which == "random"
    assert compressor.rollback == RollBack(0.03, patience=2, better="higher", then="stop", also=(scheduler,))
    without = build_compressor(settings.model_copy(update={"rollback": None}), model, optimizer, (scheduler,))
    assert without.rollback is None


def test_threads_are_set_only_when_a_number_is_given() -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(2) == torch.get_num_threads() == 2
        assert set_threads(None) == 2
    finally:
        torch.set_num_threads(before)


def token_config(layer: str = "mamba", **changes: Any) -> Config:
    return validated(
        {
            "model": {"layer": layer, "n_layers": 2, "d_model": 8, "d_state": 4, **changes},
            "data": {"name": "mqar", "scale": "tiny", "n_train": 40},
            "train": {"steps": 10, "lr": 1e-2, "weight_decay": 0.1, "ssm_lr_factor": 0.5, "betas": [0.8, 0.9]},
            "compress": {"policy": {"rank": {"n": 2}}, "schedule": {"at": [3]}, "calibration": {"batches": 2}},
        }
    )


def token_model(layer: str = "mamba", **changes: Any) -> SequenceModel:
    torch.manual_seed(0)
    return build_model(token_config(layer, **changes).model, 64, 64, tokens=True, head="next_token")


@pytest.mark.parametrize("layer", ["mamba", "mamba2", "linear_attention"])
def test_what_layers_mark_and_vectors_have_no_weight_decay(layer: str) -> None:
    options = {"mamba2": {"head_dim": 4}, "linear_attention": {"n_heads": 2}}.get(layer, {})
    model = token_model(layer, **options)
    groups = build_optimizer(token_config(layer).train, model).param_groups
    group_of = {p: group for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(group_of) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        marked = getattr(parameter, "_no_weight_decay", False)
        expected = (5e-3, 0.0) if marked else (1e-2, 0.0 if parameter.ndim < 2 else 0.1)
        assert (group_of[parameter]["lr"], group_of[parameter]["weight_decay"]) == expected, name
    assert all(group["betas"] == (0.8, 0.9) for group in groups)


def test_poles_of_mamba_are_among_what_is_marked() -> None:
    groups = build_optimizer(token_config().train, model := token_model()).param_groups
    names = {p: name for name, p in model.named_parameters()}
    marked = {names[p].rpartition("mixer.")[2] for p in groups[0]["params"]}
    assert marked == {"A_log", "D", "dt_proj.bias"}


def test_keys_of_mamba2_are_projected_to_its_states() -> None:
    layer = token_model("mamba2", head_dim=4, d_key=6, d_state=3).blocks[0].mixer
    assert (layer.d_key, layer.d_state, tuple(layer.B_projection.shape)) == (6, 3, (3, 6))
    assert token_model("mamba2", head_dim=4, d_state=3).blocks[0].mixer.B_projection is None


def test_weights_of_a_tied_head_are_optimised_once() -> None:
    model = token_model(tied=True)
    groups = build_optimizer(token_config().train, model).param_groups
    assert sum(p is model.encoder.weight for group in groups for p in group["params"]) == 1


def test_calibration_sees_the_first_epoch_and_only_models_that_need_one_get_it() -> None:
    config, model = token_config(), token_model()
    data = build_data(config.data)
    batches = Batches(data.train, 16, seed=3)
    assert config.compress is not None
    calibration = build_calibration(config.compress.calibration, model, batches)
    assert calibration is not None
    for step, batch in enumerate(calibration.batches):
        assert all(torch.equal(a, b) for a, b in zip(batch, batches.batch(step), strict=True))
    assert step == 1
    assert calibration.loss is not None
    expected = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=NOT_ASKED)
    torch.testing.assert_close(calibration.loss(model, batch), expected)
    assert build_calibration(config.compress.calibration, model_of(), batches) is None
    assert build_calibration(None, model, batches) is None


def test_data_have_the_parameters_of_their_configuration() -> None:
    data = build_data(token_config().data)
    assert (len(data.train), data.d_input, data.head) == (40, 64, "next_token")
