"""`gramian doctor`: what runs here, and the cure for what is missing."""

from __future__ import annotations

import json

import pytest
import torch

from command_line import Gramian


def test_doctor_says_what_runs_here(gramian: Gramian) -> None:
    facts = json.loads(gramian("doctor", "--json").out)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1
    assert facts["kernel 'chunked'"].startswith("ready")
    assert {"gramian", "python", "cpu", "cuda", "matplotlib", "scikit-learn", "mlxtend"} <= facts.keys()
    told = gramian("doctor").out
    assert all(key in told and str(facts[key]) in told for key in ("torch", "cpu", "cuda"))


def test_doctor_names_the_cure_for_what_is_missing(gramian: Gramian, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from gramian.lab import commands

    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(commands, "version", version)
    facts = json.loads(gramian("doctor", "--json").out)
    assert facts["matplotlib"] == "not installed: pip install 'gramian[plot]'"
    assert facts["mlxtend"] == "not installed: pip install 'gramian[data]'"
