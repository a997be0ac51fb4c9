"""Mixers with the delta rule are seen as they are, and refuse to be cut; recurrences without states say so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gramian import LRU, Rank, compress_
from gramian.errors import GramianError
from gramian.layers.adapters.borrowed import called_by, forward_with
from gramian.layers.adapters.delta_rule import SCANS, DeltaRuleAdapter
from gramian.layers.calibration import Calibration
from gramian.layers.reducible import reducible_layers
from gramian.layers.spectra import spectra_of
from mixer_models import ATTENTION, SMALL, batches, logits, tokens, transformers

QWEN = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    **ATTENTION,
    **SMALL,
}
MODELS: dict[str, dict[str, Any]] = {
    "Qwen3Next": {**QWEN, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8}
    | {"shared_expert_intermediate_size": 8},
    "OlmoHybrid": {**QWEN, "linear_num_key_heads": 4},
    "KimiLinear": {
        "linear_num_heads": 2,
        "linear_head_dim": 6,
        "layer_types": ["linear_attention", "full_attention"],
        "kv_lora_rank": 8,
        "q_lora_rank": None,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 8,
        "n_shared_experts": 1,
        "first_k_dense_replace": 2,
        "n_group": 1,
        "topk_group": 1,
        **ATTENTION,
        **SMALL,
        "num_key_value_heads": 2,
    },
}
ALL = pytest.mark.parametrize("name", MODELS)


def delta_model(name: str) -> Any:
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**MODELS[name])).eval()


def adapter(model: Any) -> DeltaRuleAdapter:
    (layer,) = reducible_layers(model).values()
    assert isinstance(layer, DeltaRuleAdapter)
    return layer


@ALL
@torch.no_grad()
def test_states_give_the_outputs_of_the_scan_itself(name: str) -> None:
    layer = adapter(delta_model(name))
    called = called_by(layer.module)
    (scan,) = called.keys() & set(SCANS)
    outputs = []

    def listening(*args: Any, **kwargs: Any) -> Any:
        found = called[scan](*args, **kwargs)
        outputs.append(found[0])
        return found

    x = torch.randn(1, 13, 16)
    forward_with(layer.module, {scan: listening})(x)
    states, _, own = layer.states(x)
    assert states.shape[2] == layer.d_state == 6
    assert float(own.norm()) > 0
    torch.testing.assert_close(own, outputs[0][0], rtol=1e-4, atol=1e-5)


@ALL
def test_spectrum_is_there_and_cuts_are_refused_with_the_reason(name: str) -> None:
    model = delta_model(name)
    before = logits(model, tokens())
    layers: Any = reducible_layers(model)
    (spectrum,) = spectra_of(layers, model=model, calibration=Calibration(batches())).values()
    assert spectrum.values.shape == (6,)
    assert torch.equal(spectrum.values, spectrum.values.sort(descending=True).values)
    assert float(spectrum.values.min()) >= 0
    event = compress_(model, Rank(2), calibration=batches())
    assert not event.changed
    assert "delta rule" in event.layers[0].reason
    assert torch.equal(logits(model, tokens()), before)
    with pytest.raises(GramianError, match="cannot be cut"):
        adapter(model).apply_(adapter(model).propose(2))
    with pytest.raises(GramianError, match="no data was given"):
        adapter(model).spectrum()


@torch.no_grad()
def test_a_direction_that_no_query_reads_has_no_value() -> None:
    """Outputs are linear in the queries: with queries of rank 2, two directions do it all."""
    layer = adapter(delta_model("KimiLinear"))
    module: Any = layer.module
    module.q_proj.weight.view(2, 6, 16)[:, 2:] = 0
    evidence: Any = type("Evidence", (), {"inputs": [torch.randn(40, 16)]})
    values = layer.calibrated_spectrum(evidence, Calibration([])).values
    assert bool((values[:2] > 1e-3).all())
    assert bool((values[2:] < 1e-6).all())


def test_one_state_a_channel_is_said_to_be_one() -> None:
    config = transformers.RecurrentGemmaConfig(
        **{**SMALL, **ATTENTION, "hidden_size": 16, "lru_width": 16, "head_dim": 8, "attention_window_size": 8}
    )
    model = transformers.RecurrentGemmaForCausalLM(config)
    with pytest.raises(GramianError, match="one state a channel"):
        reducible_layers(model)
    assert list(reducible_layers(torch.nn.ModuleDict({"other": model, "own": LRU(4, 4)}))) == ["own"]


def test_borrowed_forward_leaves_the_class_alone() -> None:
    model = delta_model("OlmoHybrid")
    module = adapter(model).module
    before = logits(model, tokens())
    x = torch.randn(1, 5, 16)
    silent = forward_with(module, {SCANS[0]: lambda q, k, v, **_: (torch.zeros_like(v), None)})
    assert not torch.equal(silent(x), module(x))
    assert torch.equal(logits(model, tokens()), before)
