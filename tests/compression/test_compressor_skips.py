"""Cuts that a compressor does not make: what it says, and what it leaves alone."""

from __future__ import annotations

import pytest
from cut_runs import run, set_up
from small_models import SmallNet, everything, identical, make_net

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Shrink
from gramian.compression.schedules import At
from gramian.layers.reduction import Reduction


def test_skips_say_why() -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Energy(0.0), schedule=At([1]))
    (event,) = run(model, optimizer, compressor, 1)
    assert (event.kind, event.changed, event.layers) == ("skipped", False, ())
    assert event.reason == "the policy keeps all states, up to its min_gain"


@pytest.mark.parametrize(("min_gain", "kind"), [(0.3, "skipped"), (0.2, "cut")])
def test_a_gain_below_min_gain_is_not_worth_a_cut(min_gain: float, kind: str) -> None:
    compressor = Compressor(make_net(), policy=Shrink(0.25, min_gain=min_gain), schedule=At([1]))
    assert compressor.step().kind == kind
    assert compressor.d_states == (
        {"layers.0.lru": 9, "layers.1.lru": 6} if kind == "cut" else {"layers.0.lru": 12, "layers.1.lru": 8}
    )


def refuse(reductions: dict[str, str], monkeypatch: pytest.MonkeyPatch, model: SmallNet) -> None:
    for name, reason in reductions.items():
        layer = model.get_submodule(name)
        refusal = Reduction(layer.d_state, layer.d_state, 3, {}, {}, None, reason)
        monkeypatch.setattr(layer, "propose", lambda rank, choose, spectrum, refusal=refusal: refusal)


def test_refused_proposals_are_reported_and_leave_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_net()
    refuse({"layers.0.lru": "too wobbly"}, monkeypatch, model)
    event = Compressor(model, policy=Shrink(0.5), schedule=At([1])).step()
    assert event.kind == "cut"
    assert [(c.layer, c.accepted, c.before, c.after, c.reason) for c in event.layers] == [
        ("layers.0.lru", False, 12, 12, "too wobbly"),
        ("layers.1.lru", True, 8, 4, ""),
    ]
    assert [layer.lru.d_state for layer in model.layers] == [12, 4]


def test_where_every_proposal_is_refused_the_step_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_net()
    before = everything(model)
    refuse({"layers.0.lru": "no", "layers.1.lru": "never"}, monkeypatch, model)
    event = Compressor(model, policy=Shrink(0.5), schedule=At([1])).step()
    assert (event.kind, event.reason) == ("skipped", "every proposal was refused")
    assert [change.reason for change in event.layers] == ["no", "never"]
    assert identical(everything(model), before)
