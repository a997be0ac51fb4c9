"""Tiny random models of transformers, one for each kind of mixer, with states that matter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here is on the network
transformers = pytest.importorskip("transformers")

VOCABULARY, LENGTH = 32, 24

SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "pad_token_id": 0, "eos_token_id": None}
THREE = {**SMALL, "num_hidden_layers": 3}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
MAMBA2_HYBRID = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_chunk_size": 8, "mamba_d_state": 8}

# model: its configuration's class and arguments; hybrids have two layers with a mixer at least, and one with attention
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Mamba": ("MambaConfig", {"state_size": 8, **SMALL}),
    "FalconMamba": ("FalconMambaConfig", {"state_size": 8, **SMALL}),
    "Jamba": (
        "JambaConfig",
        {"mamba_d_state": 8, "attn_layer_period": 3, "attn_layer_offset": 1, "num_experts": 1, **ATTENTION, **THREE},
    ),
    "Zamba": (
        "ZambaConfig",
        {"mamba_d_state": 8, "layers_block_type": ["linear_attention", "hybrid", "hybrid"], **ATTENTION, **THREE}
        | {"num_key_value_heads": 2},
    ),
    "Mamba2": (
        "Mamba2Config",
        {"state_size": 8, "num_heads": 4, "head_dim": 8, "n_groups": 2, "chunk_size": 8, "use_bias": True, **SMALL},
    ),
    "Bamba": ("BambaConfig", {"mamba_n_groups": 2, "attn_layer_indices": [1], **MAMBA2_HYBRID, **ATTENTION, **THREE}),
    "GraniteMoeHybrid": (
        "GraniteMoeHybridConfig",
        {
            "mamba_n_groups": 2,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0,
            "shared_intermediate_size": 24,
            **MAMBA2_HYBRID,
            **ATTENTION,
            **THREE,
        },
    ),
    "Zamba2": (
        "Zamba2Config",
        {
            "mamba_d_state": 8,
            "mamba_ngroups": 2,
            "n_mamba_heads": 4,
            "chunk_size": 8,
            "layers_block_type": ["linear_attention", "hybrid", "hybrid"],
            **ATTENTION,
            **THREE,
        }
        | {"num_key_value_heads": 2},
    ),
    "NemotronH": (
        "NemotronHConfig",
        {
            "ssm_state_size": 8,
            "n_groups": 2,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "head_dim": 8,
            "chunk_size": 8,
            "layers_block_type": ["linear_attention", "full_attention", "linear_attention"],
            **ATTENTION,
            **{key: value for key, value in SMALL.items() if key != "num_hidden_layers"},
        },
    ),
    "FalconH1": (
        "FalconH1Config",
        {
            "mamba_n_groups": 2,
            "mamba_d_ssm": 32,
            "head_dim": 8,
            "ssm_multipliers": [0.9, 1.1, 1.2, 0.8, 1.05],
            "ssm_in_multiplier": 1.1,
            **MAMBA2_HYBRID,
            **ATTENTION,
            **SMALL,
        },
    ),
}


def tiny_model(name: str, seed: int = 0, **changes: Any) -> Any:
    """A causal language model in eval mode; its mixers' parameters are spread so that every state does something."""
    kind, arguments = CONFIGS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, kind)(**{**arguments, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("x_proj.weight", "x_proj_weight", "in_proj.weight", "out_proj.weight", "conv1d.weight")):
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif key.endswith(("conv1d.bias", "in_proj.bias", "layernorm.weight", "norm.weight")):
                parameter.add_(0.3 * torch.randn(parameter.shape))
            elif key.endswith(("dt_proj.weight", "dt_proj_weight")):
                parameter.normal_(0, 0.5)
            elif key.endswith(("dt_proj.bias", "dt_proj_bias", "dt_bias")):
                parameter.uniform_(-3, 0)
            elif key.endswith("A_log"):
                parameter.uniform_(-1.5, 1.5)
            elif key.endswith(("embeddings.weight", "embed_tokens.weight")):
                parameter.normal_()
    return model


def tokens(seed: int = 0, batch: int = 4, length: int = LENGTH) -> Tensor:
    """Random token ids without the padding token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (batch, length), generator=generator)


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    """Batches to call a model with, with labels."""
    return [{"input_ids": tokens(i), "labels": tokens(i)} for i in range(count)]


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor, **more: Any) -> Tensor:
    """The model's outputs."""
    return model(input_ids=ids, **more).logits


@torch.no_grad()
def drop_states_(mixer: Any, kept: Tensor) -> None:
    """Zero the rows that make B and C of all states but `kept`, ``(groups, rank)``."""
    groups = len(kept)
    if hasattr(mixer, "x_proj_weight"):  # Zamba: a slice for each head
        for head, own in zip(mixer.x_proj_weight, kept, strict=True):
            _zero_but(head[mixer.time_step_rank :], own, 1)
    elif hasattr(mixer, "x_proj"):
        _zero_but(mixer.x_proj.weight[mixer.time_step_rank :], kept, 1)
    else:
        inner, heads = mixer.intermediate_size, mixer.num_heads
        for name, first, last in (("in_proj", 2 * inner, heads), ("conv1d", inner, 0)):
            for tensor in getattr(mixer, name).parameters():
                _zero_but(tensor[first : len(tensor) - last], kept, groups)


def _zero_but(rows: Tensor, kept: Tensor, groups: int) -> None:
    """Rows of B and then of C, group after group."""
    for own, states in zip(rows.view(2, groups, -1, *rows.shape[1:]).unbind(1), kept.view(groups, -1), strict=True):
        dropped = [n for n in range(own.shape[1]) if n not in states.tolist()]
        own[:, dropped] = 0


def mixers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The mixers with states, by name."""
    for name, module in model.named_modules():
        if hasattr(module, "A_log"):
            yield name, module
