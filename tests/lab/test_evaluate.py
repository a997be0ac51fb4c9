"""Accuracy and loss are those of the whole split, and looking changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.lab.data import Split
from gramian.lab.evaluate import evaluate
from gramian.lab.models import SequenceModel


@pytest.fixture
def split() -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(23, 6, 2, generator=generator), torch.randint(4, (23,), generator=generator))


@pytest.fixture
def model() -> SequenceModel:
    torch.manual_seed(1)
    return SequenceModel(2, 4, d_model=5, d_state=[3], dropout=0.5)


def test_accuracy_and_loss_are_those_of_one_large_batch(model: SequenceModel, split: Split) -> None:
    logits = model.eval()(split.inputs).detach()
    result = evaluate(model, split, batch_size=7)
    assert result.keys() == {"accuracy", "loss"}
    assert result["accuracy"] == float((logits.argmax(-1) == split.targets).sum()) / 23
    assert result["loss"] == pytest.approx(float(F.cross_entropy(logits, split.targets)), rel=1e-6)


def test_last_smaller_batch_counts_by_its_samples(model: SequenceModel, split: Split) -> None:
    whole = evaluate(model, split)
    for batch_size in (1, 10, 22, 23):
        assert evaluate(model, split, batch_size) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_statistics_gradients_and_generator_alone(
    model: SequenceModel, split: Split, training: bool
) -> None:
    model.train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    first, second = evaluate(model, split), evaluate(model, split)
    assert first == second  # no dropout
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_loss_of_half_precision_logits_is_summed_in_single_precision(split: Split) -> None:
    class Oracle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(5.0))

        def forward(self, x: Tensor) -> Tensor:
            which = (split.inputs[:, None] == x).all(-1).all(-1).int().argmax(0)
            return (self.scale * F.one_hot(split.targets[which], 4)).to(torch.bfloat16)

    result = evaluate(Oracle(), split, batch_size=5)
    assert result["accuracy"] == 1.0
    assert result["loss"] == pytest.approx(math.log1p(3 * math.exp(-5)), rel=1e-5)
