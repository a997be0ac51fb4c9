"""Cut models of transformers are written and read again: the same outputs, in either layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gramian import LRU, Rank, compress_
from gramian.errors import CheckpointError, ConfigError, GramianError
from gramian.integrations.pretrained import from_pretrained, record_sizes_, save_pretrained
from gramian.layers.calibration import Calibration
from gramian.layers.reducible import reducible_layers
from gramian.layers.spectra import spectra_of
from mixer_models import ATTENTION, CONFIGS, SMALL, batches, logits, tiny_model, tokens, transformers

ALL = pytest.mark.parametrize("name", CONFIGS)


def cut_model(name: str, **changes: Any) -> Any:
    """A model whose layers keep 2, 3, ... states."""
    model = tiny_model(name, **changes)
    layers: Any = reducible_layers(model)
    spectra = spectra_of(layers, for_proposals=True, model=model, calibration=Calibration(batches()))
    for rank, (key, layer) in enumerate(layers.items(), start=2):
        layer.apply_(layer.propose(rank, spectrum=spectra[key]))
    return model


def d_states(model: Any) -> dict[str, int]:
    return {name: layer.d_state for name, layer in reducible_layers(model).items()}


def generated(model: Any) -> torch.Tensor:
    ids = tokens(4, batch=2, length=5)
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)


@ALL
def test_every_layer_comes_back_at_its_own_size(name: str, tmp_path: Path) -> None:
    model = cut_model(name)
    save_pretrained(model, tmp_path)
    loaded = from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert d_states(loaded) == d_states(model)
    assert len(set(d_states(model).values())) > 1
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(logits(loaded, tokens()), logits(model, tokens()))
    assert torch.equal(generated(loaded), generated(model))


@ALL
def test_configuration_names_the_size_of_every_layer(name: str, tmp_path: Path) -> None:
    model = cut_model(name)
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (key,) = [key for key in ("state_size", "mamba_d_state", "ssm_state_size") if key in CONFIGS[name][1]]
    layers: Any = reducible_layers(model).values()
    for layer in layers:
        index = str(layer.module.layer_idx)
        assert config["per_layer_config"].get(index, {}).get(key, config[key]) == layer.d_state
    assert getattr(model.config, key) == 8  # as it was


@ALL
def test_uniform_layout_loads_where_nobody_knows_us(name: str, tmp_path: Path) -> None:
    """The stock class reads it, with the same outputs; the model that was written is left as it was."""
    model = cut_model(name)
    sizes, expected = d_states(model), logits(model, tokens())
    save_pretrained(model, tmp_path, "uniform")
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(d_states(stock).values()) == {max(sizes.values())}
    torch.testing.assert_close(logits(stock, tokens()), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(generated(stock), generated(model))
    assert d_states(model) == sizes
    assert torch.equal(logits(model, tokens()), expected)


@ALL
def test_what_was_read_can_be_written_by_its_own_method(name: str, tmp_path: Path) -> None:
    model = cut_model(name)
    save_pretrained(model, tmp_path / "ours")
    loaded = from_pretrained(tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "theirs")
    assert torch.equal(logits(from_pretrained(tmp_path / "theirs"), tokens()), logits(model, tokens()))


def test_layers_of_one_size_are_read_by_the_stock_class(tmp_path: Path) -> None:
    model = tiny_model("Mamba")
    compress_(model, Rank(3), calibration=batches())
    save_pretrained(model, tmp_path)
    assert "per_layer_config" not in json.loads((tmp_path / "config.json").read_text())
    stock = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(stock, tokens()), logits(model, tokens()))


def test_the_stock_class_refuses_layers_of_different_sizes(tmp_path: Path) -> None:
    """Nothing is read wrongly in silence."""
    save_pretrained(cut_model("Mamba"), tmp_path)
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_recorded_sizes_are_written_by_the_models_own_method(tmp_path: Path) -> None:
    model = cut_model("Mamba2")
    record_sizes_(model)
    record_sizes_(model)  # again, with nothing new
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(from_pretrained(tmp_path), tokens()), logits(model, tokens()))
    assert generated(model).shape == (2, 10)


def test_other_differences_between_layers_are_kept_in_the_configuration(tmp_path: Path) -> None:
    model = cut_model("Mamba")
    model.config.per_layer_config = {1: {"note": 7}, 0: {"note": 5}}
    save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert [config["per_layer_config"][str(i)]["note"] for i in (0, 1)] == [5, 7]
    assert [layer.note for layer in model.config.per_layer_config] == [5, 7]


def test_shards_dtypes_and_classes_are_the_readers_choice(tmp_path: Path) -> None:
    model = cut_model("Jamba", num_experts=2, expert_layer_period=2, expert_layer_offset=0)
    save_pretrained(model, tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert torch.equal(logits(from_pretrained(tmp_path), tokens()), logits(model, tokens()))
    half = from_pretrained(tmp_path, transformers.AutoModelForCausalLM, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert d_states(half) == d_states(model)
    inner = from_pretrained(tmp_path, transformers.AutoModel)
    assert type(inner).__name__ == "JambaModel"


def test_models_that_cannot_be_cut_are_written_as_they_are(tmp_path: Path) -> None:
    config = transformers.OlmoHybridConfig(
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
        layer_types=["linear_attention", "full_attention"],
        **{**SMALL, **ATTENTION},
    )
    model = transformers.OlmoHybridForCausalLM(config).eval()
    for layout in ("per_layer", "uniform"):
        save_pretrained(model, tmp_path, layout)  # type: ignore[arg-type]
        assert torch.equal(logits(from_pretrained(tmp_path), tokens()), logits(model, tokens()))


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    save_pretrained(cut_model("Mamba"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("backbone.layers.1.mixer.A_log")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not complete.*layers\.1\.mixer\.A_log"):
        from_pretrained(tmp_path)


def test_weights_of_another_size_than_declared_are_an_error(tmp_path: Path) -> None:
    save_pretrained(cut_model("Mamba"), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "per_layer_config": {"0": {"state_size": 1}}}))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        from_pretrained(tmp_path)


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'uniform'"):
        save_pretrained(cut_model("Mamba"), tmp_path, "uniformly")  # type: ignore[arg-type]
    with pytest.raises(GramianError, match=r"not one of transformers' mixers"):
        save_pretrained(torch.nn.Sequential(LRU(4, 4)), tmp_path)
    assert not list(tmp_path.iterdir())
