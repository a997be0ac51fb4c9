"""Cutting a trained model in all ways: which ways there are, and what the table says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramian.errors import ConfigError
from gramian.lab.config import load_config
from gramian.lab.experiments import one_shot as module
from gramian.lab.experiments.one_shot import VARIANTS, one_shot, table
from gramian.lab.files import read_json
from gramian.layers.selective.measures import MEASURES


def test_the_first_way_is_the_default_of_the_layer_and_every_measure_is_tried() -> None:
    assert VARIANTS["mamba"][0] == ("regression", True)
    assert VARIANTS["linear_attention"][0] == ("balanced", True)
    tried = {variant.measure for variants in VARIANTS.values() for variant in variants}
    assert tried == set(MEASURES)


def test_a_trained_model_is_cut_in_all_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.VARIANTS, "linear_attention", VARIANTS["linear_attention"][1:3])
    short = ["train.steps=4", "train.eval_every=4", "train.checkpoint_every=4", "train.batch_size=4"]
    monkeypatch.setattr(module, "load_config", lambda name, more=(): load_config(name, [*short, *more]))
    results = one_shot("attention", "tiny", [3], tmp_path / "out", tmp_path / "runs")
    (done,) = results["seeds_done"]
    assert (done["states"], done["rank"]) == (16, 4)
    assert [(v["measure"], v["mix"]) for v in done["variants"]] == [("balanced", False), ("energy", False)]
    assert all(v["after"]["loss"] > 0 and v["held_out_errors"][0] > 0 for v in done["variants"])
    assert read_json(tmp_path / "out/measures-attention-tiny.json")["seeds"] == [3]
    written = (tmp_path / "out/measures-attention-tiny.md").read_text()
    assert written == table(results)
    assert "`gramian reproduce measures-attention --scale tiny --seeds 3`" in written


def test_table_says_how_many_times_more_the_best_selection_loses() -> None:
    def variant(measure: str, mix: bool, loss: float):  # type: ignore[no-untyped-def]
        return {"measure": measure, "mix": mix, "after": {"loss": loss, "accuracy": 0.5}, "held_out_errors": [0.1]}

    done = {
        "seed": 0,
        "states": 16,
        "rank": 4,
        "before": {"loss": 1.0, "accuracy": 0.9},
        "variants": [variant("regression", True, 1.1), variant("energy", False, 1.8), variant("random", False, 2.5)],
    }
    environment = dict.fromkeys(("cpu", "threads", "torch", "python", "git_commit"), "x")
    text = table(
        {"title": "t", "seeds_done": [done], "seeds": [0], "environment": environment, "command": "c", "config": {}}
    )
    assert "per seed: 8." in text
    assert "| regression | yes | 0.1000 | 0.500 | 0.100 |" in text


def test_layers_that_do_not_change_with_their_input_have_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"measures-digits(.|\n)*lru"):
        one_shot("digits", "tiny", [0], tmp_path / "out", tmp_path / "runs")
