"""Small models trained with many optimizers, and cut: by hand, or by a compressor beside the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from small_models import SmallNet, make_net, train_step
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from gramian.compression.compressor import Compressor
from gramian.compression.cuts import Plan, apply_plan_, plan_cuts
from gramian.compression.optimizer_state import Carry
from gramian.compression.policies import Shrink
from gramian.compression.records import Event
from gramian.layers.reducible import reducible_layers
from gramian.systems.projections import balanced

Make = Callable[[Iterable[Any]], Optimizer]


FIRST = ("exp_avg", "momentum_buffer", "grad_avg")


KNOWN: dict[str, tuple[Make, set[str]]] = {
    "Adam": (lambda p: Adam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "AdamW": (lambda p: AdamW(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "amsgrad": (lambda p: Adam(p, 1e-3, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "NAdam": (lambda p: NAdam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "RAdam": (lambda p: RAdam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "SGD": (lambda p: SGD(p, 1e-3, momentum=0.9), {"momentum_buffer"}),
    "Nesterov": (lambda p: SGD(p, 1e-3, momentum=0.9, nesterov=True), {"momentum_buffer"}),
    "RMSprop": (lambda p: RMSprop(p, 1e-3), {"square_avg"}),
    "RMSprop with momentum": (lambda p: RMSprop(p, 1e-3, momentum=0.9), {"square_avg", "momentum_buffer"}),
    "centred RMSprop": (
        lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True),
        {"square_avg", "momentum_buffer", "grad_avg"},
    ),
}


VARIANTS: dict[str, Make] = {
    "Adam foreach": lambda p: Adam(p, 1e-3, foreach=True),
    "Adam fused": lambda p: Adam(p, 1e-3, fused=True),
    "AdamW fused": lambda p: AdamW(p, 1e-3, fused=True),
    "AdamW fused amsgrad": lambda p: AdamW(p, 1e-3, fused=True, amsgrad=True),
    "SGD foreach": lambda p: SGD(p, 1e-3, momentum=0.9, foreach=True),
    "SGD fused": lambda p: SGD(p, 1e-3, momentum=0.9, fused=True),
    "RMSprop foreach": lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True, foreach=True),
    "SGD without momentum": lambda p: SGD(p, 1e-3),
    "Adam with a tensor for its rate": lambda p: Adam(p, torch.tensor(1e-3)),
}


def trained(make: Make, steps: int = 4) -> tuple[SmallNet, Optimizer]:
    model = make_net()
    optimizer = make(model.parameters())
    for _ in range(steps):
        train_step(model, optimizer)
    return model, optimizer


def states(model: SmallNet, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Copies of the optimizer's state by parameter name."""
    return {
        name: {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


def cut(model: SmallNet, optimizer: Optimizer | None, carry: Carry = "transport", by: float = 0.25) -> Plan:
    """Cut all layers, as a compressor does."""
    layers = reducible_layers(model)
    spectra = {name: layer.spectrum() for name, layer in layers.items()}
    plan = plan_cuts(layers, spectra, Shrink(by), balanced)
    assert set(plan.accepted) == set(layers)
    apply_plan_(plan, layers, optimizer, carry)
    return plan


def set_up(model: SmallNet, **options: Any) -> tuple[AdamW, Compressor]:
    """An optimizer for the model, and a compressor beside it."""
    optimizer = AdamW(model.parameters(), 1e-3)
    return optimizer, Compressor(model, optimizer, **options)


def run(model: SmallNet, optimizer: Optimizer, compressor: Compressor, steps: int) -> list[Event]:
    """Train and compress; the events of all steps."""
    events = []
    for _ in range(steps):
        train_step(model, optimizer)
        events.append(compressor.step())
    return events
