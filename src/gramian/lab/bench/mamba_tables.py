"""Tables about Mamba: two blocks of it, time and memory, and its selective scan alone, against mambapy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gramian.lab.bench import mamba_contestants as contestants
from gramian.lab.bench.fits import fit_power_law
from gramian.lab.bench.kernel_tables import compare, rows_against
from gramian.lab.bench.memory import peak_bytes
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import CannotRun, Settings, Shape
from gramian.lab.bench.timing import Call, Spread, Turns

__all__ = ["mamba_table", "selective_table"]

MODEL = Shape(8, 256, 128, 128, blocks=2)
SCAN = Shape(8, 256, 256, 128)
STATES, SMALL_STATES = (128, 16, 12), (12, 6, 4)
SCAN_STATES, SMALL_SCAN_STATES = (12, 16, 64, 128), (2, 3, 5, 8)
_FASTER = {128: 40.0, 16: 12.0}  # than mambapy, at least

_SETTLE = 2
_SETTLED = (
    "Ahead of every turn each contestant makes two calls that are not counted: the allocator gives the gigabytes that "
    "mambapy freed back to the system during one of the next calls, whoever makes it."
)

Builders = dict[str, Callable[[], Call]]


def _at(name: str, states: int) -> str:
    return f"{name}, N {states}"


def _sections(turns: Turns, missing: dict[str, str], sizes: tuple[int, ...], reference: str) -> list[Section]:
    """One section a size, contestants against `reference` at that size."""
    sections = []
    for n in sizes:
        end = _at("", n)
        part = Turns({k: v for k, v in turns.samples.items() if k.endswith(end)}, turns.calls)
        reasons = {k: v for k, v in missing.items() if k.endswith(end)}
        columns = ("contestant", "forward + backward, ms", f"ratio to {_at(reference, n)}")
        sections.append(Section(f"N {n}", columns, rows_against(part, reasons, _at(reference, n))))
    return sections


def mamba_table(settings: Settings) -> Result:
    """Two blocks of Mamba, forward and backward, in turns; and peak memory of each alone."""
    sizes = SMALL_STATES if settings.small else STATES
    shapes = {n: replace(settings.fit(MODEL), states=n) for n in sizes}
    builders: Builders = {}
    for n, shape in shapes.items():
        builders[_at("gramian", n)] = lambda shape=shape: contestants.model(shape)  # type: ignore[misc]
        if n != sizes[-1]:
            builders[_at("mambapy", n)] = lambda shape=shape: contestants.mambapy_model(shape)  # type: ignore[misc]
    turns, missing = compare(builders, settings, settle=_SETTLE)
    rows, memory = _memory(shapes)
    largest, _, cut = sizes
    targets = [
        Target(f"{rival} / {mine}", turns.ratio(rival, mine), ">=", _FASTER.get(n, 1.0))
        for n, (rival, mine) in {n: (_at("mambapy", n), _at("gramian", n)) for n in sizes[:-1]}.items()
        if rival in turns
    ]
    targets.append(
        Target(
            f"{_at('gramian', largest)} / N {cut}",
            turns.ratio(_at("gramian", largest), _at("gramian", cut)),
            ">=",
            2.0,
        )
    )
    mine, rival = _at("gramian", largest), _at("mambapy", largest)
    if rival in memory:
        ratio = Spread.of([memory[mine]["peak"] / memory[rival]["peak"]])
        targets.append(Target(f"peak memory, {mine} / mambapy", ratio, "<=", round(1 / 6, 4)))
    alone = Section("Alone in a fresh process", ("contestant", "peak, MB", "of it libraries, MB"), rows)
    sections = [targets_section(targets), *_sections(turns, missing, sizes, "gramian"), alone]
    note = (
        "Each contestant computes the output of two blocks ``x + mixer(norm(x))`` (d_model 128, 256 inner channels, "
        "convolution of width 4) and the gradients of the input and of all parameters, from the same weights. mambapy "
        "is plain torch, as published, with its parallel scan. N 12 is the model after a cut; the matrix products of "
        "the projections in and out do not shrink with the states, so the whole gains less from a cut than the scan "
        "alone (table 'selective'). Alone: peak resident memory (VmHWM) of a process that does three calls, Python "
        "and libraries included."
    )
    data = {**turns.to_dict(), "not_run": missing, "memory_bytes": memory}
    return Result(sections, (note, _SETTLED), data, _without_states(shapes[largest]), "float32")


def _memory(shapes: dict[int, Shape]) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    rows: list[tuple[str, ...]] = []
    found: dict[str, Any] = {}
    for n, shape in shapes.items():
        for contestant, name in (("gramian", "mamba"), ("mambapy", "mambapy")):
            label = _at(contestant, n)
            try:
                found[label] = seen = peak_bytes(name, shape)
            except CannotRun as reason:
                rows.append((label, f"not run: {reason}", ""))
            else:
                rows.append((label, f"{seen['peak'] / 1e6:.0f}", f"{seen['libraries'] / 1e6:.0f}"))
    return rows, found


def selective_table(settings: Settings) -> Result:
    """The selective scan alone, forward and backward, at four sizes of the state."""
    sizes = SMALL_SCAN_STATES if settings.small else SCAN_STATES
    shapes = {n: replace(settings.fit(SCAN), states=n) for n in sizes}
    builders: Builders = {}
    for n, shape in shapes.items():
        for backend in ("numba", "torch"):
            builders[_at(f"gramian, {backend}", n)] = lambda s=shape, b=backend: contestants.scan(s, b)  # type: ignore[misc]
        builders[_at("mambapy", n)] = lambda s=shape: contestants.mambapy_scan(s)  # type: ignore[misc]
    turns, missing = compare(builders, settings, settle=_SETTLE)
    small, large = (_at("gramian, numba", n) for n in (sizes[0], sizes[-1]))
    targets = [Target(f"{large} / N {sizes[0]}", turns.ratio(large, small), ">=", 6.0)]
    rows = []
    for name in ("gramian, numba", "gramian, torch", "mambapy"):
        if all(_at(name, n) in turns for n in sizes):
            law = fit_power_law(sizes, [turns.spread(_at(name, n)).median for n in sizes])
            ratio = turns.ratio(_at(name, sizes[-1]), _at(name, sizes[0]))
            rows.append((name, str(ratio), f"{law.exponent:.2f}", f"N {law.first:g}"))
    growth = Section(
        "Growth with states",
        ("contestant", f"N {sizes[-1]} / N {sizes[0]}", "exponent", "fitted from"),
        rows,
    )
    sections = [targets_section(targets), growth, *_sections(turns, missing, sizes, "gramian, numba")]
    note = (
        "Softplus and bias of the step sizes, the scan, feed-through and gate, with the gradients of all eight "
        "tensors. Memory that a cut frees is read and written no more, so the ratio can exceed that of the states."
    )
    data = {**turns.to_dict(), "not_run": missing}
    return Result(sections, (note, _SETTLED), data, _without_states(shapes[sizes[-1]]), "float32")


def _without_states(shape: Shape) -> str:
    return str(shape).replace(f", N {shape.states}", "")
