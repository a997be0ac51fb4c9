"""Layers whose spectra depend on data are cut once or while they train, alone or beside linear time-invariant ones."""

from __future__ import annotations

import json

import pytest
import torch
from calibrated_runs import BATCHES, NAMES, sizes, trained
from small_models import everything, identical, without_seconds
from torch import Tensor, nn

from gramian.compression.compressor import Compressor
from gramian.compression.cuts import compress_
from gramian.compression.policies import Budget, Energy, ErrorBound, Rank
from gramian.compression.records import Event
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At, Every, WhenStable
from gramian.errors import GramianError
from gramian.layers.calibration import Calibration
from gramian.layers.lru import LRU
from gramian.layers.selective.measures import ContributionEnergy, Taylor
from gramian.layers.spectra import spectra_of
from gramian.systems.projections import Keep
from selective_zoo import make_mamba, make_net, squared_error


def with_inputs(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What the first layer is given for the batches, and what it puts out."""
    kept: list[tuple[Tensor, Tensor]] = []
    handle = model.layers[0].register_forward_hook(lambda m, args, y: kept.append((args[0].detach(), y.detach())))
    model.eval()
    for u, _ in BATCHES:
        model(u)
    handle.remove()
    model.train()
    return kept


def test_a_dry_run_changes_nothing_and_says_what_the_real_run_does() -> None:
    model = make_net()
    before = everything(model)
    planned = compress_(model, Rank(3), BATCHES, dry_run=True)
    assert identical(everything(model), before)
    done = compress_(model, Rank(3), BATCHES)
    assert without_seconds(planned) == without_seconds(done)
    assert done.kind == "cut"
    assert sizes(model) == [3, 3]


def test_the_report_is_the_error_that_the_cut_layer_makes() -> None:
    model = make_net()
    seen = with_inputs(model)
    event = compress_(model, Energy(tau=0.3), BATCHES)
    change = event.layers[0]
    assert change.layer == "layers.0"
    assert model.layers[0].d_state == change.after < change.before == 6
    x, y = (torch.cat(part) for part in zip(*seen, strict=True))
    errors = (model.layers[0](x).detach() - y).square().sum((1, 2))
    energies = y.square().sum((1, 2))
    held_out = torch.arange(len(x)) % 4 == 3
    for found, rows in ((change.output_error, ~held_out), (change.held_out_error, held_out)):
        assert found == pytest.approx(float((errors[rows].sum() / energies[rows].sum()).sqrt()), rel=1e-9)
    assert (change.bound, change.measured, change.norm, change.order) == (None, None, None, None)
    assert 0 < change.tau <= 0.3
    assert change.tau_total == pytest.approx(change.tau)


def test_an_event_is_a_line_that_promises_nothing_and_a_record() -> None:
    event = compress_(make_net(), Rank(2).except_for("layers.1"), BATCHES)
    change = event.layers[0]
    assert str(event) == (
        f"layers.0  6 -> 2   output error {change.output_error:.2g}, held out {change.held_out_error:.2g}, "
        f"no a-priori guarantee   {change.seconds:.2f} s"
    )
    assert Event.from_dict(json.loads(json.dumps(event.to_dict(), allow_nan=False))) == event
    one_step = compress_(make_net(), Rank(2).except_for("layers.1"), [torch.zeros(2, 1, 3).double()])
    assert one_step.layers[0].held_out_error is None
    assert "held out" not in str(one_step)


def test_without_data_the_cure_is_said() -> None:
    for ask in (
        lambda: compress_(make_net(), Rank(2)),
        lambda: Compressor(make_net(), policy=Rank(2), schedule=At([1])).step(),
        lambda: Compressor(make_net(), policy=Rank(2), schedule=At([1])).spectra(),
    ):
        with pytest.raises(GramianError, match=r"spectrum of Mamba depends on data(.|\n)*calibration=Calibration"):
            ask()


def test_a_bound_and_a_settled_ranking_are_refused_with_what_can_be_used() -> None:
    with pytest.raises(GramianError, match=r"ErrorBound was given for 'layers.0', whose spectrum is: regression"):
        compress_(make_net(), ErrorBound(0.1), BATCHES)
    with pytest.raises(GramianError, match=r"WhenStable was given(.|\n)*Use Every"):
        Compressor(make_net(), policy=Rank(2), schedule=WhenStable(1, 5, checks=1), calibration=BATCHES)


def test_a_cut_that_must_wait_does_not_calibrate() -> None:
    compressor = Compressor(
        make_net(), policy=Rank(2), schedule=Every(1, until=2), rollback=RollBack(drop=0.1), calibration=iter(())
    )
    assert "needs the metric" in compressor.step().reason  # and no batches are asked for, of which there are none


class Mixed(nn.Module):
    """A time-invariant layer, a time-varying one, and another time-invariant one."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.layers = nn.ModuleList([LRU(4, 8, r_min=0.4, r_max=0.9), make_mamba(), LRU(4, 8, r_min=0.4, r_max=0.9)])

    def forward(self, u: Tensor) -> Tensor:
        x = self.encoder(u)
        for layer in self.layers:
            x = x + layer(x)
        return x.mean((1, 2))


def test_layers_of_both_kinds_are_cut_together() -> None:
    torch.manual_seed(0)
    model = Mixed().double()
    calibration = Calibration(BATCHES)
    layers = dict(zip(("layers.0", "layers.1", "layers.2"), model.layers, strict=True))
    spectra = spectra_of(layers, model=model, calibration=calibration)
    assert list(spectra) == list(layers)
    assert [s.measure.split(" ")[0] for s in spectra.values()] == ["Hankel", "regression", "Hankel"]
    assert [s.system is None for s in spectra.values()] == [False, True, False]
    event = compress_(model, Rank(3), calibration)
    assert [change.after for change in event.layers] == sizes(model) == [3, 3, 3]
    assert [change.bound is None for change in event.layers] == [False, True, False]
    assert [change.output_error is None for change in event.layers] == [True, False, True]
    assert all(change.tau is not None for change in event.layers)
    shared = compress_(model, Budget(6, min_gain=0), calibration)
    assert sum(sizes(model)) <= 6
    assert shared.changed


def test_states_can_be_kept_at_random_or_the_wrong_way_round() -> None:
    measure = ContributionEnergy()
    errors = {}
    for keep in ("largest", "smallest", Keep("random", seed=4)):
        calibration = Calibration(BATCHES, measure=measure, mix=False)
        _, _, compressor = trained(calibration, keep=keep)
        errors[str(keep)] = compressor.step().layers[0].held_out_error
    assert errors["largest"] < errors["smallest"]
    assert len(set(errors.values())) == 3


def test_a_budget_goes_where_the_loss_needs_it() -> None:
    """With scores of one unit, a layer that the loss hardly depends on is left with little."""
    calibration = Calibration(BATCHES, measure=Taylor(), loss=squared_error)
    model = make_net(make_mamba(seed=1), make_mamba(seed=1))
    with torch.no_grad():
        model.layers[1].out_proj.weight *= 1e-3
    spectra = spectra_of(dict(zip(NAMES, model.layers, strict=True)), model=model, calibration=calibration)
    assert all(s.comparable for s in spectra.values())
    event = compress_(model, Budget(7), calibration)
    assert sizes(model) == [6, 1]
    assert [change.layer for change in event.layers] == ["layers.1"]
    largest = sorted((float(v) for s in spectra.values() for v in s.values), reverse=True)
    assert all(float(v) in largest[:6] for v in spectra["layers.0"].values)
