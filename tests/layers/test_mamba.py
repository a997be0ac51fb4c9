"""Mamba computes the paper's equations, in every form, under the names that others store its weights with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gramian.errors import ShapeError
from gramian.layers.mamba import Mamba, MambaState
from gramian.layers.reducible import Reducible, reducible_layers, resize_like_
from selective_zoo import make_mamba, sequences

CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def by_the_paper(layer: Mamba, x: Tensor) -> Tensor:
    """The equations of section 3, one number after the other, for one sequence ``(L, d_model)``."""
    p = dict(layer.named_parameters())
    rank, N, inner, width = layer.dt_rank, layer.d_state, layer.d_inner, layer.d_conv
    A, h = -p["A_log"].exp(), torch.zeros(inner, N, dtype=x.dtype)
    past, outputs = [torch.zeros(inner, dtype=x.dtype)] * (width - 1), []
    for x_t in x:
        xz = p["in_proj.weight"] @ x_t + p.get("in_proj.bias", 0)
        past, z = [*past, xz[:inner]], xz[inner:]
        u = sum(p["conv1d.weight"][:, 0, k] * past[len(past) - width + k] for k in range(width))
        u = u + p.get("conv1d.bias", 0)
        u = u / (1 + (-u).exp())
        projected = p["x_proj.weight"] @ u
        dt, B, C = projected[:rank], projected[rank : rank + N], projected[rank + N :]
        delta = (1 + (p["dt_proj.weight"] @ dt + p["dt_proj.bias"]).exp()).log()
        h = torch.stack([(delta[c] * A[c]).exp() * h[c] + delta[c] * B * u[c] for c in range(inner)])
        y = (h @ C + p["D"] * u) * z / (1 + (-z).exp())
        outputs.append(p["out_proj.weight"] @ y + p.get("out_proj.bias", 0))
    return torch.stack(outputs)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("length", [1, 2, 13])
def test_outputs_and_gradients_are_those_of_a_plain_loop(length: int, biased: bool) -> None:
    torch.manual_seed(0)
    layer = Mamba(3, 5, d_conv=3, dt_rank=2, conv_bias=biased, bias=biased, dt_min=0.1, dt_max=1.0).double()
    x = sequences(2, length, 3).requires_grad_()
    expected = torch.stack([by_the_paper(layer, row) for row in x])
    y = layer(x)
    torch.testing.assert_close(y, expected, **CLOSE)
    wanted = [x, *layer.parameters()]
    weights = torch.randn_like(y)
    found, plain = (torch.autograd.grad((out * weights).sum(), wanted) for out in (y, expected))
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize("batch", [1, 3])
def test_steps_and_pieces_are_the_whole(batch: int) -> None:
    layer = make_mamba()
    x = sequences(batch, 13)
    y, final = layer.scan(x)
    torch.testing.assert_close(layer(x), y, **CLOSE)
    state = layer.initial_state(batch)
    for t in range(13):
        y_t, state = layer.step(x[:, t], state)
        torch.testing.assert_close(y_t, y[:, t], **CLOSE)
    torch.testing.assert_close(state, final, **CLOSE)
    pieces, last = [], None
    for piece in x.split([1, 2, 7, 3], 1):
        out, last = layer.scan(piece, last)
        pieces.append(out)
    torch.testing.assert_close(torch.cat(pieces, 1), y, **CLOSE)
    assert isinstance(last, MambaState)
    torch.testing.assert_close(last, final, **CLOSE)
    assert (final.conv.shape, final.ssm.shape) == ((batch, 3, 8), (batch, 8, 6))


def test_gradients_reach_back_through_the_state() -> None:
    layer = make_mamba()
    x = sequences(2, 10)
    wanted = list(layer.parameters())
    whole = torch.autograd.grad(layer(x).square().sum(), wanted)
    first, state = layer.scan(x[:, :4])
    second, _ = layer.scan(x[:, 4:], state)
    pieces = torch.autograd.grad(first.square().sum() + second.square().sum(), wanted)
    for mine, theirs in zip(pieces, whole, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_an_output_depends_on_no_later_input() -> None:
    layer, x = make_mamba(), sequences(1, 12)
    later = x.clone()
    later[:, 7:] += 1
    torch.testing.assert_close(layer(later)[:, :7], layer(x)[:, :7], rtol=0, atol=0)
    assert not torch.allclose(layer(later)[:, 7], layer(x)[:, 7])


@pytest.mark.parametrize(("d_model", "expand", "d_conv", "N", "rank"), [(32, 2, 4, 16, 2), (20, 3, 2, 7, 2)])
def test_weights_have_the_names_and_shapes_that_mamba_ssm_gives_them(
    d_model: int, expand: int, d_conv: int, N: int, rank: int
) -> None:
    inner = expand * d_model
    shapes = {name: tuple(t.shape) for name, t in Mamba(d_model, N, expand=expand, d_conv=d_conv).state_dict().items()}
    assert shapes == {
        "A_log": (inner, N),
        "D": (inner,),
        "in_proj.weight": (2 * inner, d_model),
        "conv1d.weight": (inner, 1, d_conv),
        "conv1d.bias": (inner,),
        "x_proj.weight": (rank + 2 * N, inner),
        "dt_proj.weight": (inner, rank),
        "dt_proj.bias": (inner,),
        "out_proj.weight": (d_model, inner),
    }


def test_it_starts_as_the_paper_says() -> None:
    torch.manual_seed(0)
    layer = Mamba(64, 16, dt_min=1e-3, dt_max=0.1)
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 17).expand(128, 16))
    assert torch.equal(layer.D, torch.ones(128))
    steps = nn.functional.softplus(layer.dt_proj.bias.detach().double())
    assert 1e-3 * 0.999 <= float(steps.min()) < 2e-3
    assert 0.05 < float(steps.max()) <= 0.1 * 1.001
    assert float(layer.dt_proj.weight.detach().abs().max()) <= layer.dt_rank**-0.5 == 0.5


def test_parameters_that_must_not_decay_say_so_also_after_a_cast() -> None:
    for layer in (Mamba(4), Mamba(4).double()):
        flagged = {name for name, p in layer.named_parameters() if getattr(p, "_no_weight_decay", False)}
        assert flagged == {"A_log", "D", "dt_proj.bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_gives_outputs_and_gradients_of_its_own(dtype: torch.dtype) -> None:
    exact, layer = make_mamba(), make_mamba(dtype=dtype)
    x = sequences(2, 16).to(dtype)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in layer.parameters())
    expected = exact(x.double())
    room = {torch.bfloat16: 0.05, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    assert (y.double() - expected).norm() < room * expected.norm()
    stepped, _ = layer.step(x[:, 0], layer.initial_state(2))
    assert stepped.dtype == dtype


def test_it_is_a_reducible_layer_that_is_found_by_its_path() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"mixer": make_mamba()}))
    (found,) = reducible_layers(model).items()
    assert found == ("1.mixer", model[1]["mixer"])
    assert isinstance(found[1], Reducible)
    assert "d_model=4, d_state=6" in repr(model)


def test_a_layer_takes_the_size_of_the_weights_it_is_to_load() -> None:
    large, small = make_mamba(d_state=6), make_mamba(d_state=2, seed=1)
    parameters = {name: id(p) for name, p in large.named_parameters()}
    resize_like_(large, small.state_dict())
    large.load_state_dict(small.state_dict())
    x = sequences(2, 9)
    assert torch.equal(large(x), small(x))
    assert (large.d_state, large.x_proj.out_features) == (2, large.dt_rank + 4)
    assert {name: id(p) for name, p in large.named_parameters()} == parameters
    assert large.A_log._no_weight_decay


@pytest.mark.parametrize("sizes", [{"d_model": 0}, {"d_state": 0}, {"d_conv": 0}, {"expand": 0}, {"dt_rank": 0}])
def test_sizes_that_cannot_be_are_refused(sizes: dict[str, int]) -> None:
    (name, value) = next(iter(sizes.items()))
    with pytest.raises(ShapeError, match=rf"{name}={value}.*at least 1 of each"):
        Mamba(**{"d_model": 4, **sizes})


def test_weights_of_transformers_give_the_same_layer() -> None:
    pytest.importorskip("transformers")
    from transformers.models.mamba.configuration_mamba import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    config = MambaConfig(hidden_size=24, state_size=5, num_hidden_layers=1, use_bias=True, vocab_size=8)
    theirs = MambaMixer(config, 0).double().eval()
    with torch.no_grad():
        theirs.x_proj.weight *= 3
    mine = Mamba(24, 5, bias=True).double()
    mine.load_state_dict(theirs.state_dict())
    assert mine.dt_rank == theirs.time_step_rank == math.ceil(24 / 16)
    x = sequences(2, 17, 24)
    expected, y = theirs(x), mine(x)
    # their A is rounded to float32
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    expected.square().sum().backward()
    y.square().sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, p in mine.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name].grad, rtol=1e-4, atol=1e-5)
    theirs.load_state_dict(mine.state_dict())
