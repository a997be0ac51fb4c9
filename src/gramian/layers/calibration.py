"""What a time-varying layer sees of real data: sampled input sequences, and gradients where a measure needs them.

Memory does not grow with the number of batches: of every layer, as many sequences are kept as hold `tokens` steps,
each of all sequences with the same chance; see `gramian.layers.reservoir`. Every fourth sequence is held out: it serves
to choose ridges and to measure errors, never to fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gramian.errors import GramianError
from gramian.layers.reducible import Spectrum
from gramian.layers.reservoir import Reservoir
from gramian.layers.selective.measures import Measure, Ranking

__all__ = ["Calibrated", "Calibration", "Evidence", "TimeVarying", "as_calibration", "calibrate", "evaluating"]

_HELD_OUT = 4  # every fourth sequence


@dataclass(frozen=True)
class Calibration:
    """Batches of real data, and what to learn from them.

    Parameters
    ----------
    batches
        What the model is called with, one after another: tensors, tuples whose first entry is the input, or mappings
        of keyword arguments (``input_ids``, ``labels``, ...). All of them are run at every cut, of which a few times
        `tokens` steps are enough. A list is used again at every cut; an iterator once.
    measure
        How states are ranked; by default `Balanced` where all states of a channel are forgotten alike and can be
        projected (linear attention), `Regression` where they can be mixed (Mamba), else `ContributionEnergy`.
    mix
        Let kept states take over what the others did, where the layer's structure allows it.
    tokens
        Steps kept of every layer to compute from; a third as many are held out. Regressions may have a
        coefficient for every four of them (always 256, never more than 1024), so this is also what a cut costs.
    loss
        ``loss(model, batch)``, a scalar: for measures that need gradients. Without it, ``model(...).loss`` is used.
    seed
        Of the sampling.
    """

    batches: Iterable[Any]
    measure: Measure | None = None
    mix: bool = True
    tokens: int = 4096
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise GramianError(f"Calibration(tokens={self.tokens}) was given; needed: at least 1.")
        if isinstance(self.batches, (Tensor, Mapping, str)):
            raise GramianError(
                f"Calibration({type(self.batches).__name__}) was given; needed: batches, one after another.",
                cure="For a single one: Calibration([batch]).",
            )
        if self.measure is not None and not isinstance(self.measure, Measure):
            raise GramianError(
                f"measure={self.measure!r} was given; needed: a measure, such as Regression() or Taylor().",
                cure='Of a name: measure_named("taylor").',
            )


def as_calibration(given: Calibration | Iterable[Any] | None) -> Calibration | None:
    """Plain batches as a `Calibration` with all defaults."""
    return given if given is None or isinstance(given, Calibration) else Calibration(given)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one layer has seen: `inputs` and `held_out` are lists of sequences ``(L, d_model)``; `gradients` of the loss
    with respect to the layer's outputs belong to `inputs`, and are None where no measure asked for them."""

    inputs: list[Tensor]
    held_out: list[Tensor]
    gradients: list[Tensor] | None = None

    @property
    def tokens(self) -> int:
        """Steps to compute from."""
        return sum(len(x) for x in self.inputs)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """What a calibrated spectrum was computed from: a proposal needs the same."""

    evidence: Evidence
    ranking: Ranking
    mix: bool
    seed: int = 0


@runtime_checkable
class TimeVarying(Protocol):
    """A reducible layer whose spectrum depends on data."""

    @property
    def module(self) -> nn.Module:
        """The module whose inputs and outputs are watched."""
        ...

    def hidden(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The input ``(batch, L, d_model)`` of a call of the module, and its mask ``(batch, L)`` of real steps."""
        ...

    def calibrated_spectrum(self, evidence: Evidence, calibration: Calibration) -> Spectrum:
        """How much each state matters for what was seen."""
        ...


def calibrate(model: nn.Module, layers: Mapping[str, TimeVarying], calibration: Calibration) -> dict[str, Evidence]:
    """Run `model` over the batches, in evaluation mode, and keep what each of `layers` sees.

    Gradients of parameters, buffers, the training flags and torch's random generator are left as they were.

    Raises
    ------
    GramianError
        If there are no batches, a layer is never called, or a measure needs a loss that is missing.
    """
    watches = {name: _Watch(calibration) for name in layers}
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))  # a DataLoader draws from it, whenever it starts
        for name, layer in layers.items():
            stack.enter_context(watches[name].on(layer))
        for batch in calibration.batches:
            _run(model, batch, calibration, list(watches.values()))
    return {name: watch.evidence(name) for name, watch in watches.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag


def _run(model: nn.Module, batch: Any, calibration: Calibration, watches: list[_Watch]) -> None:
    if not _needs_gradient(calibration):
        with torch.no_grad():
            _call(model, batch)
        for watch in watches:
            watch.close_batch([])
        return
    with torch.enable_grad():
        loss = calibration.loss(model, batch) if calibration.loss is not None else _own_loss(model, batch, calibration)
    outputs = [output for watch in watches for output in watch.outputs]
    for watch in watches:
        watch.listening = False  # activation checkpointing calls layers again while gradients are computed
    gradients = iter(torch.autograd.grad(loss, outputs, allow_unused=True) if outputs else ())
    for watch in watches:
        watch.close_batch([next(gradients) for _ in watch.outputs])


def _needs_gradient(calibration: Calibration) -> bool:
    return calibration.measure is not None and calibration.measure.needs_gradient


def _call(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _own_loss(model: nn.Module, batch: Any, calibration: Calibration) -> Tensor:
    loss = getattr(_call(model, batch), "loss", None)
    if not isinstance(loss, Tensor):
        assert calibration.measure is not None
        raise GramianError(
            f"the measure '{calibration.measure.name}' needs gradients of a loss, and the model returns none.",
            "Transformers' models return one for batches with labels; of any other model the loss must be told.",
            "Calibration(batches, measure=..., loss=lambda model, batch: ...), or a measure without gradients.",
        )
    return loss


class _Watch:
    """One layer's inputs, and outputs while gradients are wanted, during calibration."""

    def __init__(self, calibration: Calibration) -> None:
        generator = torch.Generator().manual_seed(calibration.seed)
        self._gradients = _needs_gradient(calibration)
        self._inputs = Reservoir(calibration.tokens, generator)
        self._held_out = Reservoir(max(1, calibration.tokens // (_HELD_OUT - 1)), generator)
        self._calls: list[tuple[Tensor, Tensor | None]] = []  # in this batch: of a shared layer more than one
        self._count = 0
        self.outputs: list[Tensor] = []
        self.listening = True

    @contextmanager
    def on(self, layer: TimeVarying) -> Iterator[None]:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self.listening:
                return
            x, mask = layer.hidden(args, kwargs)
            x = x.detach().to(_input_dtype(layer.module, x.dtype))
            self._calls.append((x, None if mask is None else mask.bool()))

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if not self.listening:
                return
            first = output[0] if isinstance(output, tuple) else output
            if not first.requires_grad:
                first.requires_grad_()
            self.outputs.append(first)

        handles = [layer.module.register_forward_pre_hook(before, with_kwargs=True)]
        if self._gradients:
            handles.append(layer.module.register_forward_hook(after, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def close_batch(self, gradients: Sequence[Tensor | None]) -> None:
        """Keep or drop the sequences of a batch, now that the gradients of its calls are known, if they are wanted."""
        for (x, mask), gradient in zip_longest(self._calls, gradients):
            for i, row in enumerate(x):
                real = slice(None) if mask is None else mask[i]
                self._offer(row[real], None if gradient is None else gradient[i].detach()[real])
        self._calls, self.outputs, self.listening = [], [], True

    def _offer(self, x: Tensor, gradient: Tensor | None) -> None:
        if not len(x):
            return  # nothing but padding
        self._count += 1
        if self._count % _HELD_OUT == 0:
            self._held_out.offer(x, None)
        else:
            self._inputs.offer(x, gradient)

    def evidence(self, name: str) -> Evidence:
        if not self._inputs.kept:
            raise GramianError(
                f"no calibration sequence reached '{name}'.",
                "There are no batches (an iterator can be used only once), or the model does not call the layer.",
                "Give a list of batches: Calibration([batch, ...]).",
            )
        inputs, held_out = [x for x, _ in self._inputs.kept], [x for x, _ in self._held_out.kept]
        gradients = [g for _, g in self._inputs.kept if g is not None]
        if not held_out:  # fewer than four sequences: the last quarter of each
            ends = [len(x) - len(x) // _HELD_OUT for x in inputs]
            held_out = [x[end:] for x, end in zip(inputs, ends, strict=True) if end < len(x)]
            inputs = [x[:end] for x, end in zip(inputs, ends, strict=True)]
            gradients = [g[:end] for g, end in zip(gradients, ends, strict=False)]
        complete = self._gradients and len(gradients) == len(inputs)
        return Evidence(inputs, held_out, gradients if complete else None)


def _input_dtype(module: nn.Module, seen: torch.dtype) -> torch.dtype:
    """What `module` takes outside of autocast, which is where it will be run again: the dtype of its linear maps."""
    dtypes = (m.weight.dtype for m in module.modules() if isinstance(m, nn.Linear))
    return next((dtype for dtype in dtypes if dtype.is_floating_point), seen)
