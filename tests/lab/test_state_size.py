"""Accuracy by the number of states: which cells there are, that none is trained twice, and what the table says."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from gramian.errors import ConfigError
from gramian.lab import plots
from gramian.lab.config import Config, load_config
from gramian.lab.experiments import state_size as module
from gramian.lab.experiments.state_size import GRIDS, Curve, state_size_curve, table
from gramian.lab.files import read_json

SHORT = ("train.steps=2", "train.eval_every=2", "data.n_train=40", "data.n_valid=20", "data.n_test=20")
CURVES = (Curve("mqar-tiny", "2 pairs", ("data.pairs=2", *SHORT), (8,), (2, 4)),)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that are trained, none of which really is; accuracy follows from states and seed."""
    configs: list[Config] = []

    def finish(config: Config, folder: Path) -> dict[str, Any]:
        configs.append(config)
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 2, "eval/accuracy": 0.5, "eval/loss": 1.0}\n')
        accuracy = 1 - 0.5 / config.model.d_states[0] - 0.01 * config.train.seed
        scores = {"accuracy": accuracy, "loss": 1 - accuracy}
        return {"now": {"valid": scores, "test": scores, "parameters": 9}, "steps": 2, "seconds": 1.5}

    monkeypatch.setattr(module, "finished", finish)
    monkeypatch.setattr(plots, "draw_state_sizes", lambda results, path: path.write_text("a figure takes a second"))
    return configs


def test_every_size_and_seed_is_trained_from_scratch_on_one_thread(trained: list[Config], tmp_path: Path) -> None:
    state_size_curve("tiny", [0, 3], tmp_path / "out", tmp_path / "runs", CURVES)
    assert [(c.train.seed, c.model.d_states) for c in trained] == [
        (0, [2, 2]),
        (0, [4, 4]),
        (3, [2, 2]),
        (3, [4, 4]),
    ]
    for config in trained:
        assert config.compress is None
        assert (config.train.threads, config.model.d_model, config.data.parameters["pairs"]) == (1, 8, 2)


def test_nothing_is_trained_twice_and_a_grid_can_grow(trained: list[Config], tmp_path: Path) -> None:
    first = state_size_curve("tiny", [0], tmp_path / "out", tmp_path / "runs", CURVES)
    again = state_size_curve("tiny", [0], tmp_path / "out", tmp_path / "runs", CURVES)
    assert len(trained) == 2
    assert again["cells"] == first["cells"]
    larger = Curve("mqar-tiny", "2 pairs", CURVES[0].overrides, (8,), (2, 4, 8))
    state_size_curve("tiny", [0, 1], tmp_path / "out", tmp_path / "runs", [larger])
    assert [(c.train.seed, c.model.d_states[0]) for c in trained[2:]] == [(0, 8), (1, 2), (1, 4), (1, 8)]


def test_another_setting_is_another_cell(trained: list[Config], tmp_path: Path) -> None:
    other = Curve("mqar-tiny", "2 pairs", (*CURVES[0].overrides, "train.lr=1e-3"), (8,), (2, 4))
    for curve in (CURVES[0], other):
        state_size_curve("tiny", [0], tmp_path / "out", tmp_path / "runs", [curve])
    assert len(trained) == 4
    assert len(list((tmp_path / "runs" / "state-size").glob("*.json"))) == 4


def test_summary_is_mean_and_deviation_over_the_seeds(trained: list[Config], tmp_path: Path) -> None:
    results = state_size_curve("tiny", [0, 2, 5], tmp_path / "out", tmp_path / "runs", CURVES)
    (curve,) = results["summary"]
    for point, n in zip(curve["points"], (2, 4), strict=True):
        accuracies = [1 - 0.5 / n - 0.01 * seed for seed in (0, 2, 5)]
        assert point["test"] == accuracies
        assert (point["d_state"], point["n"]) == (n, 3)
        assert point["mean"] == pytest.approx(statistics.fmean(accuracies))
        assert point["sd"] == pytest.approx(statistics.stdev(accuracies))
    assert read_json(tmp_path / "out/state-size-tiny.json")["summary"] == results["summary"]
    written = (tmp_path / "out/state-size-tiny.md").read_text()
    assert written == table(results)
    assert "| mqar-tiny, 2 pairs | 8 | 0.727 ± 0.025 | 0.852 ± 0.025 | not learned |" in written
    assert "`gramian reproduce state-size --scale tiny --seeds 0 2 5`" in written


def test_enough_are_the_fewest_states_near_the_best_of_a_task_that_is_learned(
    trained: list[Config], tmp_path: Path
) -> None:
    grid = [Curve("mqar-tiny", "2 pairs", SHORT, (8,), (4, 64, 128, 256))]
    results = state_size_curve("tiny", [0], tmp_path / "out", tmp_path / "runs", grid)
    assert results["summary"][0]["enough"] == 64  # 0.992, and the best is 0.998
    assert results["summary"][0]["points"][0]["sd"] is None


def test_cell_that_is_really_trained_leaves_a_run_and_a_result(tmp_path: Path) -> None:
    one = [Curve("mqar-tiny", "2 pairs", CURVES[0].overrides, (8,), (2,))]
    results = state_size_curve("tiny", [0], tmp_path / "out", tmp_path / "runs", one)
    (cell,) = results["cells"]
    stored = read_json(tmp_path / "runs" / "state-size" / cell["file"])
    summary = read_json(tmp_path / "runs" / "state-size" / cell["file"].removesuffix(".json") / "summary.json")
    assert stored["test"] == summary["now"]["test"] == cell["test"]
    assert stored["history"]["step"] == [2]
    assert (tmp_path / "out/state-size-tiny.svg").is_file()
    assert (tmp_path / "out/state-size-tiny.png").is_file()


@pytest.mark.parametrize("scale", GRIDS)
def test_every_cell_of_a_grid_is_a_valid_configuration(scale: str) -> None:
    for curve in GRIDS[scale]:
        for d_model in curve.d_model:
            sizes = [f"model.d_model={d_model}", f"model.d_state={max(curve.d_state)}"]
            load_config(curve.config, [*sizes, *curve.overrides])


@pytest.mark.parametrize(("scale", "seeds"), [("smal", [0]), ("tiny", []), ("tiny", [1, 1])])
def test_nonsense_is_refused_before_anything_is_written(scale: str, seeds: list[int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(was|were) given; needed"):
        state_size_curve(scale, seeds, tmp_path / "out", tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
