"""Training goes on over cuts of calibrated layers: moments, lists of batches, roll-backs, resuming."""

from __future__ import annotations

import copy

import pytest
import torch
from calibrated_runs import BATCHES, NAMES, sizes, trained
from small_models import everything, identical, through_a_file, without_seconds
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gramian.compression.cuts import apply_plan_, plan_cuts
from gramian.compression.policies import Energy, Rank
from gramian.compression.rollback import RollBack
from gramian.compression.schedules import At
from gramian.errors import GramianError
from gramian.layers.calibration import Calibration
from gramian.layers.reducible import resize_like_
from gramian.layers.reduction import IndexMap, MomentMap
from gramian.layers.selective.measures import Taylor
from gramian.layers.spectra import spectra_of
from gramian.systems.projections import Keep
from selective_zoo import make_mamba, make_net, net_batches, squared_error, train


def states(model: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    return {name: {k: v.clone() for k, v in optimizer.state[p].items()} for name, p in model.named_parameters()}


@pytest.mark.parametrize("mix", [False, True])
def test_moments_follow_the_states_and_training_goes_on(mix: bool) -> None:
    model, optimizer, compressor = trained()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    before, members = states(model, optimizer), [id(p) for p in optimizer.param_groups[0]["params"]]
    spectra = spectra_of(compressor.layers, for_proposals=True, model=model, calibration=Calibration(BATCHES, mix=mix))
    plan = plan_cuts(compressor.layers, spectra, Rank(3), Keep())
    apply_plan_(plan, compressor.layers, optimizer, kept=compressor.kept)
    after, changed = states(model, optimizer), set()
    for layer, reduction in plan.accepted.items():
        for name, moment_map in reduction.moments.items():
            old, new = (state[f"{layer}.{name}"] for state in (before, after))
            assert type(moment_map) is (MomentMap if mix and name == "x_proj.weight" else IndexMap)
            for key, order in (("exp_avg", 1), ("exp_avg_sq", 2), ("max_exp_avg_sq", 2)):
                assert torch.equal(new[key], moment_map.carry({name: old[key]}, order))
                assert new[key].shape == reduction.tensors[name].shape
            assert float(new["step"]) == 3
            assert (new["exp_avg_sq"] >= 0).all()
            changed.add(f"{layer}.{name}")
    assert changed == {f"{layer}.{name}" for layer in NAMES for name in ("A_log", "x_proj.weight")}
    assert all(identical(after[name], before[name]) for name in before.keys() - changed)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == members
    values = copy.deepcopy(model.state_dict())
    assert all(torch.tensor(train(model, optimizer, 3)).isfinite())
    scheduler.step()
    assert all(not torch.equal(p, values[name]) for name, p in model.named_parameters())
    assert model.layers[0].A_log._no_weight_decay


def gradients(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Of the first layer's parameters, averaged over `batches`."""
    model.zero_grad()
    for batch in batches:
        (squared_error(model.eval(), batch) / len(batches)).backward()
    return {name: p.grad.clone() for name, p in model.layers[0].named_parameters()}


@pytest.mark.parametrize("seed", range(3))
def test_moments_of_mixed_rows_point_where_gradients_of_the_smaller_layer_do(seed: int) -> None:
    layer, batches = make_mamba(d_state=16, seed=seed), net_batches(20, seed=5)
    model = make_net(layer)
    train(model, AdamW(model.parameters(), 3e-2), 60)
    calibration = Calibration(batches)
    spectra = spectra_of({"layers.0": layer}, for_proposals=True, model=model, calibration=calibration)
    reduction, old = layer.propose(4, spectrum=spectra["layers.0"]), gradients(model, batches)
    layer.apply_(reduction)
    new = gradients(model, batches)["x_proj.weight"][-8:]  # of B and C
    carried = reduction.moments["x_proj.weight"].carry(old, 1)[-8:]
    assert float((carried * new).sum() / (carried.norm() * new.norm())) > 0.9


def test_a_list_serves_every_cut_and_an_iterator_one() -> None:
    model, optimizer, compressor = trained(schedule=At([1, 2, 3]))
    for expected in ([3, 4], [2, 2], [1, 1]):
        event = compressor.step()
        assert event.kind == "cut"
        assert sizes(model) == expected
        train(model, optimizer, 1)
    assert all(0 < kept < 1 for kept in compressor.kept.values())
    model, _, compressor = trained(Calibration(iter(BATCHES)))
    assert compressor.step().changed
    before = everything(model)
    with pytest.raises(GramianError, match="an iterator can be used only once"):
        compressor.step()
    assert identical(everything(model), before)


def test_tolerances_add_up_over_cuts() -> None:
    _, _, compressor = trained(policy=Energy(0.2))
    taus = []
    for _ in range(3):
        event = compressor.step()
        change = next((c for c in event.layers if c.layer == "layers.1"), None)
        if change is not None:
            taus.append(change.tau)
            assert change.tau_total == pytest.approx(1 - float(torch.tensor([1 - t for t in taus]).double().prod()))
    assert len(taus) >= 2


def test_spectra_that_are_kept_hold_no_data() -> None:
    _, _, compressor = trained()
    compressor.step()
    for spectrum in (*compressor.last_spectra.values(), *compressor.spectra().values()):
        assert spectrum.calibrated is None
        assert len(spectrum.values) == spectrum.d_state


@pytest.mark.parametrize("measure", [None, Taylor()])
def test_a_roll_back_brings_sizes_back_everywhere(measure: Taylor | None) -> None:
    calibration = Calibration(BATCHES, measure=measure, loss=squared_error)
    model, optimizer, compressor = trained(calibration, schedule=At([2]), rollback=RollBack(drop=0.1))
    rows = [layer.x_proj.out_features for layer in model.layers]
    compressor.step(metric=1.0)
    before, identities = everything(model, optimizer), [id(p) for p in model.parameters()]
    assert compressor.step().kind == "cut"
    assert [layer.x_proj.out_features for layer in model.layers] == [r - n for r, n in zip(rows, [6, 8], strict=True)]
    train(model, optimizer, 1)
    assert compressor.step(metric=0.0).kind == "rolled_back"
    assert identical(everything(model, optimizer), before)
    assert sizes(model) == [6, 8]
    assert [layer.x_proj.out_features for layer in model.layers] == rows
    assert [id(p) for p in model.parameters()] == identities
    train(model, optimizer, 2)


def test_a_run_is_resumed_from_files_of_a_cut_model() -> None:
    runs = []
    for resume in (False, True):
        model, optimizer, compressor = trained(schedule=At([1, 3]), rollback=RollBack(drop=0.1))
        compressor.step(metric=1.0)
        if resume:
            saved = through_a_file(
                {"model": model.state_dict(), "o": optimizer.state_dict(), "c": compressor.state_dict()}
            )
            model, optimizer, compressor = trained(schedule=At([1, 3]), rollback=RollBack(drop=0.1))
            resize_like_(model, saved["model"])
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["o"])
            compressor.load_state_dict(saved["c"])
        train(model, optimizer, 2)
        compressor.step(metric=1.0)
        event = compressor.step()
        assert sizes(model) == [2, 2]
        runs.append((without_seconds(event), everything(model, optimizer), compressor.d_states, compressor.kept))
    assert identical(runs[0], runs[1])


def test_cutting_takes_nothing_from_the_random_numbers_of_training() -> None:
    def losses(calibrated: bool) -> Tensor:
        model, _, compressor = trained(policy=Rank(99))
        if calibrated:
            assert compressor.step().kind == "skipped"
        return model(BATCHES[0][0])  # with dropout

    torch.manual_seed(5)
    plain = losses(False)
    torch.manual_seed(5)
    assert torch.equal(losses(True), plain)
