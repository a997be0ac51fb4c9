"""Small models with Mamba layers that are trained and cut."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Shrink
from gramian.compression.schedules import Every
from gramian.layers.calibration import Calibration
from selective_zoo import make_net, net_batches, train

BATCHES = net_batches(6)
NAMES = ["layers.0", "layers.1"]


def sizes(model: nn.Module) -> list[int]:
    return [layer.d_state for layer in model.layers]


def trained(calibration: Calibration | None = None, **settings: Any) -> tuple[nn.Module, Optimizer, Compressor]:
    """A model that has been trained a little, and its compressor."""
    model = make_net()
    optimizer = AdamW(model.parameters(), 1e-3, amsgrad=True)
    train(model, optimizer, 3)
    settings = {"policy": Shrink(0.5), "schedule": Every(1, until=9), **settings}
    return model, optimizer, Compressor(model, optimizer, calibration=calibration or Calibration(BATCHES), **settings)
