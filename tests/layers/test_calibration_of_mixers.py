"""Calibration of mixers with masks, of layers that are called twice, and in lower precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gramian.errors import GramianError
from gramian.layers.calibration import Calibration, Evidence, TimeVarying, calibrate
from gramian.layers.reducible import reducible_layers
from gramian.layers.selective.adapter import SelectiveAdapter
from gramian.layers.selective.measures import Taylor
from selective_zoo import Net, make_mamba, make_net, net_batches

LOUD = Taylor()  # a measure that needs gradients


def seen(model: nn.Module, batches: Any, **settings: Any) -> dict[str, Evidence]:
    return calibrate(model, reducible_layers(model), Calibration(batches, **settings))


def rows(*batches: Tensor) -> list[Tensor]:
    return [row for batch in batches for row in batch]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether the same sequences are in both lists, in any order."""
    left = [next((i for i, y in enumerate(expected) if x.shape == y.shape and torch.equal(x, y)), -1) for x in found]
    return sorted(left) == list(range(len(expected)))


class Shifted(nn.Module):
    """A mixer of another library: takes a mask, and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = make_mamba()

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, str]:
        return self.mixer(hidden_states), "a cache"


class Adapter(SelectiveAdapter):
    """What stands for it."""

    @property
    def d_state(self) -> int:
        return self.module.mixer.d_state

    def signals(self, x: Tensor) -> Any:
        return self.module.mixer.signals(x)

    def layout(self) -> Any:
        raise NotImplementedError

    def resized_(self) -> None:
        self.module.mixer.resized_()


class Masked(nn.Module):
    """A model around it that puts padding before or after the real steps."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.layer, self.keyword = Shifted(), keyword

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        given = {"hidden_states": u} if self.keyword else {}
        y, _ = self.layer(*(() if self.keyword else (u,)), **given, attention_mask=mask)
        return y * mask[..., None]


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_evidence_and_gradients_stay_with_their_steps(side: str, keyword: bool) -> None:
    model = Masked(keyword)
    lengths = [5, 9, 0, 12, 3, 12, 1, 7]
    u = torch.randn(8, 12, 4, dtype=torch.float64)
    t = torch.arange(12)
    mask = torch.stack([t < n if side == "right" else t >= 12 - n for n in lengths])
    batch = {"u": u, "mask": mask.long()}

    def loss(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
        return (m(**b) * u).sum()  # the gradient of a real step is what it was given

    layers = {"layer": Adapter(model.layer)}
    evidence = calibrate(model, layers, Calibration([batch], measure=LOUD, loss=loss))["layer"]
    assert isinstance(layers["layer"], TimeVarying)
    real = [row[m] for row, m in zip(u, mask, strict=True) if m.any()]
    assert same(evidence.held_out, real[3::4])
    assert same(evidence.inputs, [row for i, row in enumerate(real) if i % 4 != 3])
    assert all(torch.equal(g, x) for g, x in zip(evidence.gradients, evidence.inputs, strict=True))


def test_a_shared_layer_is_seen_at_every_call_with_the_gradient_of_each() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make_mamba()

        def forward(self, u: Tensor) -> Tensor:
            return self.layer(self.layer(u)).square().sum()

    model, u = Twice(), torch.randn(4, 7, 4, dtype=torch.float64)
    evidence = seen(model, [u], measure=LOUD, loss=lambda m, b: m(b))["layer"]
    first = model.layer(u)
    second = model.layer(first)
    gradients = torch.autograd.grad(second.square().sum(), [first, second])
    x = rows(u, first.detach())
    for given, gradient in zip(evidence.inputs, evidence.gradients, strict=True):
        (i,) = [i for i, row in enumerate(x) if torch.allclose(row, given)]
        torch.testing.assert_close(gradient, rows(*gradients)[i])
    assert len(evidence.inputs) + len(evidence.held_out) == 8


def test_activation_checkpointing_shows_every_sequence_once() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make_mamba()

        def forward(self, u: Tensor) -> Tensor:
            return checkpoint(self.layer, u, use_reentrant=False).square().sum()

    model, u = Checkpointed(), torch.randn(5, 7, 4, dtype=torch.float64)
    evidence = seen(model, [u], measure=LOUD, loss=lambda m, b: m(b))["layer"]
    assert same([*evidence.inputs, *evidence.held_out], rows(u))
    for x, gradient in zip(evidence.inputs, evidence.gradients, strict=True):
        torch.testing.assert_close(gradient, 2 * model.layer(x[None])[0].detach())


def test_a_layer_may_be_called_with_a_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make_mamba()

        def forward(self, u: Tensor) -> Tensor:
            return self.layer(x=u)

    u = torch.randn(4, 7, 4, dtype=torch.float64)
    assert same(seen(Named(), [u])["layer"].held_out, rows(u)[3:])


@pytest.mark.parametrize("measure", [None, LOUD])
def test_a_model_that_calls_no_layer_is_told_so(measure: Taylor | None) -> None:
    model = nn.ModuleDict({"layer": make_mamba(), "used": nn.Linear(4, 1).double()})
    model.forward = model["used"].forward
    u = torch.randn(4, 7, 4, dtype=torch.float64)
    with pytest.raises(GramianError, match="no calibration sequence reached 'layer'"):
        seen(model, [u], measure=measure, loss=lambda m, b: m(b).sum())


@pytest.mark.parametrize("measure", [None, LOUD])
def test_under_autocast_evidence_can_be_run_through_the_layer_afterwards(measure: Taylor | None) -> None:
    model = Net(make_mamba(dtype=torch.float32), nn.Linear(4, 4), make_mamba(dtype=torch.float32), width=4).float()
    model.norms[2] = nn.Identity()

    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, u: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                x = self.net.encoder(u)
                return self.net.layers[2](self.net.layers[1](self.net.layers[0](x))).mean((1, 2))

    wrapped = Autocast()
    found = seen(
        wrapped, [u.float() for u, _ in net_batches(3)], measure=measure, loss=lambda m, u: m(u).square().sum()
    )
    for name, evidence in found.items():
        layer = reducible_layers(wrapped)[name]
        spectrum = layer.calibrated_spectrum(evidence, Calibration([], measure=measure))
        assert layer.propose(3, spectrum=spectrum).accepted


def test_half_precision_models_are_seen_in_half_precision() -> None:
    model = make_net(make_mamba(), dtype=torch.bfloat16)
    batches = [u.bfloat16() for u, _ in net_batches(3)]
    evidence = seen(model, batches, measure=LOUD, loss=lambda m, u: m(u).square().sum())["layers.0"]
    assert {x.dtype for x in evidence.inputs} == {g.dtype for g in evidence.gradients} == {torch.bfloat16}
