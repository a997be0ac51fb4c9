"""Training of token models: cuts, interruptions, clipping, further test sets, and the way back from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import PullThePlug, Stopped, assert_same_run, gramian, journal
from torch.nn.utils import clip_grad_norm_

import gramian.lab.train as train_module
from gramian.lab.build import build_data
from gramian.lab.config import Config, validated
from gramian.lab.evaluate import evaluate
from gramian.lab.files import read_json
from gramian.lab.run import Run
from gramian.lab.saved_model import load_model
from gramian.lab.train import train

TASKS: dict[str, dict[str, Any]] = {
    "mqar": {"name": "mqar", "scale": "tiny", "length": 16, "pairs": 2, "vocab": 10},
    "copying": {"name": "selective_copying", "scale": "tiny", "length": 10, "memorize": 2},
    "induction": {"name": "induction_heads", "scale": "tiny", "length": 12, "test_lengths": [20]},
    "text": {"name": "text_bytes", "scale": "tiny", "length": 12, "most": 3_000},
}
LAYERS: dict[str, dict[str, Any]] = {
    "lru": {},
    "mamba": {},
    "mamba2": {"head_dim": 8},
    "linear_attention": {"n_heads": 2},
}


def config(task: str = "mqar", layer: str = "mamba", fresh: bool = True, **settings: Any) -> Config:
    sizes = {} if "text" in task else {"n_train": 60, "n_valid": 30, "n_test": 40}
    compress: dict[str, Any] = {"policy": {"rank": {"n": 3}}, "schedule": {"at": [6]}}
    if layer != "lru":
        compress["calibration"] = {"batches": 2, "tokens": 200}
    return validated(
        {
            "name": "small",
            "model": {"layer": layer, "n_layers": 2, "d_model": 8, "d_state": 6, **LAYERS[layer]},
            "data": {**TASKS[task], **sizes, "fresh": fresh},
            "train": {
                "steps": 16,
                "batch_size": 8,
                "lr": 5e-3,
                "seed": 1,
                "log_every": 2,
                "eval_every": 8,
                "checkpoint_every": 4,
                **settings,
            },
            "compress": compress,
        }
    )


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("task", ["mqar", "text"])
def test_layers_of_every_kind_train_and_are_cut(task: str, layer: str, tmp_path: Path) -> None:
    summary = train(config(task, layer), tmp_path / "run")
    assert summary["full"]["states"] == 12
    assert summary["now"]["states"] == 6
    events = journal(tmp_path / "run", "events.jsonl")
    assert [(event["kind"], event["step"]) for event in events] == [("cut", 6)]
    saved = load_model(tmp_path / "run")
    data = build_data(saved.data)
    assert evaluate(saved.model, data.test) == summary["now"]["test"]
    assert ("bits_per_byte" in summary["now"]["test"]) == (task == "text")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fresh", [True, False])
def test_run_that_was_stopped_goes_on_as_if_it_had_not_been(task: str, fresh: bool, tmp_path: Path) -> None:
    settings = config(task, fresh=fresh)
    train(settings, tmp_path / "through")
    with pytest.raises(Stopped):
        train(settings, tmp_path / "stopped", watcher=PullThePlug(5))
    train(None, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "through")


def test_fresh_training_draws_sequences_of_its_own(tmp_path: Path) -> None:
    run = Run(config(), tmp_path / "run")
    inputs = {row.numpy().tobytes() for row in run.data.train.inputs}
    drawn = {row.numpy().tobytes() for step in range(16) for row in run.batches.batch(step)[0]}
    assert len(drawn) > 100
    assert len(inputs & drawn) < 0.1 * len(drawn)  # of ten tokens, a few sequences come twice by chance


def test_longer_test_sets_are_in_the_summary_and_can_be_asked_for(tmp_path: Path) -> None:
    summary = train(config("induction"), tmp_path / "run")
    assert summary["now"]["test-20"].keys() == {"accuracy", "loss"}
    answer = gramian("eval", "run", "--split", "test-20", "--json", cwd=tmp_path)
    assert f'"accuracy": {summary["now"]["test-20"]["accuracy"]}' in answer.stdout


def test_gradients_are_clipped_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []

    def watched(parameters: Any, limit: float) -> torch.Tensor:
        before = clip_grad_norm_(parameters := list(parameters), limit)
        norms.append(float(torch.stack([p.grad.norm() for p in parameters]).norm()))
        return before

    monkeypatch.setattr(train_module, "clip_grad_norm_", watched)
    train(config(steps=3), tmp_path / "free")
    assert norms == []
    train(config(steps=3, grad_clip=1e-3), tmp_path / "clipped")
    assert norms == pytest.approx([1e-3] * 3, rel=1e-2)


def test_recall_is_learned(tmp_path: Path) -> None:
    settings = config(layer="mamba2", steps=250, batch_size=32, lr=1e-2, eval_every=125, log_every=50)
    settings = settings.model_copy(update={"compress": None})
    summary = train(settings, tmp_path / "run")
    assert summary["now"]["test"]["accuracy"] > 0.5 + 0.15  # a coin that knows both values gets a half


def test_saved_model_says_what_it_reads_and_predicts(tmp_path: Path) -> None:
    train(config(steps=2), tmp_path / "run")
    stored = read_json(tmp_path / "run" / "model" / "config.json")
    assert (stored["tokens"], stored["head"], stored["d_input"]) == (True, "next_token", 10)
    assert stored["data"]["pairs"] == 2
