"""What `gramian analyze` says is what a cut would do."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from gramian.compression.cuts import compress_
from gramian.compression.policies import Energy
from gramian.errors import GramianError
from gramian.lab.analyze import analyze
from gramian.layers.lru import LRU
from gramian.layers.reducible import reducible_layers
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import balanced

TAUS = [0.0, 0.05, 0.2, 0.6]


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"real": LRU(4, 9), "complex": LRU(4, 7, realization="complex"), "head": nn.Linear(4, 2)})


def test_one_row_for_every_reducible_layer_in_plain_json(model: nn.Module) -> None:
    rows = json.loads(json.dumps(analyze(model, TAUS)))
    assert [(row["layer"], row["d_state"], len(row["values"])) for row in rows] == [
        ("real", 9, 18),
        ("complex", 7, 7),
    ]
    assert all(set(row["kept"]) == {"0.0", "0.05", "0.2", "0.6"} for row in rows)


def test_each_tolerance_keeps_the_smallest_order_that_discards_no_more(model: nn.Module) -> None:
    for row in analyze(model, TAUS):
        values = torch.tensor(row["values"], dtype=torch.float64)
        assert torch.equal(values, values.sort(descending=True).values)
        for tau in TAUS:
            order = row["kept"][str(tau)]["order"]
            assert values[order:].sum() <= tau * values.sum() * (1 + 1e-9)
            assert values[order - 1 :].sum() > tau * values.sum()
            per_state = len(values) // row["d_state"]
            assert row["kept"][str(tau)]["d_state"] == -(-order // per_state)


def test_tolerance_keeps_what_a_cut_with_it_would_keep(model: nn.Module) -> None:
    rows = {row["layer"]: row for row in analyze(model, [0.2])}
    plan = compress_(model, Energy(0.2, min_gain=0.0), dry_run=True)
    assert {change.layer: change.asked for change in plan.layers} == {
        name: row["kept"]["0.2"]["d_state"] for name, row in rows.items()
    }
    assert len(plan.layers) == 2


def test_bound_holds_for_the_reduced_layer(model: nn.Module) -> None:
    rows = {row["layer"]: row for row in analyze(model, [0.05, 0.2, 0.6])}
    for name, layer in reducible_layers(model).items():
        system = layer.spectrum().system
        assert system is not None
        for kept in rows[name]["kept"].values():
            rom = system.project(balanced(system, rank=kept["order"]))
            error = float(hinf_norm(system - rom, rtol=1e-3))
            assert error <= (kept["bound"] * (1 + 2e-3) + 1e-9) * rows[name]["norm"]
        assert rows[name]["kept"]["0.6"]["bound"] > rows[name]["kept"]["0.2"]["bound"] > 0


def test_norm_is_at_least_the_largest_hankel_singular_value(model: nn.Module) -> None:
    for row in analyze(model, [0.1]):
        assert row["norm"] >= row["values"][0] * (1 - 1e-3)


def test_nothing_discarded_means_a_bound_of_nothing(model: nn.Module) -> None:
    for row in analyze(model, [0.0]):
        assert row["kept"]["0.0"]["order"] == len(row["values"])
        assert row["kept"]["0.0"]["bound"] == 0


def test_layer_without_output_is_reported_and_not_divided_by() -> None:
    layer = LRU(3, 4)
    with torch.no_grad():
        for parameter in (layer.C_re, layer.C_im, layer.D):
            parameter.zero_()
    (row,) = analyze(nn.Sequential(layer), [0.1])
    assert row["norm"] == 0
    assert row["kept"]["0.1"]["bound"] == 0
    assert row["kept"]["0.1"]["d_state"] == 1


def test_tolerance_that_is_no_fraction_is_refused(model: nn.Module) -> None:
    for tau in (1.0, -0.1):
        with pytest.raises(GramianError, match=f"tau = {tau} was given"):
            analyze(model, [tau])


def test_analysis_changes_nothing(model: nn.Module) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    analyze(model, TAUS)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
