"""A small sequence model with everything a cut or a roll-back has to respect, and a training step for it."""

from __future__ import annotations

import copy
import io
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gramian.compression.records import Event
from gramian.layers.lru import LRU

WIDTH = 4


class Block(nn.Module):
    """Normalise, recur, drop out, add."""

    def __init__(self, d_state: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)
        self.lru = LRU(WIDTH, d_state, r_min=0.4, r_max=0.95)
        self.dropout = nn.Dropout(0.1)

    def forward(self, u: Tensor) -> Tensor:
        normed = self.norm(u.mT).mT
        return u + self.dropout(self.lru(normed))


class SmallNet(nn.Module):
    """Sequences ``(batch, L, 2)`` to one number each."""

    def __init__(self, d_states: tuple[int, ...] = (12, 8)) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, WIDTH)
        self.layers = nn.ModuleList(Block(n) for n in d_states)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, u: Tensor) -> Tensor:
        x = self.encoder(u)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def make_net(*d_states: int, seed: int = 0) -> SmallNet:
    """A seeded model whose states matter less and less; leaves the global generator seeded, too."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - training steps draw from the global generator
    model = SmallNet(d_states or (12, 8))
    with torch.no_grad():
        for layer in model.layers:
            fade = torch.logspace(0, -2, layer.lru.d_state)
            layer.lru.C_re *= fade
            layer.lru.C_im *= fade
    return model


def train_step(model: nn.Module, optimizer: Optimizer) -> float:
    """One step on random data that comes from torch, numpy and Python; the loss."""
    u = torch.randn(5, 16, 2) + random.random() + float(np.random.rand())  # noqa: NPY002 - must be rolled back
    loss = (model(u) - u[:, :, :1].sum(1)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def everything(model: nn.Module, optimizer: Optimizer | None = None, *others: Any) -> dict[str, Any]:
    """All that training depends on, copied: weights, buffers, optimizer, further objects, random generators."""
    return copy.deepcopy(
        {
            "model": dict(model.state_dict()),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "others": [thing.state_dict() for thing in others],
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
            "python": random.getstate(),
        }
    )


def set_random_numbers(saved: dict[str, Any]) -> None:
    """Put the random generators where they were when `everything` was called."""
    torch.set_rng_state(saved["torch"])
    np.random.set_state(saved["numpy"])  # noqa: NPY002
    random.setstate(saved["python"])


def through_a_file(state: Any) -> Any:
    """As torch stores and loads it, with nothing but tensors and plain containers allowed."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def without_seconds(event: Event) -> dict[str, Any]:
    """The record of an event without what differs between two runs."""
    record = event.to_dict()
    layers = [{k: v for k, v in layer.items() if k != "seconds"} for layer in record["layers"]]
    return {**record, "seconds": 0.0, "layers": layers}


def identical(one: Any, two: Any) -> bool:
    """Bit-equality of nested dictionaries, lists, tensors, arrays and plain values; a NaN equals a NaN."""
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(identical(one[k], two[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(identical, one, two))
    if isinstance(one, Tensor):
        same = isinstance(two, Tensor) and one.dtype == two.dtype and one.shape == two.shape
        return same and torch.equal(one.nan_to_num(7e7), two.nan_to_num(7e7))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, two)
    return one == two or (one != one and two != two)
