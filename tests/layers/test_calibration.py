"""Calibration sees what the layers see, with the gradients autograd gives, and leaves no trace in the model."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gramian.errors import GramianError
from gramian.layers.calibration import Calibration, Evidence, TimeVarying, calibrate
from gramian.layers.reducible import reducible_layers
from gramian.layers.selective.measures import ContributionEnergy, Taylor
from selective_zoo import Net, make_mamba, make_net, net_batches, squared_error

LOUD = Taylor()  # a measure that needs gradients


def seen(model: nn.Module, batches: Any, **settings: Any) -> dict[str, Evidence]:
    layers = {name: layer for name, layer in reducible_layers(model).items() if isinstance(layer, TimeVarying)}
    return calibrate(model, layers, Calibration(batches, **settings))


def rows(*batches: Tensor) -> list[Tensor]:
    return [row for batch in batches for row in batch]


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether the same sequences are in both lists, in any order."""
    left = list(expected)
    for x in found:
        match = next((i for i, y in enumerate(left) if x.shape == y.shape and torch.allclose(x, y)), None)
        if match is None:
            return False
        left.pop(match)
    return not left


def inputs_and_gradients(model: Net, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """By hand, in evaluation mode: what every layer is given, and the gradient of the loss by its output."""
    x, kept = model.encoder(batch[0]), {}
    for i, (norm, layer) in enumerate(zip(model.norms, model.layers, strict=True)):
        given = norm(x)
        y = layer(given)
        kept[f"layers.{i}"] = (given, y)
        x = x + y
    loss = (model.head(x.mean(1))[:, 0] - batch[1]).square().mean()
    gradients = torch.autograd.grad(loss, [y for _, y in kept.values()])
    return {name: (x.detach(), g) for (name, (x, _)), g in zip(kept.items(), gradients, strict=True)}


@pytest.mark.parametrize("frozen", [False, True])
def test_evidence_is_what_layers_are_given_and_gradients_are_those_of_autograd(frozen: bool) -> None:
    model, batches = make_net(), net_batches(3)
    expected = [inputs_and_gradients(copy.deepcopy(model).eval(), batch) for batch in batches]
    model.requires_grad_(not frozen)
    found = seen(model, batches, measure=LOUD, loss=squared_error)
    assert list(found) == ["layers.0", "layers.1"]
    for name, evidence in found.items():
        x = rows(*(e[name][0] for e in expected))
        assert same(evidence.held_out, x[3::4])
        assert same(evidence.inputs, [row for i, row in enumerate(x) if i % 4 != 3])
        gradients = rows(*(e[name][1] for e in expected))
        for given, gradient in zip(evidence.inputs, evidence.gradients, strict=True):
            (i,) = [i for i, row in enumerate(x) if torch.allclose(row, given)]
            torch.testing.assert_close(gradient, gradients[i], rtol=1e-9, atol=1e-12)
        assert evidence.tokens == 9 * 16


def test_without_a_measure_that_needs_them_there_are_no_gradients() -> None:
    for measure in (None, ContributionEnergy()):
        for evidence in seen(make_net(), net_batches(2), measure=measure).values():
            assert evidence.gradients is None


@pytest.mark.parametrize("measure", [None, LOUD])
def test_nothing_in_the_model_is_different_afterwards(measure: Taylor | None) -> None:
    model = make_net()
    model.add_module("bn", nn.BatchNorm1d(3))
    model.register_forward_pre_hook(lambda module, args: (module.bn(args[0].mT.float()).mT.double(),))
    model.layers[0].eval()
    squared_error(model, net_batches(1)[0]).backward()
    before, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    random_numbers = torch.get_rng_state()
    loader = DataLoader(torch.cat([u for u, _ in net_batches(3)]), batch_size=4, shuffle=True)
    seen(model, loader, measure=measure, loss=lambda m, u: m(u).square().sum())
    assert [m.training for m in model.modules()] == flags
    assert flags[0] is True
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert torch.equal(torch.get_rng_state(), random_numbers)


def test_the_model_runs_in_evaluation_mode_and_comes_back_when_a_batch_fails() -> None:
    model = make_net()
    modes: list[bool] = []
    model.dropout.register_forward_pre_hook(lambda m, args: modes.append(m.training))
    with pytest.raises(RuntimeError):
        seen(model, [net_batches(1)[0], torch.zeros(2, 5, 99).double()])
    assert modes
    assert not any(modes)
    assert all(m.training for m in model.modules())
    assert not model.layers[0]._forward_pre_hooks


class Keyed(nn.Module):
    """Takes keywords, and returns an output with a loss, as models of transformers do."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        y = self.net(inputs)
        return SimpleNamespace(logits=y, loss=None if labels is None else (y - labels).square().mean())


def as_dictionary(batch: tuple[Tensor, Tensor]) -> Any:
    return {"inputs": batch[0], "labels": batch[1]}


def as_user_dictionary(batch: tuple[Tensor, Tensor]) -> Any:
    return UserDict(as_dictionary(batch))


@pytest.mark.parametrize("form", [as_dictionary, as_user_dictionary, lambda b: b, lambda b: list(b), lambda b: b[0]])
def test_batches_of_every_form_reach_the_layers(form: Callable[[Any], Any]) -> None:
    net, batches = make_net(), net_batches(2)
    expected = seen(net, batches)
    found = seen(Keyed(net), [form(batch) for batch in batches])
    for name, evidence in expected.items():
        assert same(found[f"net.{name}"].inputs, evidence.inputs)
        assert same(found[f"net.{name}"].held_out, evidence.held_out)


def test_a_loss_that_the_model_returns_is_used_unless_another_one_is_given() -> None:
    net, batches = make_net(), net_batches(2)
    keyed = [as_dictionary(batch) for batch in batches]
    own = seen(Keyed(net), keyed, measure=LOUD)["net.layers.0"]
    told = seen(net, batches, measure=LOUD, loss=squared_error)["layers.0"]
    double = seen(Keyed(net), keyed, measure=LOUD, loss=lambda m, b: 2 * m(**b).loss)["net.layers.0"]
    for a, b, c in zip(own.gradients, told.gradients, double.gradients, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(c, 2 * a)


def test_a_loss_that_is_missing_is_asked_for() -> None:
    for batch in ({"inputs": net_batches(1)[0][0]}, net_batches(1)[0]):
        with pytest.raises(GramianError, match=r"'taylor' needs gradients(.|\n)*loss=lambda model, batch"):
            seen(Keyed(make_net()), [batch], measure=LOUD)


def test_an_iterator_is_used_up_and_a_list_is_not() -> None:
    model, batches = make_net(), net_batches(2)
    once = Calibration(iter(batches))
    again = Calibration(batches)
    layers = reducible_layers(model)
    assert calibrate(model, layers, once)["layers.0"].tokens == 6 * 16
    with pytest.raises(GramianError, match=r"no calibration sequence reached 'layers.0'(.|\n)*Give a list"):
        calibrate(model, layers, once)
    one, two = (calibrate(model, layers, again)["layers.1"] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.inputs, two.inputs, strict=True))


def test_a_layer_that_is_never_called_is_named() -> None:
    model = make_net()
    model.add_module("spare", make_mamba())
    with pytest.raises(GramianError, match="no calibration sequence reached 'spare'"):
        seen(model, net_batches(1))


@pytest.mark.parametrize("measure", [None, LOUD])
def test_no_more_steps_are_kept_than_asked_for_and_no_sequence_is_on_both_sides(measure: Taylor | None) -> None:
    model, batches = make_net(), net_batches(12) + net_batches(3, length=40, seed=9)
    for tokens in (1, 50, 64):
        for evidence in seen(model, batches, measure=measure, loss=squared_error, tokens=tokens).values():
            assert evidence.tokens == tokens
            assert sum(len(x) for x in evidence.held_out) == max(1, tokens // 3)
            starts = {tuple(x[0].tolist()) for x in evidence.inputs}
            assert not starts & {tuple(x[0].tolist()) for x in evidence.held_out}
            if measure is not None:
                assert [len(g) for g in evidence.gradients] == [len(x) for x in evidence.inputs]


def test_the_seed_decides_which_sequences_and_all_layers_keep_the_same_ones() -> None:
    class Both(nn.Module):
        """Two layers that are given the same."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.encoder = make_mamba(), make_mamba(d_state=3), make_net().encoder

        def forward(self, u: Tensor) -> Tensor:
            return self.one(self.encoder(u)) + self.two(self.encoder(u))

    found = [seen(Both(), net_batches(12), tokens=64, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (e["one"].inputs for e in found)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first, other)
    assert all(torch.equal(a, b) for a, b in zip(first, found[0]["two"].inputs, strict=True))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_very_few_sequences_the_ends_are_held_out(count: int) -> None:
    batch = net_batches(1, size=count, length=17)[0]
    evidence = seen(make_net(), [batch], measure=LOUD, loss=squared_error)["layers.0"]
    whole = inputs_and_gradients(make_net().eval(), batch)["layers.0"]
    assert same(evidence.inputs, rows(whole[0][:, :13]))
    assert same(evidence.held_out, rows(whole[0][:, 13:]))
    assert same(evidence.gradients, rows(whole[1][:, :13]))


def test_single_steps_hold_nothing_out() -> None:
    evidence = seen(make_net(), [net_batches(1, size=2, length=3)[0][0]])["layers.0"]
    assert [len(x) for x in evidence.inputs] == [3, 3]
    assert evidence.held_out == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Calibration([], tokens=0), r"tokens=0.*at least 1"),
        (lambda: Calibration(torch.zeros(4, 3, 2)), r"Calibration\(Tensor\) was given(.|\n)*Calibration\(\[batch\]\)"),
        (lambda: Calibration({"input_ids": 1}), r"Calibration\(dict\) was given"),
        (lambda: Calibration([], measure="taylor"), r"measure='taylor' was given(.|\n)*measure_named\(\"taylor\"\)"),
        (lambda: Calibration([], measure=Taylor), r"needed: a measure, such as Regression\(\)"),
    ],
)
def test_what_cannot_be_a_calibration_is_refused_with_what_can(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(GramianError, match=message):
        make()
