"""`gramian eval` and `gramian report`: the scores of a finished run, and its page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from command_line import Gramian


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_repeats_the_scores_of_the_run(gramian: Gramian, trained: Path, split: str) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    outcome = gramian("eval", trained, "--split", split, "--json")
    record = json.loads(outcome.out)
    assert {key: record[key] for key in ("accuracy", "loss")} == summary["now"][split]
    assert (record["data"], record["split"], record["samples"]) == ("digits", split, 250)
    told = gramian("eval", trained, "--split", split).out
    assert f"accuracy {record['accuracy']}" in told
    assert f"split {split}" in told


def test_split_that_does_not_exist_is_bad_input(gramian: Gramian, trained: Path) -> None:
    outcome = gramian("eval", trained, "--split", "tset")
    assert outcome.code == 2
    assert "needed: train, valid, test. Did you mean 'test'?" in outcome.err


def test_report_writes_the_page_of_a_run(gramian: Gramian, trained: Path) -> None:
    shutil.copytree(trained, "copy")
    outcome = gramian("report", "copy")
    assert outcome.out == "report: copy/report.html\n"
    assert "<html" in Path("copy/report.html").read_text(encoding="utf-8")
