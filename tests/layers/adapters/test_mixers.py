"""Adapters for transformers' mixers: what they say drives the scan does, and what they drop is dropped exactly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gramian import Rank, compress_
from gramian.errors import GramianError
from gramian.layers.calibration import Calibration, calibrate
from gramian.layers.reducible import reducible_layers
from gramian.layers.reduction import Reduction
from gramian.layers.selective.measures import ContributionEnergy
from gramian.layers.selective.signals import contributions
from gramian.layers.spectra import spectra_of
from mixer_models import CONFIGS, batches, drop_states_, logits, mixers, tiny_model, tokens

ALL = pytest.mark.parametrize("name", CONFIGS)
RANK = 3


def selected(model: nn.Module, rank: int = RANK) -> tuple[dict[str, Reduction], dict[str, Tensor]]:
    """Proposals that select without compensation, and the states they keep."""
    layers: Any = reducible_layers(model)
    calibration = Calibration(batches(), measure=ContributionEnergy(), mix=False)
    spectra = spectra_of(layers, for_proposals=True, model=model, calibration=calibration)
    kept = {}
    for name, spectrum in spectra.items():
        assert spectrum.calibrated is not None
        order = spectrum.calibrated.ranking.order
        assert order is not None
        kept[name] = order[:, :rank].sort(-1).values
    return {name: layers[name].propose(rank, spectrum=spectra[name]) for name in layers}, kept


def cut_and_zeroed(name: str, **changes: Any) -> tuple[Any, Any, dict[str, Reduction]]:
    """A model that was cut, and one whose dropped states are silent."""
    model = tiny_model(name, **changes)
    zeroed = copy.deepcopy(model)
    reductions, kept = selected(model)
    for key, layer in reducible_layers(model).items():
        layer.apply_(reductions[key])
        drop_states_(zeroed.get_submodule(key), kept[key])
    return model, zeroed, reductions


def distance(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


def feed_through(mixer: Any) -> Tensor:
    """D of every channel."""
    D = mixer.D.detach().flatten()
    return D.repeat_interleave(mixer.out_proj.in_features // len(D))


@ALL
@torch.no_grad()
def test_signals_are_all_there_is_to_the_mixer(name: str) -> None:
    """States, feed-through, gate and readout make the module's output; a norm after the scan is in the gate."""
    model = tiny_model(name)
    x = torch.randn(2, 11, 16)
    for layer in reducible_layers(model).values():
        assert hasattr(layer, "signals")
        s, mixer = layer.signals(x), layer.module  # type: ignore[attr-defined]
        (p,) = contributions(s, torch.arange(11))
        states = torch.einsum("sgdn,sgn->sd", p.M, p.C).unflatten(0, (2, 11))
        direct = s.gate * s.u * feed_through(mixer).view(1, 1, *s.u.shape[2:])
        y = states + torch.einsum("blgp,dgp->bld", direct, s.readout)
        bias = mixer.out_proj.bias
        torch.testing.assert_close(y if bias is None else y + bias, layer.output(x), rtol=1e-4, atol=1e-5)  # type: ignore[attr-defined]


@ALL
def test_what_is_dropped_is_dropped_exactly(name: str) -> None:
    cut, zeroed, _ = cut_and_zeroed(name)
    exact = logits(zeroed, tokens(9))
    assert distance(logits(tiny_model(name), tokens(9)), exact) > 0.01
    assert distance(logits(cut, tokens(9)), exact) < 1e-5


@ALL
def test_gradients_follow_like_moments(name: str) -> None:
    """The gradients of the cut parameters are what the moment maps make of those of the model with silent states."""
    cut, zeroed, reductions = cut_and_zeroed(name)
    for model in (cut, zeroed):
        model.train()
        model(input_ids=tokens(3), labels=tokens(3)).loss.backward()
    for layer, reduction in reductions.items():
        for key, moment in reduction.moments.items():
            old = zeroed.get_submodule(layer).get_parameter(key).grad
            new = cut.get_submodule(layer).get_parameter(key).grad
            assert float(new.abs().max()) > 0
            assert distance(new, moment.carry({key: old}, 1)) < 1e-4
            assert distance(new**2, moment.carry({key: old**2}, 2)) < 2e-4


@ALL
def test_a_cut_mixer_is_like_one_that_was_made_at_that_size(name: str) -> None:
    """Sizes in attributes, of parameters and of buffers; modules inside included."""
    cut = tiny_model(name)
    compress_(cut, Rank(RANK), calibration=batches())
    (size_key,) = [key for key in ("state_size", "mamba_d_state", "ssm_state_size") if key in CONFIGS[name][1]]
    made = dict(mixers(tiny_model(name, **{size_key: RANK})))
    for layer, mixer in mixers(cut):
        for path, module in mixer.named_modules():
            like = made[layer].get_submodule(path)
            sizes, tensors = ({}, {}), ({}, {})  # type: ignore[var-annotated]
            for found, shapes, m in zip(sizes, tensors, (module, like), strict=True):
                found.update({key: value for key, value in vars(m).items() if isinstance(value, int)})
                shapes.update({k: (t.shape, t.dtype) for k, t in (*m.named_parameters(), *m.named_buffers())})
            assert sizes[0] == sizes[1], path
            assert tensors[0] == tensors[1], path
        (buffers, made_buffers) = (dict(m.named_buffers()) for m in (mixer, made[layer]))
        for key, buffer in buffers.items():
            torch.testing.assert_close(buffer, made_buffers[key])


@ALL
def test_generation_with_and_without_a_cache_gives_the_same_tokens(name: str) -> None:
    model = tiny_model(name)
    compress_(model, Rank(RANK), calibration=batches())
    prompt, mask = tokens(5, batch=2, length=7), torch.ones(2, 7, dtype=torch.long)
    prompt[1, :2], mask[1, :2] = 0, 0  # padded on the left
    found = [
        model.generate(prompt, attention_mask=mask, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert found[0].shape == (2, 13)
    assert torch.equal(*found)


@ALL
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_calibration_data(name: str, side: str) -> None:
    model = tiny_model(name)
    first = dict([next(iter(reducible_layers(model).items()))])
    lengths = (9, 5)
    alone = [tokens(i, batch=1, length=n) for i, n in enumerate(lengths)]
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    for row, own in enumerate(alone):
        at = slice(12 - own.shape[1], 12) if side == "left" else slice(0, own.shape[1])
        ids[row, at], mask[row, at] = own[0], 1
    padded = calibrate(model, first, Calibration([{"input_ids": ids, "attention_mask": mask}]))  # type: ignore[arg-type]
    bare = calibrate(model, first, Calibration([{"input_ids": own} for own in alone]))  # type: ignore[arg-type]
    for one, other in zip(padded.values(), bare.values(), strict=True):
        for a, b in zip(one.inputs + one.held_out, other.inputs + other.held_out, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ["Mamba", "Jamba", "Mamba2"])
def test_half_precision_is_cut_like_single(name: str) -> None:
    model = tiny_model(name).bfloat16()
    event = compress_(model, Rank(RANK), calibration=batches())
    assert event.changed
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert bool(logits(model, tokens()).isfinite().all())


@pytest.mark.parametrize("how", ["quantised", "wrapped", "offloaded"])
def test_weights_that_are_not_plain_are_refused_before_anything_is_cut(how: str) -> None:
    model = tiny_model("Mamba")
    mixer = model.backbone.layers[1].mixer
    layers: Any = reducible_layers(model)
    evidence = calibrate(model, layers, Calibration(batches()))
    if how == "wrapped":
        mixer.x_proj = nn.utils.parametrizations.weight_norm(mixer.x_proj)
    elif how == "quantised":
        mixer.x_proj.weight = nn.Parameter(torch.zeros(17, 32, dtype=torch.int8), requires_grad=False)
    else:
        mixer.A_log = nn.Parameter(mixer.A_log.to("meta"))
    name = "backbone.layers.1.mixer"
    with pytest.raises(GramianError, match="of a MambaMixer is"):
        layers[name].calibrated_spectrum(evidence[name], Calibration(batches()))
