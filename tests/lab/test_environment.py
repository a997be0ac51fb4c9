"""The record of what a run was made with."""

from __future__ import annotations

import json
import platform
import subprocess

import pytest
import torch

from gramian.lab import environment as module
from gramian.lab.environment import environment
from gramian.version import __version__


def test_record_is_flat_json_with_what_is_needed_to_repeat_a_number() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert all(isinstance(value, str | int) for value in facts.values())
    assert (facts["gramian"], facts["torch"], facts["python"]) == (
        __version__,
        torch.__version__,
        platform.python_version(),
    )
    assert facts["threads"] == torch.get_num_threads()
    assert "cores" in facts["cpu"]


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")])
def test_without_a_checkout_the_commit_is_unknown(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module.subprocess, "run", run)
    assert environment()["git_commit"] == "unknown"
