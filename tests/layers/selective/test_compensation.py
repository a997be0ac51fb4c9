"""Kept states take over what the dropped ones did, as far as the layer's structure allows it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gramian.layers.calibration import Calibrated, Calibration, calibrate
from gramian.layers.mamba import Mamba
from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import OutputError, Reduction
from gramian.layers.selective import compensation
from gramian.layers.selective.compensation import compensated
from gramian.layers.selective.equations import write_equations
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.layout import StateChange
from gramian.layers.selective.measures import ContributionEnergy, Measure, Ranking, Regression
from gramian.layers.selective.samples import Sample, samples
from gramian.layers.selective.signals import Signals
from selective_zoo import (
    evidence_of,
    make_grouped,
    make_layer,
    make_mamba,
    make_net,
    net_batches,
    sequences,
    spectrum_of,
    train,
)

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])


def mixed(layer: SelectiveLayer, index: list[int], x: Tensor) -> StateChange:
    """The best mixing for states that are kept in all groups."""
    evidence = evidence_of(x)
    groups = layer.signals(x).groups
    change = StateChange(torch.tensor([index] * groups), layer.d_state)
    fit, judge = (lambda s=s: samples(layer.signals, s) for s in (evidence.inputs, evidence.held_out))
    return compensated(change, fit, judge)


def errors(reduction: Reduction) -> OutputError:
    assert isinstance(reduction.measurement, OutputError)
    return reduction.measurement


def kept(layer: SelectiveLayer, order: list[int], x: Tensor, mix: bool = True) -> Spectrum:
    """A spectrum that ranks the states of all groups like `order`."""
    groups = layer.signals(x).groups
    ranking = Ranking(torch.ones(layer.d_state, dtype=torch.float64), torch.tensor([order] * groups))
    return Spectrum(ranking.values, "made up", layer.d_state, calibrated=Calibrated(evidence_of(x), ranking, mix))


@BOTH
def test_with_all_states_kept_nothing_is_mixed(kind: str) -> None:
    layer = make_layer(kind)
    change = mixed(layer, list(range(layer.d_state)), sequences())
    eye = torch.eye(layer.d_state, dtype=torch.float64).expand(*change.matrices("B").shape)
    torch.testing.assert_close(change.matrices("B"), eye, rtol=0, atol=1e-9)
    torch.testing.assert_close(change.matrices("C"), eye, rtol=0, atol=1e-9)


def twins(layer: SelectiveLayer, same: str) -> SelectiveLayer:
    """A layer of six states of which 3, 4 and 5 are forgotten like 0, 1 and 2, and driven alike (`same` is B) or read
    alike (C)."""
    with torch.no_grad():
        if isinstance(layer, Mamba):
            layer.A_log[:, 3:] = layer.A_log[:, :3]
            rows = layer.x_proj.weight[layer.dt_rank :].unflatten(0, (2, 1, 6))[0 if same == "B" else 1]
        else:
            A = layer.A_log.unflatten(1, (2, 6))
            A[..., 3:] = A[..., :3]
            rows = layer.get_parameter(f"{same}.weight").unflatten(0, (2, 6))
        rows[:, 3:] = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)[:, None] * rows[:, :3]
    return layer


ORDER = [0, 4, 2, 1, 3, 5]  # of every pair of twins one comes first


@BOTH
def test_states_that_are_driven_alike_are_read_together_without_a_loss(kind: str) -> None:
    layer = twins(make_mamba(d_model=6) if kind == "mamba" else make_grouped(d_model=6, d_state=6), "B")
    x = sequences(16, 24, 6)
    alone, together = (errors(layer.propose(3, spectrum=kept(layer, ORDER, x, mix))) for mix in (False, True))
    assert min(alone.calibration, alone.held_out) > 0.05
    assert max(together.calibration, together.held_out) < 1e-6


@BOTH
def test_states_that_are_read_alike_can_be_driven_together_without_a_loss(kind: str) -> None:
    layer = twins(make_mamba(d_model=6) if kind == "mamba" else make_grouped(d_model=6, d_state=6), "C")
    x, index = sequences(16, 24, 6), [0, 2, 4]
    groups = layer.signals(x).groups

    def seen() -> Iterable[Sample]:
        return samples(layer.signals, list(x))

    def keep(s: Signals) -> Signals:
        return s.with_states(s.A[..., index], s.B[..., index], s.C)

    eye = torch.eye(6, dtype=torch.float64)
    equations = write_equations(seen, keep, lambda s: s.C[..., index], eye.expand(groups, 6, 6))
    # h_n + f h_m is driven by B_n + f B_m, where C_m = f C_n
    F = eye[index] + torch.tensor([[0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0.5], [0, -1, 0, 0, 0, 0]]).double()
    for found in equations:
        assert found.error(eye[index].flatten()) > 1e-3 * found.energy
        assert found.error(F.flatten()) < 1e-12 * found.energy
        assert found.error(found.solve(1e-10, eye[index].flatten())) < 1e-9 * found.energy
    alone, together = (errors(layer.propose(3, spectrum=kept(layer, ORDER, x, mix))) for mix in (False, True))
    assert together.held_out < 0.7 * alone.held_out


def test_the_regression_sees_for_itself_which_half_of_the_states_suffices() -> None:
    layer = twins(make_mamba(), "B")
    found = errors(layer.propose(3, spectrum=spectrum_of(layer, sequences(16))))
    assert found.calibration < 1e-5
    assert found.held_out < 1e-5


@BOTH
@pytest.mark.parametrize("measure", [Regression(), ContributionEnergy()])
@pytest.mark.parametrize("rank", [1, 3])
def test_mixing_never_makes_held_out_errors_worse(kind: str, measure: Measure, rank: int) -> None:
    for seed in range(3):
        layer, x = make_layer(kind, seed), sequences(8, 20, seed=seed)
        alone, together = (
            errors(layer.propose(rank, spectrum=spectrum_of(layer, x, measure=measure, mix=mix)))
            for mix in (False, True)
        )
        assert together.held_out <= alone.held_out * (1 + 1e-9)
        assert together.calibration <= alone.calibration * (1 + 1e-9)


@pytest.fixture(scope="module")
def trained() -> tuple[torch.nn.Module, Mamba]:
    layer = make_mamba(d_state=8)
    model = make_net(layer)
    losses = train(model, torch.optim.AdamW(model.parameters(), 3e-2), 60)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    return model, layer


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_in_a_trained_layer_mixing_saves_much_of_what_selection_loses(
    trained: tuple[torch.nn.Module, Mamba], rank: int
) -> None:
    model, layer = trained
    found = {}
    for mix in (False, True):
        calibration = Calibration(net_batches(12, seed=5), mix=mix, measure=Regression())
        spectrum = layer.calibrated_spectrum(calibrate(model, {"layer": layer}, calibration)["layer"], calibration)
        found[mix] = errors(layer.propose(rank, spectrum=spectrum))
    assert found[True].held_out < 0.7 * found[False].held_out


def test_components_that_are_left_out_stay_as_selection_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compensation, "unknowns", lambda _: 4)
    monkeypatch.setattr(compensation, "_WRITE", 1.0)
    layer, x = make_mamba(), sequences()
    change, index = mixed(layer, [1, 4], x), torch.tensor([1, 4])
    selected = torch.eye(6, dtype=torch.float64)[index]
    for what in ("B", "C"):
        seen = getattr(layer.signals(x[:9]), what).flatten(0, 2)
        basis = torch.linalg.svd(seen).Vh[:2].mT  # two components are two states' share of four features
        moved = change.matrices(what)[0] - selected
        torch.testing.assert_close(moved @ basis @ basis.mT, moved, rtol=1e-6, atol=1e-6)
        assert moved.norm() > 0.01


def test_what_does_not_help_on_other_data_is_left_out() -> None:
    layer, order = make_mamba(), [5, 4, 3, 2, 1, 0]
    x = sequences(4, 3)
    x[:3] *= 1e-4  # hardly anything to learn from
    alone, together = (errors(layer.propose(2, spectrum=kept(layer, order, x, mix))) for mix in (False, True))
    assert together.held_out <= alone.held_out * (1 + 1e-9)


def test_half_precision_layers_lose_little_more_than_their_rounding() -> None:
    layer = twins(make_mamba(), "B")
    x = sequences(16)
    y = layer(x).detach()
    layer = layer.bfloat16()
    x = x.bfloat16()
    rounding = float((layer(x).detach().double() - y).norm() / y.norm())
    alone, together = (layer.propose(3, spectrum=kept(layer, ORDER, x, mix)) for mix in (False, True))
    assert all(t.dtype == torch.bfloat16 for t in together.tensors.values())
    assert errors(together).held_out < 0.2 * errors(alone).held_out
    assert errors(together).held_out < 2 * rounding


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_outputs_of_the_whole_model_move_less_on_data_that_nobody_has_seen(
    trained: tuple[torch.nn.Module, Mamba], rank: int
) -> None:
    model, layer = trained
    evidence = calibrate(model, {"layer": layer}, Calibration(net_batches(12, seed=5)))["layer"]
    x = torch.cat([u for u, _ in net_batches(12, seed=6)])
    moved = {}
    with torch.no_grad():
        y = model.eval()(x)
        for mix in (False, True):
            spectrum = layer.calibrated_spectrum(evidence, Calibration([], mix=mix, measure=Regression()))
            reduction = layer.propose(rank, spectrum=spectrum)
            changed = {f"layers.0.{name}": tensor for name, tensor in reduction.tensors.items()}
            moved[mix] = float((functional_call(model, changed, x) - y).norm() / y.norm())
    assert moved[True] < 0.7 * moved[False]
