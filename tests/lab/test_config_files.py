"""Configurations from files, shipped ones by name, and what overrides change of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_runs import small_content, written_config

from gramian.errors import ConfigError
from gramian.lab.config import SHIPPED, load_config

NAMES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def test_overrides_reach_every_depth_and_keep_the_rest(tmp_path: Path) -> None:
    path = written_config(tmp_path / "c.yaml")
    overrides = ["train.steps=7", "train.lr=1e-4", "compress.policy.energy.tau=0.03", "model.d_state=[5]", "name=x"]
    config = load_config(path, overrides)
    assert (config.train.steps, config.train.lr, config.model.d_states, config.name) == (7, 1e-4, [5], "x")
    assert config.compress is not None
    assert config.compress.policy.energy is not None
    assert config.compress.policy.energy.tau == 0.03
    untouched = load_config(path)
    assert config.train.model_copy(update={"steps": 40, "lr": 5e-3}) == untouched.train
    assert config.compress.schedule == untouched.compress.schedule  # type: ignore[union-attr]


def test_override_exchanges_the_rule_of_the_policy(tmp_path: Path) -> None:
    path = written_config(tmp_path / "c.yaml")
    config = load_config(path, ["compress.policy.energy=null", "compress.policy.rank.n=4"])
    assert config.compress is not None
    assert config.compress.policy.energy is None
    assert config.compress.policy.rank is not None
    assert config.compress.policy.rank.n == 4
    with pytest.raises(ConfigError, match="exactly one of energy"):
        load_config(path, ["compress.policy.rank.n=4"])


def test_override_switches_compression_off(tmp_path: Path) -> None:
    assert load_config(written_config(tmp_path / "c.yaml"), ["compress=null"]).compress is None


def test_unknown_key_in_an_override_is_answered_like_one_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'compress\.policy\.energy\.tol'. The tolerance is called 'tau'"):
        load_config(written_config(tmp_path / "c.yaml"), ["compress.policy.energy.tol=0.1"])


@pytest.mark.parametrize("override", ["train.steps", "steps:5", "train.steps=[1", "train.lr={", "name=${nothing}"])
def test_malformed_override_is_bad_input_and_quoted(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written_config(tmp_path / "c.yaml"), ["train.seed=1", override])
    assert override in str(caught.value)


def test_missing_file_is_answered_with_the_shipped_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("smnist-smal")
    assert "Did you mean 'smnist-small'?" in str(caught.value)
    assert ", ".join(NAMES) in str(caught.value)
    with pytest.raises(ConfigError, match="is no configuration file"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"", b"- 1\n- 2\n", b"just text", b"a: [1\n", b"\x9e\xff\x00", b"a: \x00\n"])
def test_file_without_a_mapping_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_config(path)


def test_name_is_that_of_the_file_unless_given(tmp_path: Path) -> None:
    content = small_content()
    del content["name"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_config(path).name == "mine"


def test_folder_does_not_hide_a_shipped_configuration_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_config("demo").name == "demo"
    written_config(tmp_path / "digits-tiny", train={"steps": 17})
    assert load_config("digits-tiny").train.steps == 17
