"""One cut: planned without a change, applied as planned, reported as applied."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import everything, identical, make_net, without_seconds
from torch import nn

from gramian.compression.cuts import apply_plan_, compress_, plan_cuts
from gramian.compression.policies import Energy, Rank, Shrink
from gramian.errors import GramianError
from gramian.layers.reducible import reducible_layers
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Keep, balanced

POLICY = Energy(tau=0.1)


def test_a_dry_run_changes_nothing_and_says_what_the_real_run_does() -> None:
    model = make_net()
    before = everything(model)
    planned = compress_(model, POLICY, dry_run=True)
    assert identical(everything(model), before)
    done = compress_(model, POLICY)
    assert without_seconds(planned) == without_seconds(done)
    assert done.kind == "cut"
    assert [change.after for change in done.layers] == [layer.lru.d_state for layer in model.layers]


def test_a_compressed_model_does_nearly_what_it_did() -> None:
    model = make_net().eval()
    u = torch.randn(3, 20, 2)
    y, systems = model(u), {name: layer.linear_system() for name, layer in reducible_layers(model).items()}
    event = compress_(model, Energy(tau=1e-2))
    assert event.changed
    for change in event.layers:
        error = systems[change.layer] - model.get_submodule(change.layer).linear_system()
        assert float(hinf_norm(error)) <= 1.06 * max(change.bound, 1e-5) * change.norm
        assert change.measured * change.norm == pytest.approx(float(hinf_norm(error)), rel=5e-3)
    assert (model(u) - y).norm() < 0.05 * y.norm()
    assert (model(u) - y).norm() > 0


def test_a_model_may_be_a_single_layer() -> None:
    layer = make_net().layers[0].lru
    event = compress_(layer, Rank(5))
    assert [(c.layer, c.before, c.after) for c in event.layers] == [("", 12, 5)]
    assert layer.d_state == 5


def test_a_policy_that_keeps_all_is_a_skip() -> None:
    model = make_net()
    event = compress_(model, Rank(12))
    assert (event.kind, event.changed, event.layers) == ("skipped", False, ())
    assert event.reason == "the policy keeps all states, up to its min_gain"


def test_layers_that_the_policy_leaves_alone_are_not_in_the_report() -> None:
    model = make_net()
    other = copy.deepcopy(model.layers[1].lru)
    event = compress_(model, Rank(4).except_for("layers.1.*"))
    assert [change.layer for change in event.layers] == ["layers.0.lru"]
    assert identical(dict(model.layers[1].lru.state_dict()), dict(other.state_dict()))


def test_calibration_that_is_not_needed_is_not_consumed_and_not_passed_over_in_silence() -> None:
    batches = iter([1, 2, 3])
    with pytest.warns(UserWarning, match="calibration batches were not used") as caught:
        event = compress_(make_net(), POLICY, calibration=batches)
    assert event.changed
    assert next(batches) == 1
    assert caught[0].filename == __file__


def test_other_states_can_be_kept_on_purpose() -> None:
    best, worst = (compress_(make_net(), Rank(4), keep=keep) for keep in (None, Keep("smallest")))
    for good, bad in zip(best.layers, worst.layers, strict=True):
        assert good.measured < bad.measured


def test_a_model_without_layers_to_cut_is_refused() -> None:
    with pytest.raises(GramianError, match="no layer that can be reduced"):
        compress_(nn.Linear(2, 2), POLICY)


def test_a_plan_reports_what_was_asked_before_rounding() -> None:
    layers = reducible_layers(make_net())
    spectra = {name: layer.spectrum() for name, layer in layers.items()}
    plan = plan_cuts(layers, spectra, Rank(5, round_to=8), balanced)
    assert plan.asked == {"layers.0.lru": 5}  # the other one has 8
    (change,) = plan.changes({"layers.0.lru": 0.8})
    assert (change.asked, change.after) == (5, 8)
    assert change.tau_total == pytest.approx(1 - 0.8 * (1 - change.tau), abs=1e-12)


def test_a_plan_applies_once_and_keeps_the_tally() -> None:
    layers, kept = reducible_layers(make_net()), {"layers.0.lru": 0.5}
    spectra = {name: layer.spectrum() for name, layer in layers.items()}
    plan = plan_cuts(layers, spectra, Shrink(0.5), balanced)
    apply_plan_(plan, layers, kept=kept)
    for name, earlier in (("layers.0.lru", 0.5), ("layers.1.lru", 1.0)):
        assert kept[name] == pytest.approx(earlier * (1 - plan.reductions[name].measurement.discarded))
    with pytest.raises(GramianError, match="can be applied once"):
        apply_plan_(plan, layers)
