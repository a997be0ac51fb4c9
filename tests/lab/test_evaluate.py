"""Accuracy and loss are those of the whole split, and looking changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.lab.data import NOT_ASKED, Split
from gramian.lab.evaluate import evaluate, predictions
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


@pytest.fixture
def asked() -> Split:
    """Tokens, and targets at some of the steps."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randint(5, (13, 8), generator=generator)
    targets = torch.where(torch.rand(13, 8, generator=generator) < 0.4, (inputs + 1) % 5, NOT_ASKED)
    targets[:, -1] = 2
    return Split(inputs, targets, unit="byte")


def token_model() -> SequenceModel:
    torch.manual_seed(1)
    return SequenceModel(5, 5, d_model=5, d_state=[3], tokens=True, head="next_token", norm="layer")


@pytest.mark.parametrize("batch_size", [1, 5, 500])
def test_only_steps_that_are_asked_for_count(asked: Split, batch_size: int) -> None:
    model = token_model().eval()
    logits = model(asked.inputs).detach()
    count = int((asked.targets != NOT_ASKED).sum())
    expected = float(F.cross_entropy(logits.flatten(0, 1), asked.targets.flatten(), ignore_index=NOT_ASKED))
    result = evaluate(model, asked, batch_size)
    assert result["accuracy"] == int((logits.argmax(-1) == asked.targets).sum()) / count
    assert result["loss"] == pytest.approx(expected, rel=1e-5)
    assert result["bits_per_byte"] == pytest.approx(expected / math.log(2), rel=1e-5)


def test_gradient_of_the_asked_predictions_is_that_of_the_loss_that_ignores_the_others(asked: Split) -> None:
    gradients = []
    for whole in (True, False):
        model = token_model().eval()
        if whole:
            logits = model(asked.inputs).flatten(0, 1)
            F.cross_entropy(logits, asked.targets.flatten(), ignore_index=NOT_ASKED).backward()
        else:
            F.cross_entropy(*predictions(model, asked.inputs, asked.targets)).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(*gradients)


def test_long_token_sequences_are_looked_at_a_few_at_a_time() -> None:
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor, asked: Tensor) -> Tensor:
            seen.append(x.shape)
            return self.weight.expand(int(asked.sum()), 3)

    inputs = torch.zeros(5, 2**14, dtype=torch.int64)
    targets = torch.full_like(inputs, NOT_ASKED)
    targets[:, -1] = 0
    evaluate(Watched(), Split(inputs, targets))
    assert [shape[0] for shape in seen] == [2, 2, 1]
