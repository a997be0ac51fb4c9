"""A selective layer shows a spectrum of data, proposes a smaller self without a change, and becomes it."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import Tensor

from gramian.errors import GramianError, ShapeError
from gramian.layers.calibration import Calibration
from gramian.layers.mamba import Mamba
from gramian.layers.reducible import Reducible, Spectrum
from gramian.layers.reduction import IndexMap, MomentMap, OutputError, Reduction
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.measures import Balanced, ContributionEnergy, Magnitude, Taylor
from gramian.systems.projections import Keep, balanced, modal
from selective_zoo import evidence_of, make_grouped, make_layer, make_mamba, sequences, spectrum_of

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])
X = sequences(12, 20)
RANK = 3


def measured(reduction: Reduction) -> OutputError:
    assert isinstance(reduction.measurement, OutputError)
    return reduction.measurement


def kept_columns(layer: SelectiveLayer, before: Tensor) -> list[int]:
    """Which columns of A the layer has kept."""
    return [int((before == column[:, None]).all(0).nonzero()) for column in layer.get_parameter("A_log").detach().mT]


@BOTH
@pytest.mark.parametrize("mix", [False, True])
def test_a_proposal_says_what_the_applied_layer_does(kind: str, mix: bool) -> None:
    layer = make_layer(kind)
    y = layer(X).detach()
    spectrum = spectrum_of(layer, X, mix=mix)
    reduction = layer.propose(RANK, spectrum=spectrum)
    assert reduction.accepted
    assert (reduction.before, reduction.after, reduction.asked) == (layer.d_state, RANK, RANK)
    layer.apply_(reduction)
    assert layer.d_state == RANK
    errors = [(layer(X[part]) - y[part]).norm() / y[part].norm() for part in (slice(9), slice(9, 12))]
    found = measured(reduction)
    assert [found.calibration, found.held_out] == pytest.approx([float(e.detach()) for e in errors], rel=1e-9)
    assert found.discarded == pytest.approx(float(spectrum.values[RANK:].sum() / spectrum.values.sum()))
    assert found.tokens == 9 * 20
    assert reduction.seconds > 0


@BOTH
def test_propose_changes_nothing(kind: str) -> None:
    layer = make_layer(kind).train()
    layer.register_buffer("seen", torch.ones(3))
    layer(X).sum().backward()
    spectrum = spectrum_of(layer, X)
    before = copy.deepcopy(layer.state_dict())
    versions = {name: p._version for name, p in layer.named_parameters()}
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters()}
    random_numbers, attributes = torch.get_rng_state(), {k: v for k, v in vars(layer).items() if not k.startswith("_")}
    one, two = (layer.propose(RANK, spectrum=spectrum) for _ in range(2))
    spectrum_of(layer, X)
    for name, p in layer.named_parameters():
        assert p._version == versions[name]
        assert torch.equal(p.grad, gradients[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert layer.state_dict().keys() == before.keys()
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert {k: v for k, v in vars(layer).items() if not k.startswith("_")} == attributes
    assert all(m.training for m in layer.modules())
    assert one.measurement == two.measurement
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_parameters_keep_identity_flags_and_groups(mix: bool, dtype: torch.dtype) -> None:
    layer = make_mamba(dtype=dtype)
    layer.x_proj.weight.requires_grad_(False)
    layer.x_proj.weight.mine = "kept"
    optimizer = torch.optim.SGD([{"params": [layer.A_log]}, {"params": [layer.D], "lr": 0.5}], lr=0.1)
    parameters = dict(layer.named_parameters())
    x = X.to(dtype)
    layer(x).sum().backward()
    layer.apply_(layer.propose(RANK, spectrum=spectrum_of(layer, x, mix=mix)))
    assert {name: id(p) for name, p in layer.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert all(isinstance(p, torch.nn.Parameter) and p.dtype == dtype for p in layer.parameters())
    assert {name for name, p in parameters.items() if getattr(p, "_no_weight_decay", False)} == {
        "A_log",
        "D",
        "dt_proj.bias",
    }
    assert layer.x_proj.weight.mine == "kept"
    assert not layer.x_proj.weight.requires_grad
    assert optimizer.param_groups[0]["params"][0] is layer.A_log
    assert layer.A_log.grad is None
    assert layer.D.grad is not None
    assert (layer.A_log.shape, layer.x_proj.weight.shape) == ((8, RANK), (layer.dt_rank + 2 * RANK, 8))
    assert layer.x_proj.out_features == layer.dt_rank + 2 * RANK
    layer(x).sum().backward()
    assert layer.A_log.grad.shape == (8, RANK)


@BOTH
def test_the_reduced_layer_runs_in_all_its_forms(kind: str) -> None:
    layer = make_layer(kind)
    layer.apply_(layer.propose(1, spectrum=spectrum_of(layer, X)))
    assert torch.equal(copy.deepcopy(layer)(X), layer(X))
    again = layer.propose(1, spectrum=spectrum_of(layer, X))
    assert (again.before, again.after, measured(again).calibration) == (1, 1, 0.0)
    if isinstance(layer, Mamba):
        y, final = layer.scan(X)
        state = layer.initial_state(12)
        for t in range(20):
            y_t, state = layer.step(X[:, t], state)
            torch.testing.assert_close(y_t, y[:, t], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-11)


@BOTH
@pytest.mark.parametrize("mix", [False, True])
def test_full_rank_leaves_the_layer_as_it_was(kind: str, mix: bool) -> None:
    layer = make_layer(kind)
    before = copy.deepcopy(layer.state_dict())
    reduction = layer.propose(layer.d_state, spectrum=spectrum_of(layer, X, mix=mix))
    assert measured(reduction) == OutputError(0.0, 0.0, 0.0, 180)
    layer.apply_(reduction)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


@BOTH
@pytest.mark.parametrize("mix", [False, True])
def test_a_reduction_comes_back_from_a_file_of_plain_values_as_the_same(kind: str, mix: bool) -> None:
    layer, twin = make_layer(kind), make_layer(kind)
    reduction = layer.propose(RANK, spectrum=spectrum_of(layer, X, mix=mix))
    file = io.BytesIO()
    torch.save(reduction.state_dict(), file)
    file.seek(0)
    loaded = Reduction.from_state_dict(torch.load(file, weights_only=True))
    moments = {name: torch.rand_like(p) for name, p in layer.named_parameters()}
    kinds = {type(m) for m in reduction.moments.values()}
    assert kinds == ({IndexMap, MomentMap} if mix else {IndexMap})
    for name, moment_map in reduction.moments.items():
        assert type(loaded.moments[name]) is type(moment_map)
        assert loaded.moments[name].sources == moment_map.sources
        for order in (1, 2):
            assert torch.equal(loaded.moments[name].carry(moments, order), moment_map.carry(moments, order))
    assert loaded.measurement == reduction.measurement
    assert (loaded.before, loaded.after, loaded.asked, loaded.reason, loaded.seconds) == (
        *(layer.d_state, RANK, RANK, ""),
        reduction.seconds,
    )
    layer.apply_(reduction)
    twin.apply_(loaded)
    assert all(torch.equal(p, twin.get_parameter(name)) for name, p in layer.named_parameters())


def test_the_largest_the_smallest_or_random_states_are_kept() -> None:
    layer = make_mamba()
    spectrum = spectrum_of(layer, X, measure=ContributionEnergy())
    before = layer.A_log.detach().clone()
    order = spectrum.calibrated.ranking.order[0].tolist()
    errors, chosen = {}, {}
    choices = {"none": balanced, "largest": Keep(), "smallest": Keep("smallest")}
    choices |= {seed: Keep("random", seed=seed) for seed in range(6)}
    for name, choose in choices.items():
        twin = copy.deepcopy(layer)
        twin.apply_(twin.propose(RANK, choose, spectrum=spectrum))
        chosen[name] = kept_columns(twin, before)
        errors[name] = measured(layer.propose(RANK, choose, spectrum=spectrum)).calibration
    assert chosen["none"] == chosen["largest"] == sorted(order[:RANK])
    assert chosen["smallest"] == sorted(order[RANK:])
    assert len({tuple(chosen[seed]) for seed in range(6)}) > 1
    assert errors["largest"] < errors["smallest"]


@BOTH
def test_groups_keep_states_of_their_own(kind: str) -> None:
    layer = make_layer(kind)
    spectrum = spectrum_of(layer, X, measure=ContributionEnergy())
    reduction = layer.propose(2, spectrum=spectrum)
    index = reduction.moments["A_log"].index.view(-1, 2)
    for g, order in enumerate(spectrum.calibrated.ranking.order):
        assert index[g].tolist() == [g * layer.d_state + n for n in order[:2].sort().values.tolist()]


@pytest.mark.parametrize("rank", [0, 7, -1])
def test_a_rank_that_the_layer_does_not_have_is_refused(rank: int) -> None:
    layer = make_mamba()
    with pytest.raises(ShapeError, match=rf"rank {rank} was asked of a layer with 6 states"):
        layer.propose(rank, spectrum=spectrum_of(layer, X))


def test_without_data_there_is_neither_a_spectrum_nor_a_proposal() -> None:
    layer = make_mamba()
    stored = Spectrum.from_state_dict(spectrum_of(layer, X).state_dict())
    for ask in (
        layer.spectrum,
        lambda: layer.propose(2),
        lambda: layer.propose(2, spectrum=spectrum_of(layer, X).light()),
        lambda: layer.propose(2, spectrum=stored),
    ):
        with pytest.raises(GramianError, match=r"spectrum of Mamba depends on data(.|\n)*calibration=Calibration"):
            ask()


def test_projections_of_linear_systems_are_refused_with_what_can_be_given() -> None:
    layer = make_mamba()
    with pytest.raises(GramianError, match=r'modal.*not time-invariant(.|\n)*Keep\("smallest"\)'):
        layer.propose(2, modal, spectrum=spectrum_of(layer, X))


def test_a_reduction_can_be_applied_once() -> None:
    layer = make_mamba()
    reduction = layer.propose(RANK, spectrum=spectrum_of(layer, X))
    layer.apply_(reduction)
    with pytest.raises(ShapeError, match=r"from 6 to 3 states was given to a layer with 3(.|\n)*can be applied once"):
        layer.apply_(reduction)


def test_a_refused_reduction_cannot_be_applied() -> None:
    layer = make_mamba()
    refusal = Reduction(6, 6, 3, {}, {}, None, "no reason at all")
    with pytest.raises(ShapeError, match="no reason at all"):
        layer.apply_(refusal)


def test_a_spectrum_says_what_was_measured_and_that_nothing_is_guaranteed() -> None:
    layer = make_mamba()
    spectrum = spectrum_of(layer, X)
    assert spectrum.measure == "regression (180 calibration steps; no a-priori guarantee)"
    assert (spectrum.d_state, len(spectrum.values), spectrum.values.dtype) == (6, 6, torch.float64)
    assert (spectrum.values.diff() <= 0).all()
    assert not spectrum.comparable
    assert spectrum.system is None
    assert math.isnan(spectrum.norm)
    back = Spectrum.from_state_dict(spectrum.state_dict())
    assert torch.equal(back.values, spectrum.values)
    assert (back.measure, back.d_state, back.comparable, back.calibrated) == (spectrum.measure, 6, False, None)
    assert isinstance(layer, Reducible)


def test_the_default_measure_is_made_for_the_mixing_that_follows() -> None:
    layer = make_mamba()
    assert spectrum_of(layer, X).measure.startswith("regression")
    assert spectrum_of(layer, X, mix=False).measure.startswith("energy")
    assert spectrum_of(layer, X, measure=Magnitude()).measure.startswith("magnitude")


def test_scores_of_the_loss_make_comparable_spectra() -> None:
    layer = make_grouped()
    evidence = evidence_of(X, sequences(12, 20, seed=1))
    spectrum = layer.calibrated_spectrum(evidence, Calibration([], measure=Taylor()))
    assert spectrum.comparable
    assert Spectrum.from_state_dict(spectrum.state_dict()).comparable


def test_balanced_directions_are_refused_where_states_are_forgotten_at_different_rates() -> None:
    with pytest.raises(GramianError, match=r"'balanced' was given for Mamba(.|\n)*different rates"):
        spectrum_of(make_mamba(), X, measure=Balanced())
