"""The sequence model: what its heads compute, and that padding is nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from gramian.errors import ConfigError, ShapeError
from gramian.lab.models import SequenceModel, SequenceNorm
from gramian.layers.reducible import reducible_layers

LENGTHS = torch.tensor([9, 4, 1, 7])


def model_of(seed: int = 0, **options: Any) -> SequenceModel:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"d_model": 6, "d_state": [5, 3], "dropout": 0.0, **options}
    model = SequenceModel(3, 4, **settings)
    for buffer in model.buffers():  # batch statistics that are not those of a fresh layer
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def padded(seed: int = 1, scale: float = 1.0) -> Tensor:
    """Four sequences of LENGTHS steps; `scale` multiplies what stands in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 9, 3, generator=generator)
    padding = torch.arange(9) >= LENGTHS[:, None]
    return torch.where(padding[..., None], scale * x, x)


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_pooled_prediction_is_the_mean_over_time_of_the_predictions_at_every_step(head: str) -> None:
    x = padded()
    pooled, stepwise = model_of(head=head).eval(), model_of(head="next_token").eval()
    every_step = stepwise(x)
    assert every_step.shape == (4, 9, 4)
    assert_close(pooled(x), every_step.mean(1))
    means = torch.stack([every_step[i, :n].mean(0) for i, n in enumerate(LENGTHS)])
    assert_close(pooled(x, LENGTHS), means)


def test_next_token_prediction_does_not_see_the_future() -> None:
    model, x = model_of(head="next_token").eval(), padded()
    later = x.clone()
    later[:, 5:] += 10.0
    assert_close(model(later)[:, :5], model(x)[:, :5], rtol=0, atol=0)
    assert (model(later)[:, 5] - model(x)[:, 5]).abs().max() > 0.1


def test_tokens_are_one_hot_vectors_before_a_linear_map() -> None:
    embedded, projected = model_of(tokens=True).eval(), model_of().eval()
    shared = {key: value for key, value in embedded.state_dict().items() if not key.startswith("encoder")}
    projected.load_state_dict(shared, strict=False)
    assert isinstance(projected.encoder, nn.Linear)
    with torch.no_grad():
        projected.encoder.weight.copy_(embedded.encoder.weight.mT)
        projected.encoder.bias.zero_()
    tokens = torch.randint(3, (4, 9), generator=torch.Generator().manual_seed(2))
    one_hot = nn.functional.one_hot(tokens, 3).float()
    assert_close(embedded(tokens, LENGTHS), projected(one_hot, LENGTHS))


def test_masked_batch_norm_sees_the_unpadded_sequences_only() -> None:
    masked, plain = SequenceNorm(3, "batch").train(), nn.BatchNorm1d(3, affine=False).train()
    x = padded(scale=1e6)
    mask = torch.arange(9) < LENGTHS[:, None]
    unpadded = torch.cat([x[i, :n] for i, n in enumerate(LENGTHS)])
    out, expected = masked(x, mask), plain(unpadded)
    assert_close(out[mask], expected, rtol=1e-5, atol=1e-5)
    assert out[~mask].abs().max() == 0
    for name, buffer in plain.named_buffers():
        assert_close(masked.norm.get_buffer(name), buffer, rtol=1e-6, atol=1e-6)


def test_batch_norm_without_padding_is_over_batch_and_time() -> None:
    x = padded()
    out = SequenceNorm(3, "batch").train()(x)
    assert_close(out.mean((0, 1)), torch.zeros(3), rtol=0, atol=1e-6)
    assert_close(out.var((0, 1), correction=0), torch.ones(3), rtol=1e-4, atol=0)
    assert_close(SequenceNorm(3, "batch").train()(x, torch.ones(4, 9, dtype=torch.bool)), out)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("head", ["classification", "regression"])
def test_padding_does_not_change_predictions(norm: str, head: str) -> None:
    model = model_of(norm=norm, head=head).eval()
    x = padded()
    together = model(x, LENGTHS)
    assert_close(model(padded(scale=1e3), LENGTHS), together)
    for i, n in enumerate(LENGTHS.tolist()):
        assert_close(model(x[i : i + 1, :n])[0], together[i])


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_padding_changes_neither_loss_nor_gradients_nor_statistics_in_training(norm: str) -> None:
    outcomes = []
    for scale in (1.0, 1e3):
        model = model_of(norm=norm).train()
        loss = model(padded(scale=scale), LENGTHS).square().sum()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        outcomes.append((loss.detach(), gradients, dict(model.named_buffers())))
    assert_close(*outcomes)


def test_full_lengths_are_no_lengths() -> None:
    model, x = model_of().eval(), padded()
    assert_close(model(x, torch.full((4,), 9)), model(x))


@pytest.mark.parametrize("lengths", [[9, 0, 1, 1], [9, 10, 1, 1], [-1, 3, 3, 3]])
def test_lengths_outside_the_sequence_are_refused(lengths: list[int]) -> None:
    low, high = min(lengths), max(lengths)
    with pytest.raises(ShapeError, match=f"lengths from {low} to {high}; needed: 1 to 9"):
        model_of()(padded(), torch.tensor(lengths))


def test_with_layer_norm_samples_of_a_batch_do_not_know_of_each_other() -> None:
    x = padded()
    alone = {norm: model_of(norm=norm).train()(x[:1]) for norm in ("batch", "layer")}
    together = {norm: model_of(norm=norm).train()(x)[:1] for norm in ("batch", "layer")}
    assert_close(together["layer"], alone["layer"])
    assert (together["batch"] - alone["batch"]).abs().max() > 1e-2
    assert not list(model_of(norm="layer").buffers())


def test_every_number_of_d_state_is_a_block_of_that_size() -> None:
    layers = reducible_layers(model_of(d_state=[7, 2, 5]))
    assert {name: layer.d_state for name, layer in layers.items()} == {
        "blocks.0.lru": 7,
        "blocks.1.lru": 2,
        "blocks.2.lru": 5,
    }
    with pytest.raises(ConfigError, match=r"d_state=\(\) was given"):
        model_of(d_state=[])


def test_dropout_acts_in_training_only() -> None:
    model, x = model_of(dropout=0.5, norm="layer"), padded()
    assert (model.train()(x) - model(x)).abs().max() > 1e-3
    assert_close(model.eval()(x), model(x), rtol=0, atol=0)


def test_ring_and_realization_reach_every_layer() -> None:
    model = model_of(r_min=0.4, r_max=0.5, realization="complex")
    for layer in reducible_layers(model).values():
        spectrum = layer.spectrum()
        assert spectrum.system is not None
        assert bool(((spectrum.system.poles.abs() > 0.4 - 1e-6) & (spectrum.system.poles.abs() < 0.5 + 1e-6)).all())
        assert "complex" in spectrum.measure


OPTIONS: dict[str, dict[str, Any]] = {
    "mamba": {"d_conv": 3, "expand": 2},
    "mamba2": {"head_dim": 4, "n_groups": 1},
    "linear_attention": {"n_heads": 2},
}


def token_model(layer: str, **options: Any) -> SequenceModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"d_model": 8, "d_state": [4, 3], "dropout": 0.0, "head": "next_token", **options}
    return SequenceModel(6, 6, tokens=True, layer=layer, options=OPTIONS.get(layer), **settings).eval()


def tokens(batch: int = 3, length: int = 11) -> Tensor:
    return torch.randint(6, (batch, length), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("layer", OPTIONS)
def test_block_around_a_gated_layer_adds_what_the_layer_makes_of_the_normalised_input(layer: str) -> None:
    block, x = token_model(layer).blocks[0], torch.randn(2, 7, 8)
    root = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_close(block(x), x + block.mixer(x / root))


@pytest.mark.parametrize("layer", OPTIONS)
def test_head_reads_the_last_block_through_a_norm(layer: str) -> None:
    model, x = token_model(layer), tokens()
    h = model.encoder(x)
    for block in model.blocks:
        h = block(h)
    root = (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert_close(model(x), model.head(h / root))


@pytest.mark.parametrize("layer", ["lru", *OPTIONS])
def test_asked_steps_get_the_predictions_they_get_among_all(layer: str) -> None:
    model, x = token_model(layer), tokens()
    asked = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) < 0.3
    assert_close(model(x, asked=asked), model(x)[asked])


@pytest.mark.parametrize("layer", OPTIONS)
def test_no_layer_sees_the_future(layer: str) -> None:
    model, x = token_model(layer), tokens()
    later = x.clone()
    later[:, 6:] = (x[:, 6:] + 1) % 6
    assert_close(model(later)[:, :6], model(x)[:, :6], rtol=1e-5, atol=1e-6)
    assert (model(later)[:, 6] - model(x)[:, 6]).abs().max() > 1e-4


@pytest.mark.parametrize("layer", OPTIONS)
def test_what_stands_after_the_end_does_not_change_a_pooled_prediction(layer: str) -> None:
    model, x, lengths = token_model(layer, head="classification"), tokens(), torch.tensor([11, 4, 7])
    together = model(x, lengths)
    for i, n in enumerate(lengths.tolist()):
        assert_close(model(x[i : i + 1, :n])[0], together[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", OPTIONS)
def test_layers_of_every_kind_have_the_states_asked_for(layer: str) -> None:
    layers = reducible_layers(token_model(layer))
    assert {name: layer.d_state for name, layer in layers.items()} == {"blocks.0.mixer": 4, "blocks.1.mixer": 3}


def test_options_reach_the_layer_and_unknown_layers_are_answered() -> None:
    assert token_model("mamba").blocks[0].mixer.d_conv == 3  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"layer 'mamab' is not known. Did you mean 'mamba'\?"):
        token_model("mamab")


def test_dropout_that_is_on_by_itself_drops() -> None:
    model = token_model("mamba2", dropout=0.5).eval()
    tokens = torch.arange(12).view(2, 6) % 5
    assert torch.equal(model(tokens), model(tokens))
    for block in model.blocks:
        block.dropout.train()  # type: ignore[union-attr]
    assert not torch.equal(model(tokens), model(tokens))


def test_tied_head_has_the_embeddings_weights_where_both_are_over_the_same_tokens() -> None:
    tied = token_model("mamba", tied=True)
    assert tied.head.weight is tied.encoder.weight
    assert tied.head.bias is None
    assert len(list(tied.parameters())) == len(list(token_model("mamba").parameters())) - 2
    separate = token_model("mamba", tied=True, head="classification")
    assert separate.head.weight is not separate.encoder.weight
    assert token_model("mamba").head.weight is not token_model("mamba").encoder.weight
