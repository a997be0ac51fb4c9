"""Transformers' mixers that are cut while they train: optimizer, roll-back, measures with gradients, shared layers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gramian import At, Compressor, Rank, RollBack, compress_
from gramian.layers.calibration import Calibration, calibrate
from gramian.layers.reducible import reducible_layers, resize_like_
from gramian.layers.reduction import OutputError, Reduction
from gramian.layers.selective.measures import ContributionEnergy, Taylor
from gramian.layers.spectra import spectra_of
from mixer_models import CONFIGS, batches, logits, mixers, tiny_model, tokens

ALL = pytest.mark.parametrize("name", CONFIGS)
RANK = 3


def train_step(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    loss = model(input_ids=tokens(seed), labels=tokens(seed)).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@ALL
def test_training_goes_on_with_the_moments_of_the_kept_states(name: str) -> None:
    model = tiny_model(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    identity = [id(p) for p in model.parameters()]
    compressor = Compressor(model, optimizer, policy=Rank(RANK), schedule=At((2,)), calibration=Calibration(batches()))
    for step in range(4):
        train_step(model, optimizer, step)
        event = compressor.step()
        assert event.changed == (step == 1)
    assert set(compressor.d_states.values()) == {RANK}
    assert identity == [id(p) for p in model.parameters()]
    for parameter in model.parameters():
        state = optimizer.state.get(parameter)
        if state:
            assert state["exp_avg"].shape == parameter.shape == state["exp_avg_sq"].shape
            assert float(state["step"]) == 4
            assert bool(state["exp_avg"].isfinite().all())
            assert bool((state["exp_avg_sq"] >= 0).all())


@ALL
def test_a_roll_back_brings_back_sizes_and_outputs(name: str) -> None:
    model = tiny_model(name)
    before, states = logits(model, tokens()), {k: v.d_state for k, v in reducible_layers(model).items()}
    compressor = Compressor(
        model, policy=Rank(RANK), schedule=At((2,)), rollback=RollBack(drop=0.0), calibration=Calibration(batches())
    )
    compressor.step(metric=1.0)
    assert compressor.step().changed
    assert not torch.allclose(logits(model, tokens()), before)
    assert compressor.step(metric=0.0).kind == "rolled_back"
    assert compressor.d_states == states
    assert torch.equal(logits(model, tokens()), before)


@ALL
def test_weights_of_a_cut_model_load_into_a_model_resized_like_them(name: str) -> None:
    cut, other = tiny_model(name), tiny_model(name, seed=1)
    compress_(cut, Rank(RANK), calibration=batches())
    resize_like_(other, cut.state_dict())
    other.load_state_dict(cut.state_dict())
    assert torch.equal(logits(other, tokens()), logits(cut, tokens()))


@pytest.mark.parametrize("name", ["Mamba", "Jamba", "FalconMamba", "Zamba", "Mamba2"])
def test_a_proposal_survives_being_stored(name: str) -> None:
    model = tiny_model(name)
    layers: Any = reducible_layers(model)
    spectra = spectra_of(layers, for_proposals=True, model=model, calibration=Calibration(batches()))
    for key, layer in layers.items():
        proposed = layer.propose(RANK, spectrum=spectra[key])
        stored = Reduction.from_state_dict(proposed.state_dict())
        moments = {k: torch.randn_like(layer.module.get_parameter(k)) for k in proposed.tensors}
        for parameter, moment in proposed.moments.items():
            again = stored.moments[parameter].carry(moments, 1)
            assert torch.equal(again, moment.carry(moments, 1))
            assert again.shape == proposed.tensors[parameter].shape


@pytest.mark.parametrize("name", ["Jamba", "FalconMamba"])
def test_fitted_gains_lose_less_than_the_norms_alone(name: str) -> None:
    """On the sequences that ridges are chosen with never more, and clearly less in the sum of a few models."""
    plain = fitted = 0.0
    for seed in range(3):
        model = tiny_model(name, seed)
        layers: Any = reducible_layers(model)
        found = []
        for mix in (False, True):
            calibration = Calibration(batches(8), measure=ContributionEnergy(), mix=mix)
            spectra = spectra_of(layers, for_proposals=True, model=model, calibration=calibration)
            proposals = [layer.propose(RANK, spectrum=spectra[key]) for key, layer in layers.items()]
            errors = [p.measurement for p in proposals]
            assert all(isinstance(e, OutputError) for e in errors)
            found.append([e.held_out for e in errors])  # type: ignore[union-attr]
        for without, with_gains in zip(*found, strict=True):
            assert with_gains <= without
            plain, fitted = plain + without, fitted + with_gains
    assert fitted < 0.95 * plain


@pytest.mark.parametrize("name", ["Mamba", "Jamba", "Mamba2", "FalconH1"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_gradients_of_padded_sequences_are_those_of_bare_ones(name: str, side: str) -> None:
    """A loss that does not see the padding: the gradient at every real step is as if there were none.

    Not with a bias in front of the convolution: transformers lets it into the padding, which the first steps see.
    """
    model = tiny_model(name, **({"use_bias": False} if name == "Mamba2" else {}))
    layers: Any = reducible_layers(model)
    first = dict(list(layers.items())[:1])
    mixer = layers[next(iter(first))].module
    bare = [tokens(i, batch=1, length=n) for i, n in enumerate((8, 12))]
    ids, mask = torch.zeros(2, 12, dtype=torch.long), torch.zeros(2, 12, dtype=torch.long)
    for row, own in enumerate(bare):
        at = slice(12 - own.shape[1], 12) if side == "left" else slice(0, own.shape[1])
        ids[row, at], mask[row, at] = own[0], 1
    direction = torch.randn(16)

    def loss(net: nn.Module, batch: Any) -> torch.Tensor:
        kept = []
        handle = mixer.register_forward_hook(lambda *args: kept.append(args[2]))
        net(**batch)
        handle.remove()
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        return ((kept[0] * direction).sum(-1).square() * real).sum()

    def gradients(batches_: list[Any]) -> list[torch.Tensor]:
        evidence = calibrate(model, first, Calibration(batches_, measure=Taylor(), loss=loss))
        found = next(iter(evidence.values()))
        assert found.gradients is not None
        assert [len(g) for g in found.gradients] == [len(x) for x in found.inputs]
        return found.gradients

    padded = gradients([{"input_ids": ids, "attention_mask": mask}])
    alone = gradients([{"input_ids": own} for own in bare])
    for a, b in zip(padded, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_shared_mixer_is_one_layer_that_sees_all_its_calls() -> None:
    model = tiny_model("Mamba")
    model.backbone.layers[1].mixer = model.backbone.layers[0].mixer
    assert list(reducible_layers(model)) == ["backbone.layers.0.mixer"]
    layers: Any = reducible_layers(model)
    evidence = calibrate(model, layers, Calibration(batches(1), measure=Taylor()))["backbone.layers.0.mixer"]
    assert evidence.tokens + sum(map(len, evidence.held_out)) == 2 * tokens().numel()
    assert evidence.gradients is not None
    compress_(model, Rank(RANK), calibration=Calibration(batches(), measure=Taylor()))
    assert [m.A_log.shape[1] for _, m in mixers(model)] == [RANK]
    assert bool(logits(model, tokens()).isfinite().all())


def test_a_dry_run_leaves_the_model_as_it_is() -> None:
    model = tiny_model("Jamba")
    before = copy.deepcopy(model.state_dict())
    event = compress_(model, Rank(RANK), calibration=batches(), dry_run=True)
    assert event.layers[0].after == RANK
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
