"""What a run came to: the model it started with beside the model it ended with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.lab.build import build_optimizer
from gramian.lab.config import TrainConfig
from gramian.lab.evaluate import evaluate, predictions
from gramian.lab.files import write_json
from gramian.lab.run import Run
from gramian.lab.saved_model import load_model
from gramian.lab.timing import interleaved
from gramian.layers.reducible import reducible_layers

__all__ = ["summarize", "training_step"]


def summarize(run: Run) -> dict[str, Any]:
    """Evaluate the selected model on validation and test data, time it beside the full one, write ``summary.json``.

    The selected model is the one in ``model/``, loaded from disk as a user would. Test data is used here and
    nowhere else, once.
    """
    selected = load_model(run.folder / "model").model.to(run.device)
    with torch.random.fork_rng(devices=[]):
        full = run.fresh_model().to(run.device)
    summary: dict[str, Any] = {
        "steps": run.step,
        "seconds": run.seconds,
        "selected_step": run.best["step"] if run.best else run.step,
        "full": _size(full),
        "now": {
            **_size(selected),
            "valid": evaluate(selected, run.data.valid),
            "test": evaluate(selected, run.data.test),
            **{name: evaluate(selected, split) for name, split in run.data.further.items()},
        },
        "cuts_seconds": sum(e["seconds"] for e in run.events.rows() if e["kind"] == "cut"),
    }
    if summary["full"]["states"] != summary["now"]["states"]:
        settings, batch = run.config.train, run.batches.batch(0)
        times = interleaved(training_step(settings, full, *batch), training_step(settings, selected, *batch))
        summary["full"]["step_seconds"], summary["now"]["step_seconds"] = times["first"], times["second"]
        summary["step_time_ratio"] = times["ratio"]
    write_json(run.folder / "summary.json", summary)
    return summary


def _size(model: nn.Module) -> dict[str, int]:

    return {
        "states": sum(layer.d_state for layer in reducible_layers(model).values()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def training_step(settings: TrainConfig, model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], None]:
    """A whole training step on one batch, with an optimizer of its own; every call changes `model`."""
    optimizer = build_optimizer(settings, model)
    device = next(model.parameters()).device
    inputs, targets = inputs.to(device), targets[: len(inputs)].to(device)
    model.train()

    def step() -> None:
        F.cross_entropy(*predictions(model, inputs, targets)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
