"""What torch's profiler saw, sorted into the parts of a model.

Time is that of operators alone, without those they call ("self"). An operator belongs to the first group of `RULES`
that names it or one of the operators and ranges around it. Operators of the backward pass carry the sequence number
of the forward operator they belong to, and so its module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["OTHER", "RULES", "Op", "group_of", "is_kernel", "operators", "summed"]

RULES: Sequence[tuple[str, Sequence[str]]] = (
    ("evaluation", ("range: evaluation",)),
    ("data loading", ("range: data",)),
    ("optimizer", ("range: optimizer", "optimizer.")),
    ("GELU", ("gelu",)),
    ("GLU", ("glu", "gramian::linear", "gramian_linear")),
    ("dropout", ("dropout", "bernoulli", "range: skip")),
    ("batch norm", ("batch_norm", "batchnorm", "normalize_rows", "range: norm")),
    ("recurrence", ("range: lru", "gramian", "scan")),
    ("encoder, head and loss", ("range: encoder", "range: head", "cross_entropy", "nll", "softmax", "mean")),
    ("matrix products of no known module", ("mm", "matmul", "linear")),
    ("accumulating gradients", ("accumulategrad",)),
    ("Python and the profiler, outside of operators", ("range: step",)),
)
OTHER = "other operators"  # pooling and what is between modules

_OF_OURS = ("gramian::", "generatedbackwardfor_gramian_")
_OF_TORCH = ("mm", "addmm", "bmm", "baddbmm", "_fft_r2c", "_fft_c2r", "_fft_c2c")


@dataclass(frozen=True)
class Op:
    """Seconds of one operator alone, and the names of all that it ran inside, innermost first."""

    name: str
    around: tuple[str, ...]
    seconds: float
    count: float = 1


def group_of(op: Op) -> str:
    """The first group with a word that is in the operator's name or in those around it."""
    names = [name.lower() for name in (op.name, *op.around)]
    for group, words in RULES[:-1]:
        if any(word in name for word in words for name in names):
            return group
    return RULES[-1][0] if op.name.lower() in RULES[-1][1] else OTHER


def is_kernel(op: Op) -> bool:
    """Whether it is a compiled kernel of ours (with the call of it), a matrix product, or a Fourier transform."""
    name = op.name.lower()
    return name.startswith(_OF_OURS) or name.removeprefix("aten::") in _OF_TORCH


def operators(events: Iterable[Any]) -> list[Op]:
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


def summed(ops: Iterable[Op]) -> list[dict[str, Any]]:
    """Seconds and calls by operator and group, largest first."""
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0])
    for op in ops:
        entry = sums[op.name, group_of(op)]
        entry[0] += op.seconds
        entry[1] += op.count
    ordered = sorted(sums.items(), key=lambda item: -item[1][0])
    return [{"operator": n, "group": g, "seconds": s, "calls": c} for (n, g), (s, c) in ordered]


def _around(event: Any) -> tuple[str, ...]:
    names, parent = [], event.cpu_parent
    while parent is not None:
        names.append(parent.name)
        parent = parent.cpu_parent
    return tuple(names)
