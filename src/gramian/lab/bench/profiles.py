"""Where the time of a training step goes, with evaluation's share of it, by torch's own profiler.

Taken of our model and, as what it was before there were kernels, of the same model of torch's own modules.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile, record_function

from gramian.lab.bench import ours, plain
from gramian.lab.bench.profiled_operators import Op, group_of, is_kernel, operators, summed
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import MAIN, SMALL, Settings, Shape
from gramian.lab.bench.timing import Spread
from gramian.lab.build import build_optimizer
from gramian.lab.config import load_config
from gramian.lab.data import Batches, SequenceData, load_data
from gramian.lab.evaluate import evaluate

__all__ = ["profile_table", "split_by_group"]

TOP = 15
_COLUMNS = ("group", "ms a step", "share", "kernels and products, ms", "all else, share of the whole")

_NOTE = (
    "Self CPU time of {rounds} training steps with data loading, summed by operator (torch.profiler), and of one pass "
    "over the validation data, divided by the {every} steps between two of them in the run. Kernels and products: "
    "compiled kernels of ours with the Python that prepares and launches them, matrix products (counted to the module "
    "they belong to) and Fourier transforms. With our kernels, dropout and the skip connection are inside GELU and "
    "GLU. Torch's own modules are the same model and parameters with our chunked algorithm for the recurrence in "
    "torch's operators (backend='torch'), nn.BatchNorm1d, nn.GELU, nn.GLU, nn.Dropout and AdamW as torch gives it. The "
    "profiler itself slows small operators down: the time without it stands below."
)


@dataclass(frozen=True)
class Profile:
    """Operators of an average step, evaluation's part included, and seconds of steps without the profiler."""

    ops: list[Op]
    unprofiled_seconds: list[float]


def profile_table(settings: Settings) -> Result:
    """Groups and the largest operators of the training step, at every size that was asked for."""
    config = load_config("digits-tiny" if settings.small else "demo")
    dataset = load_data(config.data.name, config.data.root, config.data.seed)
    sections: list[Section] = []
    timed: list[tuple[str, ...]] = []
    data: dict[str, Any] = {}
    for states in settings.states or (MAIN.states, SMALL):
        shape = settings.fit(Shape(config.train.batch_size, dataset.length, config.model.d_model, states))
        for kind, network, optimizer in _contestants(shape):
            label = f"N {shape.states}, {kind}"
            found = _measure(network, optimizer, dataset, shape, config.train.eval_every, settings.rounds)
            spread = Spread.of(found.unprofiled_seconds)
            sections += [
                Section(f"Groups, {label}", _COLUMNS, _shares(split_by_group(found.ops))),
                Section(
                    f"Largest operators, {label}",
                    ("operator", "group", "calls a step", "ms a step", "share"),
                    _top(found.ops),
                ),
            ]
            timed.append((label, f"{spread.times(1e3)}"))
            data[label] = {"step_seconds": found.unprofiled_seconds, "operators_of_a_step": summed(found.ops)}
    sections.append(Section("Without the profiler and without evaluation", ("", "ms a step"), timed))
    note = _NOTE.format(rounds=settings.rounds, every=config.train.eval_every)
    return Result(sections, (note,), data, f"batch {shape.batch}, L {dataset.length}, H {shape.channels}")


def split_by_group(ops: Iterable[Op]) -> dict[str, tuple[float, float]]:
    """Seconds of each group in kernels and products, and in all else."""
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for op in ops:
        seconds[group_of(op)][0 if is_kernel(op) else 1] += op.seconds
    return {group: (kernels, rest) for group, (kernels, rest) in seconds.items()}


def _contestants(shape: Shape) -> list[tuple[str, nn.Module, Optimizer]]:
    network, before = ours.model(shape), plain.model(shape)
    return [
        ("with our kernels", network, build_optimizer(ours.SETTINGS, network)),
        ("torch's own modules", before, plain.optimizer(before)),
    ]


def _measure(
    network: nn.Module, optimizer: Optimizer, dataset: SequenceData, shape: Shape, eval_every: int, rounds: int
) -> Profile:
    """Operators of `rounds` steps and one evaluation, and seconds of as many steps without profiler."""
    step = _step(network, optimizer, Batches(dataset.train, shape.batch, 0))
    handles = [handle for name, module in network.named_modules() for handle in _ranges(name, module)]
    for i in range(3):
        step(i)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for i in range(rounds):
            step(i)
    ops = _divided(operators(profiler.events()), rounds)
    for handle in handles:
        handle.remove()
    evaluate(network, dataset.valid)
    with profile(activities=[ProfilerActivity.CPU]) as profiler, record_function("range: evaluation"):
        evaluate(network, dataset.valid)
    ops += _divided(operators(profiler.events()), eval_every)
    seconds = []
    for i in range(rounds):
        start = time.perf_counter()
        step(i)
        seconds.append(time.perf_counter() - start)
    return Profile(ops, seconds)


def _divided(ops: Iterable[Op], steps: int) -> list[Op]:
    return [replace(op, seconds=op.seconds / steps, count=op.count / steps) for op in ops]


def _step(network: nn.Module, optimizer: Optimizer, batches: Batches) -> Callable[[int], None]:
    def step(i: int) -> None:
        with record_function("range: step"):
            with record_function("range: data"):
                inputs, targets = batches.batch(i)
            network.train()
            F.cross_entropy(network(inputs), targets).backward()
            with record_function("range: optimizer"):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return step


def _ranges(name: str, module: nn.Module) -> list[Any]:
    """Hooks that put a module's forward pass in a range of its name: encoder, head, and what is in a block."""
    if name.count(".") not in (0, 2) or name in ("", "blocks"):
        return []
    entered: list[Any] = []

    def before(*_: object) -> None:
        entered.append(record_function(f"range: {name.rsplit('.', 1)[-1]}"))
        entered[-1].__enter__()

    def after(*_: object) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


def _shares(groups: dict[str, tuple[float, float]]) -> list[tuple[str, ...]]:
    total = sum(map(sum, groups.values()))
    ordered = sorted(groups.items(), key=lambda item: -sum(item[1]))
    rows = [(name, *_cells(kernels, rest, total)) for name, (kernels, rest) in ordered]
    all_kernels = sum(kernels for kernels, _ in groups.values())
    return [*rows, ("all", *_cells(all_kernels, total - all_kernels, total))]


def _cells(kernels: float, rest: float, total: float) -> tuple[str, ...]:
    both = kernels + rest
    return f"{both * 1e3:.2f}", f"{both / total:.3f}", f"{kernels * 1e3:.2f}", f"{rest / total:.3f}"


def _top(ops: Sequence[Op]) -> list[tuple[str, ...]]:
    total = sum(op.seconds for op in ops)
    return [
        (
            row["operator"],
            row["group"],
            f"{row['calls']:.3g}",
            f"{row['seconds'] * 1e3:.2f}",
            f"{row['seconds'] / total:.3f}",
        )
        for row in summed(ops)[:TOP]
    ]
