"""Where the time of a training step goes, by torch's own profiler.

Time is that of operators alone, without those they call ("self"). An operator belongs to the first group of `RULES`
that names it or one of the operators and ranges around it. Operators of the backward pass carry the sequence number
of the forward operator they belong to, and so its module.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile, record_function

from gramian.lab.bench import ours
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import MAIN, SMALL, Settings, Shape
from gramian.lab.bench.timing import Spread
from gramian.lab.build import build_optimizer
from gramian.lab.config import load_config
from gramian.lab.data import Batches, SequenceData, load_data
from gramian.lab.evaluate import evaluate

__all__ = ["RULES", "Op", "group_of", "profile_table"]

RULES: Sequence[tuple[str, Sequence[str]]] = (
    ("data loading", ("range: data",)),
    ("optimizer", ("range: optimizer", "optimizer.")),
    ("GELU with dropout", ("gelu",)),
    ("GLU with dropout and skip", ("glu", "range: glu", "gramian::linear", "gramian_linear")),
    ("dropout", ("dropout", "bernoulli")),
    ("batch norm", ("batch_norm", "batchnorm", "normalize_rows", "range: norm")),
    ("recurrence (kernels, products and the rest of the LRU)", ("range: lru", "gramian", "scan")),
    ("encoder, pooling, head and loss", ("range: encoder", "range: head", "cross_entropy", "nll", "softmax", "mean")),
    ("matrix products of no known module", ("mm", "matmul", "linear")),
    ("accumulating gradients", ("accumulategrad",)),
    ("Python and the profiler, outside of operators", ("range: step",)),
)
OTHER = "other operators"
TOP = 15


@dataclass(frozen=True)
class Op:
    """Seconds of one operator alone, and the names of all that it ran inside, innermost first."""

    name: str
    around: tuple[str, ...]
    seconds: float
    count: int = 1


def group_of(op: Op) -> str:
    """The first group with a word that is in the operator's name or in those around it."""
    names = [name.lower() for name in (op.name, *op.around)]
    for group, words in RULES[:-1]:
        if any(word in name for word in words for name in names):
            return group
    return RULES[-1][0] if op.name.lower() in RULES[-1][1] else OTHER


def profile_table(settings: Settings) -> Result:
    """Groups and the largest operators of the training step, at every size that was asked for."""
    config = load_config("digits-tiny" if settings.small else "demo")
    dataset = load_data(config.data.name, config.data.root, config.data.seed)
    sections, data = [], {}
    for states in settings.states or (MAIN.states, SMALL):
        shape = settings.fit(Shape(config.train.batch_size, dataset.length, config.model.d_model, states))
        label = f"N {shape.states}"
        ops, plain, evaluation = _measure(shape, dataset, settings)
        steps, every = settings.rounds, config.train.eval_every
        sections += [
            Section(f"Groups, {label}", ("group", "ms a step", "share"), _groups(ops, steps, evaluation, every)),
            Section(
                f"Largest operators, {label}",
                ("operator", "group", "calls a step", "ms a step", "share"),
                _top(ops, steps),
            ),
        ]
        data[label] = {"step_seconds": list(plain), "evaluation_seconds": evaluation, "operators": _summed(ops)}
        sections.append(Section(f"Without the profiler, {label}", ("", "ms"), [("step", Spread.of(plain).times(1e3))]))
    note = (
        f"Self CPU time of {settings.rounds} training steps with data loading, summed by operator "
        "(torch.profiler). The profiler itself slows small operators down: the time without it stands below. Matrix "
        "products are counted to the module they belong to. Evaluation is one pass over the validation data, shared "
        f"out over {config.train.eval_every} steps, as in the run."
    )
    return Result(sections, (note,), data, f"batch {shape.batch}, L {dataset.length}, H {shape.channels}")


def _measure(shape: Shape, dataset: SequenceData, settings: Settings) -> tuple[list[Op], list[float], float]:
    """Operators of as many steps as there are rounds, seconds of as many without profiler, and of an evaluation."""
    network = ours.model(shape)
    step = _step(network, Batches(dataset.train, shape.batch, 0))
    handles = [handle for name, module in network.named_modules() for handle in _ranges(name, module)]
    for i in range(3):
        step(i)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for i in range(settings.rounds):
            step(i)
    for handle in handles:
        handle.remove()
    plain = []
    for i in range(settings.rounds):
        start = time.perf_counter()
        step(i)
        plain.append(time.perf_counter() - start)
    evaluate(network, dataset.valid)
    start = time.perf_counter()
    evaluate(network, dataset.valid)
    return _operators(profiler.events()), plain, time.perf_counter() - start


def _step(network: nn.Module, batches: Batches) -> Callable[[int], None]:
    optimizer = build_optimizer(ours.SETTINGS, network)

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


def _operators(events: Iterable[Any]) -> list[Op]:
    """Events of the profiler with what is around them; those of a backward pass also with their module's range."""
    listed = [e for e in events if e.device_type.name == "CPU"]
    ranges: dict[int, str] = {}
    for event in listed:
        names = _around(event)
        if event.sequence_nr >= 0 and not any(name.startswith("autograd::engine") for name in (event.name, *names)):
            ranges[event.sequence_nr] = next((n for n in names if n.startswith("range: ")), "")
    found = []
    for event in listed:
        names, parent = _around(event), event
        while parent is not None:
            if parent.name.startswith("autograd::engine") and parent.sequence_nr in ranges:
                names = (*names, ranges[parent.sequence_nr])
            parent = parent.cpu_parent
        found.append(Op(event.name, names, event.self_cpu_time_total * 1e-6))
    return found


def _around(event: Any) -> tuple[str, ...]:
    names, parent = [], event.cpu_parent
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    return tuple(names)


def _groups(ops: Iterable[Op], steps: int, evaluation: float, every: int) -> list[tuple[str, str, str]]:
    seconds: dict[str, float] = defaultdict(float)
    for op in ops:
        seconds[group_of(op)] += op.seconds / steps
    seconds["evaluation"] = evaluation / every
    return _shares(seconds)


def _shares(seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    total = sum(seconds.values())
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    rows = [(name, f"{value * 1e3:.2f}", f"{value / total:.3f}") for name, value in ordered]
    return [*rows, ("all", f"{total * 1e3:.2f}", "1")]


def _summed(ops: Iterable[Op]) -> list[dict[str, Any]]:
    """Seconds and calls by operator and group, largest first."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for op in ops:
        entry = sums[op.name, group_of(op)]
        entry[0] += op.seconds
        entry[1] += op.count
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    return [{"operator": n, "group": g, "seconds": s, "calls": c} for (n, g), (s, c) in ordered]


def _top(ops: Sequence[Op], steps: int) -> list[tuple[str, ...]]:
    total = sum(op.seconds for op in ops)
    return [
        (
            row["operator"],
            row["group"],
            f"{row['calls'] / steps:.3g}",
            f"{row['seconds'] / steps * 1e3:.2f}",
            f"{row['seconds'] / total:.3f}",
        )
        for row in _summed(ops)[:TOP]
    ]
