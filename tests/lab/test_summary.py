"""What a run is judged by: the model selected on validation data, and test data looked at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_runs import finished, journal, rows_with
from torch import nn

import gramian.lab.run as run_module
import gramian.lab.summary as summary_module
import gramian.lab.train as train_module
from gramian.lab.data import Split, load_data
from gramian.lab.evaluate import evaluate
from gramian.lab.files import read_json
from gramian.lab.saved_model import load_model


def test_selected_model_is_the_best_on_validation_since_the_last_cut(run: Path) -> None:
    final = read_json(run / "summary.json")["now"]["states"]
    candidates = [row for row in rows_with(run, "eval/accuracy") if row["state/total"] == final]
    best = max(candidates, key=lambda row: row["eval/accuracy"])
    summary = read_json(run / "summary.json")
    assert summary["selected_step"] == best["step"] == read_json(run / "model" / "config.json")["step"]
    assert summary["now"]["valid"] == {"accuracy": best["eval/accuracy"], "loss": best["eval/loss"]}


def test_scores_of_the_summary_are_those_of_the_saved_model(run: Path) -> None:
    model, data, now = load_model(run).model, load_data("digits"), read_json(run / "summary.json")["now"]
    assert evaluate(model, data.valid) == now["valid"]
    assert evaluate(model, data.test) == now["test"]


def test_test_data_is_looked_at_once_after_training_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    names = {id(split): name for name, split in data.splits.items()}
    looks: list[str] = []

    def watched(where: str) -> Callable[..., dict[str, float]]:
        def look(model: nn.Module, split: Split) -> dict[str, float]:
            looks.append(f"{where} {names[id(split)]}")
            return evaluate(model, split)

        return look

    monkeypatch.setattr(run_module, "build_data", lambda _: data)
    monkeypatch.setattr(train_module, "evaluate", watched("training"))
    monkeypatch.setattr(summary_module, "evaluate", watched("summary"))
    finished(tmp_path / "run")
    assert looks == ["training valid"] * 4 + ["summary valid", "summary test"]


def test_test_data_has_no_influence_on_anything_but_the_test_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("digits")
    noise = Split(torch.randn_like(data.test.inputs), data.test.targets.roll(1))
    monkeypatch.setattr(run_module, "build_data", lambda _: dataclasses.replace(data, test=noise))
    other = finished(tmp_path / "run")
    for name in ("metrics.jsonl", "events.jsonl"):
        assert journal(other, name) == journal(run, name)
    assert (other / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    one, two = (read_json(folder / "summary.json") for folder in (run, other))
    assert one["selected_step"] == two["selected_step"]
    assert one["now"]["valid"] == two["now"]["valid"]
    assert one["now"]["test"] != two["now"]["test"]


def test_cut_at_the_last_step_is_in_the_model_that_is_kept(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", train={"steps": 12, "eval_every": 6}, compress={"schedule": {"at": [12]}})
    (event,) = journal(run, "events.jsonl")
    after = event["layers"][0]["after"]
    assert after < 12
    assert load_model(run).config["model"]["d_state"] == [after]
    summary = read_json(run / "summary.json")
    assert summary["now"]["states"] == after
    last = rows_with(run, "eval/accuracy")[-1]
    assert (last["step"], last["state/total"]) == (12, after)
    assert summary["now"]["valid"]["accuracy"] == last["eval/accuracy"]
