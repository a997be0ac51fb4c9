"""Configurations: strict, helpful about mistakes, and resolved completely."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from small_runs import small_content

from gramian.errors import ConfigError
from gramian.lab.config import load_config, validated

ROLLBACK = {"rollback": {"drop": 0.02}}
STABLE = {"schedule": {"when_stable": {"every": 5, "until": 20}}}


def changed(key: str, value: Any, **sections: Any) -> dict[str, Any]:
    """A small configuration in which the value at a dotted key is another."""
    content = deepcopy(small_content(**sections))
    *path, last = key.split(".")
    place = content
    for part in path:
        place = place[part]
    place[last] = value
    return content


def complaint(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        validated(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "meant", "sections"),
    [
        ("modle", "model", {}),
        ("model.d_sate", "d_state", {}),
        ("data.rot", "root", {}),
        ("train.batchsize", "batch_size", {}),
        ("compress.polcy", "policy", {}),
        ("compress.policy.enrgy", "energy", {}),
        ("compress.policy.energy.taus", "tau", {}),
        ("compress.policy.error_bound.ep", "eps", {"compress": {"policy": {"error_bound": {"eps": 0.1}}}}),
        ("compress.policy.budget.totl", "total", {"compress": {"policy": {"budget": {"total": 9}}}}),
        ("compress.schedule.untl", "until", {}),
        ("compress.schedule.when_stable.overlp", "overlap", {"compress": STABLE}),
        ("compress.rollback.patince", "patience", {"compress": ROLLBACK}),
    ],
)
def test_unknown_key_fails_at_every_level_with_the_key_that_was_meant(
    key: str, meant: str, sections: dict[str, Any]
) -> None:
    message = complaint(changed(key, 1, **sections))
    assert f"unknown key '{key}'. Did you mean '{meant}'? Known here: " in message
    assert "1 problem:" in message


def test_key_that_resembles_nothing_is_answered_with_the_known_ones() -> None:
    message = complaint(changed("data.zzzzzz", 1))
    assert "unknown key 'data.zzzzzz'. Known here: name, root, seed." in message
    assert "Did you mean" not in message


def test_tol_gets_the_hint_that_the_tolerance_is_called_tau() -> None:
    content = small_content(compress={"policy": {"energy": {"tol": 0.1}}})
    assert "unknown key 'compress.policy.energy.tol'. The tolerance is called 'tau'." in complaint(content)


def test_all_problems_are_named_at_once() -> None:
    content = small_content(model={"d_modle": 3}, train={"steps": 0, "precision": "fp8"}, compress={"min_gain": 1.0})
    message = complaint(content)
    assert "4 problems:" in message
    for named in ("model.d_modle", "train.steps", "train.precision", "compress.min_gain"):
        assert named in message
    assert "(given: 'fp8')" in message


TOKENS = {"name": "mqar", "scale": "tiny"}


def token_content(layer: str = "mamba", **sections: Any) -> dict[str, Any]:
    """A configuration of a token task with a layer that varies with time."""
    content = small_content(**sections)
    content["model"] = {"layer": layer, "d_model": 8, "d_state": 4, **sections.get("model", {})}
    return {**content, "data": {**TOKENS, **sections.get("data", {})}}


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        ("lru", {"norm": "batch", "r_min": 0.9, "r_max": 0.999, "dropout": 0.1, "tied": False}),
        ("mamba", {"d_conv": 4, "expand": 2, "dropout": 0.0, "tied": False}),
        (
            "mamba2",
            {"d_conv": 4, "expand": 2, "head_dim": 64, "n_groups": 1, "d_key": None, "dropout": 0.0, "tied": False},
        ),
        ("linear_attention", {"n_heads": 4, "dropout": 0.0, "tied": False}),
    ],
)
def test_every_layer_has_its_own_options_and_their_defaults(layer: str, options: dict[str, Any]) -> None:
    model = validated(token_content(layer)).model
    assert model.options == options
    others = {"norm", "r_min", "r_max", "d_conv", "expand", "head_dim", "n_groups", "d_key", "n_heads"} - set(options)
    assert all(getattr(model, key) is None for key in others)


@pytest.mark.parametrize(
    ("layer", "key", "value", "belongs_to"),
    [
        ("mamba", "head_dim", 64, "mamba2"),
        ("mamba", "r_min", 0.9, "lru"),
        ("lru", "expand", 2, "mamba, mamba2"),
        ("linear_attention", "norm", "batch", "lru"),
    ],
)
def test_option_of_another_layer_is_refused_with_the_layers_that_have_it(
    layer: str, key: str, value: Any, belongs_to: str
) -> None:
    message = complaint(token_content(layer, model={key: value}, compress=None))
    assert f"model.{key}: is an option of {belongs_to}; model.layer={layer} has " in message


def test_hint_for_an_option_of_a_layer_names_what_that_layer_has() -> None:
    message = complaint(token_content("mamba2", model={"hed_dim": 8}))
    assert "unknown key 'model.hed_dim'. Did you mean 'head_dim'?" in message
    assert "r_min" not in message


def test_parameters_of_the_data_set_stand_beside_its_name_and_are_resolved() -> None:
    data = validated(token_content(data={"pairs": 2})).data
    assert data.parameters["pairs"] == 2
    assert data.parameters["length"] == 32
    assert data.model_dump().keys() == {"name", "root", "seed", *data.parameters}
    assert validated(small_content()).data.parameters == {}


def test_unknown_parameter_of_the_data_is_answered_with_those_of_that_data_set() -> None:
    message = complaint(token_content(data={"pars": 3}))
    assert "unknown key 'data.pars'. Did you mean 'pairs'? Known here: name, root, seed, scale, n_train" in message
    assert "unknown key 'data.pairs'" in complaint(small_content(data={"pairs": 3}))


def test_parameters_of_the_data_are_checked_together() -> None:
    assert "data: pairs=20 do not fit in length=32" in complaint(token_content(data={"pairs": 20}))


def test_override_reaches_parameters_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(token_content()))
    assert load_config(path, ["data.pairs=3", "data.vocab=20"]).data.parameters["vocab"] == 20


def test_layers_that_vary_with_time_are_calibrated_and_the_lru_is_not() -> None:
    calibration = validated(token_content()).compress.calibration  # type: ignore[union-attr]
    assert calibration is not None
    assert (calibration.batches, calibration.tokens, calibration.mix) == (4, 4096, True)
    assert validated(small_content()).compress.calibration is None  # type: ignore[union-attr]
    message = complaint(small_content(compress={"calibration": {"batches": 2}}))
    assert "compress: calibration serves layers that vary with time" in message
    assert "measure 'regresion' was given" in complaint(
        token_content(compress={**small_content()["compress"], "calibration": {"measure": "regresion"}})
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.n_layers", 0),
        ("model.d_model", 0),
        ("model.dropout", 1.0),
        ("model.norm", "group"),
        ("model.layer", "s4"),
        ("train.lr", 0.0),
        ("train.warmup", 1.0),
        ("train.ssm_lr_factor", 0.0),
        ("train.threads", 0),
        ("train.grad_clip", 0.0),
        ("train.betas", [0.9, 1.0]),
        ("train.betas", [0.9]),
        ("compress.policy.energy.tau", 1.0),
        ("compress.realization", "imaginary"),
        ("compress.keep", "all"),
        ("compress.analyze_every", 0),
        ("compress.policy.round_to", "pow3"),
    ],
)
def test_value_out_of_range_is_refused_by_its_full_name(key: str, value: Any) -> None:
    assert f"{key}" in complaint(changed(key, value))


@pytest.mark.parametrize("missing", ["model", "data", "train", "model.d_model", "model.d_state", "train.steps"])
def test_required_key_that_is_missing_is_named(missing: str) -> None:
    content = deepcopy(small_content())
    *path, last = missing.split(".")
    (content[path[0]] if path else content).pop(last)
    assert f"{missing}: Field required" in complaint(content)


@pytest.mark.parametrize("rules", [{}, {"energy": {"tau": 0.1}, "rank": {"n": 4}}, {"uniform": True}])
def test_policy_has_exactly_one_rule(rules: dict[str, Any]) -> None:
    message = complaint(small_content(compress={"policy": rules}))
    given = [name for name in rules if name != "uniform"]
    assert f"exactly one of energy, error_bound, rank, shrink, budget is needed, given: {given}" in message


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, "exactly one of every, at, when_stable is needed, given: []"),
        ({"every": 5, "until": 10, "at": [3]}, "given: ['every', 'at']"),
        ({"at": [3], **STABLE["schedule"]}, "given: ['at', 'when_stable']"),
        ({"every": 5}, "every and until belong together"),
        ({"at": [5], "until": 10}, "every and until belong together"),
        ({"at": [5], "start": 2}, "start goes with them"),
    ],
)
def test_schedule_has_exactly_one_complete_kind(schedule: dict[str, Any], expected: str) -> None:
    assert expected in complaint(small_content(compress={"schedule": schedule}))


def test_d_state_is_one_number_or_one_for_each_block() -> None:
    assert validated(small_content(model={"n_layers": 3})).model.d_states == [12, 12, 12]
    assert validated(small_content(model={"n_layers": 2, "d_state": [9, 5]})).model.d_states == [9, 5]
    for n_layers, d_state in ((2, [9]), (1, [9, 5]), (1, []), (2, [9, 0]), (1, 0)):
        message = complaint(small_content(model={"n_layers": n_layers, "d_state": d_state}))
        assert f"d_state={d_state} does not give each of {n_layers} blocks at least one state" in message


def test_configuration_does_not_change_after_validation() -> None:
    config = validated(small_content())
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 3  # type: ignore[misc]
