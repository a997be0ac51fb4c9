"""`gramian train`: what it writes and where, what a dry run says, and how a run goes on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from command_line import Gramian, here, plain


def test_run_that_diverges_is_a_message_and_exit_code_1(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.lr=1e30", "--run", "run")
    assert outcome.code == 1
    assert "Training has probably diverged" in outcome.err
    assert not Path("run/summary.json").exists()


def test_train_writes_a_run_its_page_and_says_where(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.steps=12")
    assert (outcome.code, outcome.err) == (0, "")
    said = plain(outcome.out)
    for expected in (
        "states 12; looks at steps 8, 16; run folder runs/small",
        "step 8 blocks.0.lru 12 -> 9",
        "After 12 steps",
        "states 12 9",
        "model: runs/small/model",
        "report: runs/small/report.html",
    ):
        assert expected in said
    for name in ("config.yaml", "metrics.jsonl", "events.jsonl", "summary.json", "report.html", "model/config.json"):
        assert Path("runs/small", name).is_file()


def test_default_folder_is_numbered_when_it_is_taken(gramian: Gramian, config: Path) -> None:
    Path("runs/small").mkdir(parents=True)
    Path("runs/small-2").mkdir()
    outcome = gramian("train", config, "--dry-run")
    assert "would write to: runs/small-3" in outcome.out
    named = gramian("train", config, "name=other", "--dry-run")
    assert "would write to: runs/other" in named.out


def test_run_folder_that_is_taken_is_left_alone(gramian: Gramian, config: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes").write_text("mine")
    outcome = gramian("train", config, "--run", "mine")
    assert outcome.code == 2
    assert "gramian train --resume mine" in outcome.err
    assert here() == ["mine", "mine/notes"]


def test_dry_run_shows_configuration_steps_and_cost_and_writes_nothing(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.steps=30", "compress.min_gain=0.2", "--dry-run")
    assert outcome.code == 0
    assert here() == []
    resolved, _, words = outcome.out.partition("event steps: ")
    content = yaml.safe_load(resolved)
    assert content["train"]["steps"] == 30
    assert content["compress"]["min_gain"] == 0.2
    assert content["compress"]["policy"]["energy"] == {"tau": 0.1}
    assert words.startswith("8, 16\n")
    assert "states: 12, parameters: " in words
    assert re.search(r"cost at full size: \d+\.\d ms a step \(median of 5 here\)", words)
    assert "would write to: runs/small" in words


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["compress=null"], "none"),
        (["compress.schedule={every: 5, until: 20}", "compress.schedule.at=null"], "5, 10, 15, 20"),
        (["compress.schedule.at=[1,2,3,4,5,6,7,19]"], "1, 2, 3, 4, 5, 6, ... 19"),
    ],
)
def test_dry_run_prints_the_event_steps(gramian: Gramian, config: Path, overrides: list[str], steps: str) -> None:
    outcome = gramian("train", config, *overrides, "--dry-run")
    assert outcome.code == 0
    assert f"event steps: {steps}\n" in outcome.out


def test_dry_run_shows_the_demo(gramian: Gramian) -> None:
    outcome = gramian("train", "demo", "train.batch_size=2", "--dry-run")
    assert outcome.code == 0
    assert "event steps: 50, 100, 150, 200, 250\n" in outcome.out
    assert here() == []


def test_resumed_run_is_finished_on_the_command_line(gramian: Gramian, trained: Path) -> None:
    shutil.copytree(trained, "copy")
    Path("copy/summary.json").unlink()
    shutil.rmtree("copy/checkpoints/step_00000020")
    outcome = gramian("train", "--resume", "copy")
    assert outcome.code == 0
    assert "After 20 steps" in outcome.out
    assert Path("copy/model/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()
