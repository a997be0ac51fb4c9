"""Mixers of transformers on our kernels: the same outputs, gradients and generated tokens, and the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from gramian import Rank, compress_
from gramian.errors import GramianError
from gramian.integrations.accelerated import accelerate_
from mixer_models import CONFIGS, batches, logits, mixers, tiny_model, tokens

ALL = pytest.mark.parametrize("name", CONFIGS)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x - y).norm() / y.norm())


@ALL
def test_outputs_are_the_same_also_with_padding(name: str) -> None:
    model = tiny_model(name)
    ids, mask = tokens(2), torch.ones(4, 24, dtype=torch.long)
    ids[1, :6], mask[1, :6] = 0, 0
    before = logits(model, ids, attention_mask=mask)
    with accelerate_(model) as accelerated:
        assert accelerated.mixers == [mixer for _, mixer in mixers(model)]
        after = logits(model, ids, attention_mask=mask)
    real = mask.bool()
    assert distance(after[real], before[real]) < 1e-5


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=tokens(1), labels=tokens(1)).loss.backward()
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


@ALL
def test_gradients_are_the_same(name: str) -> None:
    """To 1e-5; where a norm of nearly nothing makes that impossible, to what the last bit of the weights is worth."""
    model = tiny_model(name).train()
    exact = gradients(model)
    with accelerate_(model):
        ours = gradients(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 6e-8 * torch.randn_like(parameter).sign())
    rounded = gradients(model)
    assert exact.keys() == ours.keys()
    for key, gradient in exact.items():
        allowed = 1e-5 * float(gradient.norm()) + float((rounded[key] - gradient).norm())
        assert float((ours[key] - gradient).norm()) <= allowed + 1e-7, key


@ALL
def test_generated_tokens_are_the_same(name: str) -> None:
    """The prompt goes through our kernels, with the states they leave behind; single steps do not."""
    model = tiny_model(name)
    ids, mask = tokens(6, batch=2, length=9), torch.ones(2, 9, dtype=torch.long)
    ids[0, :3], mask[0, :3] = 0, 0

    def generated() -> Any:
        return model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False)

    before = generated()
    with accelerate_(model):
        assert torch.equal(generated(), before)


def test_our_kernels_are_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from gramian.integrations import accelerated

    calls = []
    for name in ("selective_scan", "ssd", "causal_conv1d"):
        original = getattr(accelerated, name)
        monkeypatch.setattr(accelerated, name, lambda *a, _o=original, _n=name, **k: (calls.append(_n), _o(*a, **k))[1])
    for kind, expected in (("Mamba", {"selective_scan", "causal_conv1d"}), ("Mamba2", {"ssd", "causal_conv1d"})):
        model = tiny_model(kind)
        logits(model, tokens())
        assert not calls
        with accelerate_(model):
            logits(model, tokens())
        assert set(calls) == expected
        calls.clear()
        logits(model, tokens())
        assert not calls


def test_only_this_model_changes_and_it_can_be_copied_and_cut() -> None:
    model, other = tiny_model("Mamba"), tiny_model("Mamba")
    expected = logits(other, tokens())
    with accelerate_(model):
        assert "forward" not in vars(next(mixers(other))[1])
        twin = copy.deepcopy(model)
        with torch.no_grad():
            next(mixers(twin))[1].D.add_(1.0)  # a copy runs on weights of its own
        assert distance(logits(model, tokens()), expected) < 1e-5 < distance(logits(twin, tokens()), expected)
        compress_(model, Rank(3), calibration=batches())
        fast = logits(model, tokens())
    assert distance(logits(model, tokens()), fast) < 1e-5
    assert torch.equal(logits(other, tokens()), expected)


def test_other_activations_and_packed_sequences_take_the_original_path() -> None:
    model = tiny_model("Mamba", hidden_act="gelu")
    before = logits(model, tokens())
    with accelerate_(model):
        assert distance(logits(model, tokens()), before) < 1e-5
    bamba = tiny_model("Bamba")
    with accelerate_(bamba), pytest.raises(ValueError, match="packed sequences"):
        bamba.model.layers[0].mamba(torch.randn(1, 8, 16), seq_idx=torch.zeros(1, 8, dtype=torch.int32))


def test_what_cannot_be_accelerated_is_said() -> None:
    with pytest.raises(GramianError, match="has no mixer that calls"):
        accelerate_(nn.Sequential(nn.Linear(2, 2)))
    model = tiny_model("Mamba")
    handle = accelerate_(model)
    with pytest.raises(GramianError, match="replaced already"):
        accelerate_(model)
    handle.remove()
    handle.remove()
    accelerate_(model).remove()
