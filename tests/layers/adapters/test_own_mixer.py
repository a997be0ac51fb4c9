"""The example of an adapter for somebody's own mixer runs, is as short as it says, and says what is true."""

from __future__ import annotations

import ast
import copy
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gramian import At, Compressor, Rank
from gramian.layers.adapters import registry
from gramian.layers.calibration import Calibration
from gramian.layers.reducible import reducible_layers
from gramian.layers.selective.signals import contributions

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_mixer.py"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the example defines; the adapter is forgotten afterwards."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    return runpy.run_path(str(EXAMPLE))


def test_example_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("16 -> 6") == 2
    change = re.search(r"model's output: ([\d.]+)", said)
    assert change is not None
    assert 0 < float(change[1]) < 0.2


def test_adapter_takes_less_than_thirty_lines() -> None:
    (adapter,) = (
        node for node in ast.parse(EXAMPLE.read_text()).body if getattr(node, "name", "") == "OwnMixerAdapter"
    )
    assert adapter.end_lineno is not None
    assert adapter.end_lineno - adapter.lineno < 30


@torch.no_grad()
def test_its_signals_are_all_there_is_to_the_mixer(example: dict[str, Any]) -> None:
    mixer = example["OwnMixer"](5, 4).double()
    (layer,) = reducible_layers(nn.Sequential(mixer)).values()
    x = torch.randn(2, 9, 5, dtype=torch.float64)
    (p,) = contributions(layer.signals(x), torch.arange(9))  # type: ignore[attr-defined]
    y = torch.einsum("sgdn,sgn->sd", p.M, p.C).unflatten(0, (2, 9)) + mixer.out.bias
    torch.testing.assert_close(y, mixer(x))


def test_it_is_cut_while_it_trains(example: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(example["OwnMixer"](5, 8))
    before = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters())
    data = [torch.randn(4, 16, 5) for _ in range(4)]
    compressor = Compressor(model, optimizer, policy=Rank(3), schedule=At((2,)), calibration=Calibration(data))
    for x in data:
        (model(x) - before(x).detach() - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        compressor.step()
    assert model[0].states == model[0].b_proj.out_features == 3
    assert optimizer.state[model[0].log_rate]["exp_avg"].shape == (5, 3)
