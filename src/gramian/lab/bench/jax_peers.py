"""The contestants in JAX, with the parameters of ours."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from gramian.lab.bench import ours
from gramian.lab.bench.resident import JAX_ENVIRONMENT
from gramian.lab.bench.settings import CannotRun, Shape
from gramian.lab.bench.timing import Call
from gramian.lab.models import SequenceModel

__all__ = ["evaluation", "jax_module", "layer", "model_parameters", "scan", "step"]


def jax_module(name: str) -> Any:
    """``gramian.lab.bench.NAME``, which imports jax, on the CPU with as many threads as torch has."""
    if find_spec("jax") is None:
        raise CannotRun("jax is not installed: pip install 'gramian[bench]'")
    for variable, value in JAX_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return import_module(f"gramian.lab.bench.{name}")


def numpy_of(tensor: Tensor) -> Any:
    """A copy, so that nothing JAX does reaches torch's memory."""
    return tensor.detach().resolve_conj().numpy().copy()


def _parameters_of(module: nn.Module) -> dict[str, Any]:
    return {name: numpy_of(parameter) for name, parameter in module.named_parameters()}


def _dense(layer: nn.Module) -> dict[str, Any]:
    p = _parameters_of(layer)
    return {"w": p["weight"].T.copy(), "b": p["bias"]}


def model_parameters(model: SequenceModel) -> tuple[Any, Any]:
    """Parameters of our model as `gramian.lab.bench.jax_model` has them, and running statistics of its batch norms."""
    blocks: list[Any] = list(model.blocks)
    parameters = {
        "encoder": _dense(model.encoder),
        "blocks": [{"lru": _parameters_of(block.lru), "glu": _dense(block.glu)} for block in blocks],
        "head": _dense(model.head),
    }
    norms = [block.norm.norm for block in blocks]
    return parameters, [{"mean": numpy_of(n.running_mean), "var": numpy_of(n.running_var)} for n in norms]


def step(shape: Shape, dropout: float = 0.1, *, loop: bool = False) -> Call:
    """The whole training step."""
    trainer = jax_module("jax_model").Trainer(*model_parameters(ours.model(shape)), dropout, loop=loop)
    inputs, targets = (import_module("jax.numpy").array(numpy_of(t)) for t in ours.batch(shape))
    return lambda: trainer.step(inputs, targets)


def evaluation(shape: Shape) -> Call:
    """The forward pass as it is evaluated."""
    inputs = numpy_of(ours.batch(shape)[0])
    call: Call = jax_module("jax_model").evaluation(*model_parameters(ours.model(shape)), inputs)
    return call


def layer(shape: Shape) -> Call:
    """The LRU alone, forward and backward."""
    data = (numpy_of(t) for t in ours.layer_data(shape))
    call: Call = jax_module("jax_lru").layer(_parameters_of(ours.new_layer(shape)), *data)
    return call


def scan(kind: str, x: Tensor, poles: Tensor, g: Tensor | None) -> Call:
    """A raw scan; `kind` is one of ``jax_lru.SCANS``."""
    gradient = None if g is None else numpy_of(g)
    call: Call = jax_module("jax_lru").scan(kind, numpy_of(x), numpy_of(poles), gradient)
    return call
