"""Experiments: which runs they consist of, and what their table says. `test_cli_reproduce` carries one out in full."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import WITHOUT_A_PAPER, PullThePlug, Stopped, assert_same_run, finished, small_config

from gramian.errors import ConfigError
from gramian.lab import plots
from gramian.lab.config import Config, load_config
from gramian.lab.experiments import reproduce as module
from gramian.lab.experiments.reproduce import EXPERIMENTS, reproduce, table
from gramian.lab.files import read_json
from gramian.lab.train import train

STATES = {"full": 64, "tau 0.04": 38, "tau 0.10": 27, "scratch as tau 0.04": 38, "scratch as tau 0.10": 27}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Config]]:
    """Folders and configurations of all runs, none of which is really trained."""
    runs: list[tuple[str, Config]] = []

    def finish(config: Config, folder: Path) -> dict[str, Any]:
        runs.append((folder.name, config))
        return {}

    def record(seed: int, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
        name = folder.name.rpartition("-seed")[0].replace("-", " ")
        states = STATES[name] + seed
        # In every run validation rises by a tenth each second; a full model needs twice the time.
        seconds = [2.0, 4.0, 6.0] if name == "full" else [1.0, 2.0, 3.0]
        curve = {"step": [20, 40, 60], "seconds": seconds, "accuracy": [0.1, 0.2, 0.3 + 0.1 * seed]}
        valid = {"valid": 0.3 + 0.1 * seed, "valid_at_end": 0.3 + 0.1 * seed}
        scores = {**valid, "test": 0.25, "test_loss": 1.5, "seconds": seconds[-1]}
        return {"seed": seed, "states": states, "sizes": [states], "curve": curve, "events": [], **scores}

    monkeypatch.setattr(module, "finished", finish)
    monkeypatch.setattr(module, "_record", record)
    monkeypatch.setattr(plots, "draw_comparison", lambda results, path: path.write_text("a figure takes a second"))
    return runs


def test_every_seed_has_five_runs_and_scratch_starts_with_the_sizes_of_its_own_seed(
    trained: list[tuple[str, Config]], tmp_path: Path
) -> None:
    reproduce("smnist", "tiny", [0, 2], tmp_path / "out", tmp_path / "runs")
    names = [name.replace(" ", "-") for name in STATES]
    assert [folder for folder, _ in trained] == [f"{name}-seed{seed}" for seed in (0, 2) for name in names]
    base = load_config("smnist-tiny")
    for folder, config in trained:
        name, _, seed = folder.rpartition("-seed")
        assert config.train == base.train.model_copy(update={"seed": int(seed)})
        assert config.data == base.data
        if name.startswith("tau"):
            assert config.compress is not None
            assert config.compress.policy.energy is not None
            assert config.compress.policy.energy.tau == float(name.removeprefix("tau-"))
            assert config.model == base.model
        else:
            assert config.compress is None
        if name.startswith("scratch"):
            assert config.model.d_states == [STATES[name.replace("-", " ")] + int(seed)]


def test_table_shows_mean_and_deviation_over_all_seeds_with_its_command(
    trained: list[tuple[str, Config]], tmp_path: Path
) -> None:
    results = reproduce("smnist", "tiny", [0, 2], tmp_path / "out", tmp_path / "runs")
    written = (tmp_path / "out/smnist-tiny.md").read_text()
    assert written == table(results)
    assert "| tau 0.04 | 38, 40 | 0.400 ± 0.141 | 0.400 ± 0.141 | 0.250 ± 0.000 | 1.500 ± 0.000 | 3 ± 0 |" in written
    assert "`gramian reproduce smnist --scale tiny --seeds 0 2`" in written
    assert "600 steps of batch 50, lr 0.002, fp32" in written
    assert read_json(tmp_path / "out/smnist-tiny.json")["seeds"] == [0, 2]


def test_table_compares_at_equal_time_with_the_full_model_of_the_same_seed(
    trained: list[tuple[str, Config]], tmp_path: Path
) -> None:
    results = reproduce("smnist", "tiny", [0], tmp_path / "out", tmp_path / "runs")
    # After three seconds, when the compressed run had ended, the full one had been looked at after two.
    assert "When the run with tau 0.04 had ended (0.300), the full model of the same seed stood at 0.100" in table(
        results
    )


def test_results_are_there_after_every_run(
    trained: list[tuple[str, Config]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = module.finished

    def finish_two(config: Config, folder: Path) -> dict[str, Any]:
        if len(trained) == 2:
            raise Stopped
        return finish(config, folder)

    monkeypatch.setattr(module, "finished", finish_two)
    with pytest.raises(Stopped):
        reproduce("smnist", "tiny", [0], tmp_path / "out", tmp_path / "runs")
    assert list(read_json(tmp_path / "out/smnist-tiny.json")["variants"]) == ["full", "tau 0.04"]
    assert (tmp_path / "out/smnist-tiny.svg").is_file()


def test_run_that_was_begun_is_gone_on_with_and_a_finished_one_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, through = small_config(), finished(tmp_path / "through")
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", watcher=PullThePlug(5))
    summary = module.finished(config, tmp_path / "run")
    assert_same_run(tmp_path / "run", through)
    monkeypatch.setattr(module, "train", lambda *_, **__: pytest.fail("trained again"))
    assert module.finished(config, tmp_path / "run") == summary


def test_record_of_a_run_is_what_its_folder_says(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    summary = read_json(run / "summary.json")
    record = module._record(3, run, summary)
    assert record["sizes"] == [record["states"]] == [summary["now"]["states"]]
    assert (record["valid"], record["test"]) == (
        summary["now"]["valid"]["accuracy"],
        summary["now"]["test"]["accuracy"],
    )
    assert record["curve"]["step"] == [10, 20, 30, 40]
    assert record["valid_at_end"] == record["curve"]["accuracy"][-1]
    assert len(record["events"]) == 2


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_compressed_runs_at_its_scales(name: str) -> None:
    assert EXPERIMENTS[name]
    for scale in ("small",) if name in WITHOUT_A_PAPER else ("small", "paper"):
        for override in EXPERIMENTS[name].values():
            assert load_config(f"{name}-{scale}", [override] if override else []).compress is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smnits", "tiny", [0]), "experiment 'smnits' is not known. Did you mean 'smnist'?"),
        (("smnist", "smal", [0]), "--scale 'smal' was given; needed: tiny, small or paper. Did you mean 'small'?"),
        (("smnist", "tiny", []), r"seeds \[\] were given"),
        (("smnist", "tiny", [1, 1]), r"seeds \[1, 1\] were given; needed: different whole numbers"),
    ],
)
def test_experiment_that_is_not_there_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: tuple[str, str, list[int]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        reproduce(*arguments, tmp_path / "out", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
