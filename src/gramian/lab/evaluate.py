"""How good a model is on a split."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.lab.data import NOT_ASKED, Split

__all__ = ["evaluate", "predictions"]

_STEPS = 2**15  # of token sequences in one batch, at most: their predictions can be many


def predictions(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits ``(m, n_classes)`` and labels ``(m,)`` of all that is asked: once a sequence, or at some of its steps."""
    if targets.ndim == 1:
        return model(inputs), targets
    asked = targets != NOT_ASKED
    return model(inputs, asked=asked), targets[asked]


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int = 500) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross entropy (nats) over all that `split` asks for, in eval mode.

    That is one class a sequence, or one a step where there is something to predict. Of texts, ``bits_per_byte`` (or
    whatever a step is) is the same loss in bits. The model's training mode and device are left as they were.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    correct, count, loss = 0, 0, 0.0
    if split.tokens:
        batch_size = max(1, min(batch_size, _STEPS // split.inputs.shape[1]))
    for inputs, targets in split.in_order(batch_size):
        logits, labels = predictions(model, inputs.to(device), targets.to(device))
        logits = logits.float()
        correct += int((logits.argmax(-1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    model.train(was_training)
    result = {"accuracy": correct / count, "loss": loss / count}
    if split.unit:
        result[f"bits_per_{split.unit}"] = result["loss"] / math.log(2)
    return result
