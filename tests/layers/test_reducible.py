"""Finding reducible layers, and the values they exchange: spectra, reductions, moment maps."""

from __future__ import annotations

import io

import pytest
import torch
from lru_examples import copied, inputs, make_lru
from torch import Tensor, nn

from gramian.errors import GramianError
from gramian.layers.lru import LRU
from gramian.layers.reducible import Reducible, Spectrum, assign_, reducible_layers, resize_like_
from gramian.layers.reduction import MomentMap, Reduction
from gramian.systems.projections import Choice, balanced, modal


class Residual(nn.Module):
    """A block that hides its layer one level deeper."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(3), nn.ModuleDict({"lru": layer})

    def forward(self, u: Tensor) -> Tensor:
        return u + self.inner["lru"](self.norm(u))


class Stub(nn.Module):
    """Somebody's own layer: the protocol and nothing else."""

    d_state = 1

    def spectrum(self) -> Spectrum:
        return Spectrum(torch.ones(1), "ones", 1)

    def propose(self, rank: int, choose: Choice = balanced) -> Reduction:
        raise NotImplementedError

    def apply_(self, reduction: Reduction) -> None:
        raise NotImplementedError


def stack(*sizes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), *(Residual(make_lru(d_state=n, seed=n)) for n in sizes), nn.Linear(3, 2))


def test_layers_are_found_by_path_in_order_however_deep() -> None:
    model = stack(4, 5)
    layers = reducible_layers(model)
    assert list(layers) == ["1.inner.lru", "2.inner.lru"]
    assert all(layer is model.get_submodule(name) for name, layer in layers.items())


def test_a_shared_layer_is_found_once() -> None:
    shared = make_lru()
    assert list(reducible_layers(nn.Sequential(shared, Residual(shared)))) == ["0"]


def test_a_model_that_is_itself_a_layer_is_found_under_the_empty_name() -> None:
    layer = make_lru()
    assert reducible_layers(layer) == {"": layer}


def test_any_module_with_the_four_members_is_reducible() -> None:
    assert isinstance(Stub(), Reducible)
    assert isinstance(make_lru(), Reducible)
    assert not isinstance(nn.Linear(2, 2), Reducible)
    assert list(reducible_layers(nn.Sequential(nn.Linear(1, 1), Stub()))) == ["1"]


def test_a_model_without_reducible_layers_is_refused_with_what_was_found() -> None:
    with pytest.raises(GramianError, match=r"Sequential has no layer .*\(found: GRU, Linear, Sequential\)"):
        reducible_layers(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)))


def test_a_cut_model_is_loaded_into_a_fresh_one() -> None:
    trained, fresh = stack(6, 7), stack(6, 7)
    for layer in reducible_layers(trained).values():
        layer.apply_(layer.propose(3))
    u = torch.randn(2, 11, 2)
    parameters = {name: id(p) for name, p in fresh.named_parameters()}
    untouched = fresh[1].norm.weight.data_ptr()
    resize_like_(fresh, trained.state_dict())
    assert fresh[1].norm.weight.data_ptr() == untouched
    fresh.load_state_dict(trained.state_dict())
    assert [layer.d_state for layer in reducible_layers(fresh).values()] == [3, 3]
    assert {name: id(p) for name, p in fresh.named_parameters()} == parameters
    assert torch.equal(fresh(u), trained(u))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    model = stack(4)
    before = copied(model)
    resize_like_(model, model.state_dict())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_reduction_comes_back_from_a_file_of_plain_values_as_the_same() -> None:
    layer, twin = make_lru(), make_lru()
    reduction = layer.propose(3)
    file = io.BytesIO()
    torch.save(reduction.state_dict(), file)
    file.seek(0)
    loaded = Reduction.from_state_dict(torch.load(file, weights_only=True))
    gradients = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    for name, moment_map in reduction.moments.items():
        assert loaded.moments[name].sources == moment_map.sources
        for order in (1, 2):
            assert torch.equal(loaded.moments[name].carry(gradients, order), moment_map.carry(gradients, order))
    assert loaded.measurement == reduction.measurement
    assert (loaded.before, loaded.after, loaded.asked, loaded.reason, loaded.seconds) == (
        *(8, 3, 3, ""),
        reduction.seconds,
    )
    layer.apply_(reduction)
    twin.apply_(loaded)
    assert all(torch.equal(p, twin.get_parameter(name)) for name, p in layer.named_parameters())


@pytest.mark.parametrize("choose", [modal, balanced])
def test_a_reduction_without_measurement_or_bound_comes_back_too(choose: Choice) -> None:
    layer = make_lru()
    with torch.no_grad():
        if choose is balanced:
            layer.C_re.zero_(), layer.C_im.zero_()  # refused: nothing to measure
    reduction = layer.propose(3, choose)
    loaded = Reduction.from_state_dict(reduction.state_dict())
    assert loaded.measurement == reduction.measurement
    assert (loaded.accepted, loaded.reason) == (reduction.accepted, reduction.reason)


@pytest.mark.parametrize("dim", [0, 1])
def test_a_moment_map_is_a_matrix_along_the_dimension_of_the_states(dim: int) -> None:
    first, second = torch.randn(3, 10, dtype=torch.float64), torch.rand(3, 10, dtype=torch.float64)
    shape = (5, 4) if dim == 0 else (4, 5)
    moments = {name: torch.randn(shape) for name in ("one", "two", "unrelated")}
    carried = MomentMap(("one", "two"), first, second, dim)
    for order, matrix in ((1, first), (2, second)):
        if dim == 0:
            expected = matrix @ torch.cat([moments["one"], moments["two"]], 0).double()
        else:
            expected = torch.cat([moments["one"], moments["two"]], 1).double() @ matrix.mT
        result = carried.carry(moments, order)
        assert torch.equal(result, expected.float())
        assert result.is_contiguous()


def test_a_moment_map_carries_vectors_in_their_own_dtype() -> None:
    matrix = torch.randn(2, 6, dtype=torch.float64)
    moment_map = MomentMap(("one", "two"), matrix, matrix.square())
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        moments = {"one": torch.randn(3, dtype=dtype), "two": torch.randn(3, dtype=dtype)}
        result = moment_map.carry(moments, 1)
        assert result.dtype == dtype
        torch.testing.assert_close(result, (matrix @ torch.cat([*moments.values()]).double()).to(dtype))


@pytest.mark.parametrize("per_state", [1, 2])
def test_a_spectrum_knows_how_many_states_hold_its_values(per_state: int) -> None:
    spectrum = Spectrum(torch.ones(6 * per_state, dtype=torch.float64), "ones", 6)
    for order in range(1, 6 * per_state + 1):
        states = spectrum.d_state_for(order)
        assert states * per_state >= order
        assert states == 1 or (states - 1) * per_state < order
    assert spectrum.d_state_for(0) == 1


@pytest.mark.parametrize("with_system", [True, False])
def test_a_spectrum_comes_back_from_a_file_of_plain_values(with_system: bool) -> None:
    spectrum = make_lru().spectrum()
    if not with_system:
        spectrum = Spectrum(spectrum.values, "scores", spectrum.d_state)
    file = io.BytesIO()
    torch.save(spectrum.state_dict(), file)
    file.seek(0)
    loaded = Spectrum.from_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(loaded.values, spectrum.values)
    assert (loaded.measure, loaded.d_state) == (spectrum.measure, spectrum.d_state)
    assert (loaded.system is None) == (spectrum.system is None)
    if loaded.system is not None and spectrum.system is not None:
        assert all(torch.equal(getattr(loaded.system, f), getattr(spectrum.system, f)) for f in ("A", "B", "C", "D"))
        assert torch.equal(loaded.system.log_poles, spectrum.system.log_poles)
        assert (loaded.system.real_part, loaded.system.name) == (True, spectrum.system.name)


def test_a_spectrum_knows_what_is_lost() -> None:
    spectrum = Spectrum(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64), "four", 4)
    assert [spectrum.discarded(order) for order in range(5)] == pytest.approx([1.0, 0.6, 0.3, 0.1, 0.0], abs=1e-15)
    assert Spectrum(torch.zeros(3), "none", 3).discarded(1) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_assigning_keeps_the_parameter_and_copies_the_value(dtype: torch.dtype) -> None:
    parameter = nn.Parameter(torch.randn(4, dtype=dtype))
    parameter.flag = "kept"
    alive = (parameter * 2).sum()
    alive.backward()
    value = torch.randn(2, 3, dtype=torch.float64)
    assign_(parameter, value)
    assert parameter.grad is None
    assert (parameter.dtype, parameter.flag, parameter.requires_grad) == (dtype, "kept", True)
    assert torch.equal(parameter, value.to(dtype))
    (parameter * 2).sum().backward()
    assert torch.equal(parameter.grad, torch.full((2, 3), 2.0, dtype=dtype))
    value.zero_()
    assert parameter.any()
    assert alive.isfinite()


def test_layers_of_one_model_do_not_mix() -> None:
    model = stack(6, 7)
    first, second = reducible_layers(model).values()
    assert isinstance(second, LRU)
    before, u = copied(second), inputs(second)
    y = second(u)
    first.apply_(first.propose(2))
    assert all(torch.equal(p, before[name]) for name, p in second.named_parameters())
    assert torch.equal(second(u), y)
