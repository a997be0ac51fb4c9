"""How good a classifier is on a split."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from gramian.lab.data import Split

__all__ = ["evaluate"]


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int = 500) -> dict[str, float]:
    """Accuracy (a fraction) and mean cross entropy (nats) over all samples of `split`, in eval mode.

    The model's training mode and device are left as they were.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    correct, loss = 0, 0.0
    for inputs, targets in split.in_order(batch_size):
        logits, targets = model(inputs.to(device)).float(), targets.to(device)
        correct += int((logits.argmax(-1) == targets).sum())
        loss += float(F.cross_entropy(logits, targets, reduction="sum"))
    model.train(was_training)
    return {"accuracy": correct / len(split), "loss": loss / len(split)}
