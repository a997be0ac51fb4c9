"""Tables about Mamba: two blocks of it, time and memory, and its selective scan alone, against mambapy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from gramian.lab.bench import mamba_contestants as contestants
from gramian.lab.bench.fits import fit_power_law
from gramian.lab.bench.kernel_tables import OURS_ALONE, compare, own_section, rows_against
from gramian.lab.bench.memory import peak_bytes
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import CannotRun, Settings, Shape
from gramian.lab.bench.stock_allocator import AS_IT_COMES, compare_with_stock_allocator
from gramian.lab.bench.timing import Call, Spread, Turns

__all__ = ["SETTLE", "SETTLED", "Timed", "conditions", "mamba_table", "samples_of", "selective_table"]

MODEL = Shape(8, 256, 128, 128, blocks=2)
NARROW = Shape(64, 256, 8, 128, blocks=2)  # the products of the projections are few beside the scan
SCAN = Shape(8, 256, 256, 128)
STATES, SMALL_STATES = (128, 16, 12), (12, 6, 4)
SCAN_STATES, SMALL_SCAN_STATES = (12, 16, 64, 128), (2, 3, 5, 8)
_FASTER = {128: 40.0, 16: 12.0}  # than mambapy, at least
_GAIN = {"gramian": 2.3, "gramian, narrow": 4.0}  # of a cut from 128 states to 12, at least
_SCAN_GAIN = {"gramian, numba": 5.0}

SETTLE = 2
SETTLED = (
    "Ahead of every turn each contestant makes two calls that are not counted: the allocator gives the gigabytes that "
    "mambapy freed back to the system during one of the next calls, whoever makes it."
)

Builders = dict[str, Callable[[], Call]]
Timed = tuple[Turns, dict[str, str]]


def conditions(builders: Callable[[Settings], Builders], settings: Settings) -> dict[str, Timed]:
    """Turns of all contestants, and who could not run, by what a heading says of the allocator."""
    return {
        "": compare(builders(settings), settings, settle=SETTLE),
        ", allocator as it comes": compare_with_stock_allocator(builders, settings, settle=SETTLE),
    }


def samples_of(timed: Mapping[str, Timed]) -> dict[str, Any]:
    """All that `conditions` found, for a results file."""
    return {
        ending.removeprefix(", ") or "memory kept": {**turns.to_dict(), "not_run": missing}
        for ending, (turns, missing) in timed.items()
    }


def _at(name: str, states: int) -> str:
    return f"{name}, N {states}"


def _sections(timed: Timed, sizes: tuple[int, ...], reference: str, ending: str) -> list[Section]:
    """One section a size, contestants against `reference` at that size."""
    turns, missing = timed
    sections = []
    for n in sizes:
        end = _at("", n)
        same = {k: v for k, v in turns.samples.items() if k.endswith(end)}
        reasons = {k: v for k, v in missing.items() if k.endswith(end)}
        columns = ("contestant", "forward + backward, ms", f"ratio to {_at(reference, n)}")
        rows = rows_against(Turns(same, turns.calls), reasons, _at(reference, n))
        sections.append(Section(f"N {n}{ending}", columns, rows))
    return sections


def _model_sizes(settings: Settings) -> tuple[int, ...]:
    return SMALL_STATES if settings.small else STATES


def model_builders(settings: Settings) -> Builders:
    """Blocks of ours and of mambapy at all sizes, but for mambapy's at the size after a cut."""
    sizes = _model_sizes(settings)
    builders: Builders = {}
    for n in sizes:
        shape = replace(settings.fit(MODEL), states=n)
        builders[_at("gramian", n)] = partial(contestants.model, shape)
        if n != sizes[-1]:
            builders[_at("mambapy", n)] = partial(contestants.mambapy_model, shape)
    return builders


def own_model_builders(settings: Settings) -> Builders:
    """Our blocks before and after a cut, wide and narrow."""
    sizes = _model_sizes(settings)
    return {
        _at(name, n): partial(contestants.model, replace(settings.fit(shape), states=n))
        for name, shape in (("gramian", MODEL), ("gramian, narrow", NARROW))
        for n in (sizes[0], sizes[-1])
    }


def _rival_targets(turns: Turns, sizes: tuple[int, ...], ending: str) -> list[Target]:
    pairs = [(_at("mambapy", n), _at("gramian", n), n) for n in sizes[:-1]]
    return [
        Target(f"{rival} / {mine}{ending}", turns.ratio(rival, mine), ">=", _FASTER.get(n, 1.0))
        for rival, mine, n in pairs
        if rival in turns
    ]


def _own_targets(turns: Turns, sizes: tuple[int, ...], least: Mapping[str, float], ending: str) -> list[Target]:
    """The gain of a cut, by the name of who is cut."""
    pairs = [(_at(name, sizes[0]), _at(name, sizes[-1]), bound) for name, bound in least.items()]
    return [Target(f"{a} / N {sizes[-1]}{ending}", turns.ratio(a, b), ">=", bound) for a, b, bound in pairs]


def mamba_table(settings: Settings) -> Result:
    """Two blocks of Mamba, forward and backward, in turns; and peak memory of each alone."""
    sizes, narrow = _model_sizes(settings), settings.fit(NARROW)
    shapes = {n: replace(settings.fit(MODEL), states=n) for n in sizes}
    timed, own = conditions(model_builders, settings), conditions(own_model_builders, settings)
    rows, memory = _memory(shapes)
    targets, sections = [], []
    for ending, condition in timed.items():
        targets += _rival_targets(condition[0], sizes, ending)
        targets += _own_targets(own[ending][0], sizes, _GAIN, ending)
        sections += _sections(condition, sizes, "gramian", ending)
        for name, shape in (("gramian", shapes[sizes[-1]]), ("gramian, narrow", narrow)):
            where = f" ({_without_states(shape)}){ending}"
            sections.append(own_section(own[ending][0], _at(name, sizes[-1]), ending=where))
    mine, rival = _at("gramian", sizes[0]), _at("mambapy", sizes[0])
    if rival in memory:
        ratio = Spread.of([memory[mine]["peak"] / memory[rival]["peak"]])
        targets.append(Target(f"peak memory, {mine} / mambapy", ratio, "<=", round(1 / 6, 4)))
    alone = Section("Alone in a fresh process", ("contestant", "peak, MB", "of it libraries, MB"), rows)
    note = (
        "Each contestant computes the output of two blocks ``x + mixer(norm(x))`` (d_model 128, 256 inner channels, "
        "convolution of width 4) and the gradients of the input and of all parameters, from the same weights. mambapy "
        "is plain torch, as published, with its parallel scan. N 12 is the model after a cut; the matrix products of "
        "the projections in and out do not shrink with the states, so the whole gains less from a cut than the scan "
        "alone (table 'selective'), and the less the wider the model is: the narrow one has d_model 8. Alone: peak "
        "resident memory (VmHWM) of a process that does three calls, Python and libraries included."
    )
    data = {"turns": samples_of(timed), "own_turns": samples_of(own), "memory_bytes": memory}
    sections = [targets_section(targets), *sections, alone]
    notes = (note, OURS_ALONE, SETTLED, AS_IT_COMES)
    return Result(sections, notes, data, _without_states(shapes[sizes[0]]), "float32")


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


def scan_builders(settings: Settings) -> Builders:
    """The selective scan by both backends of ours and by mambapy, at all sizes."""
    builders: Builders = {}
    for n in SMALL_SCAN_STATES if settings.small else SCAN_STATES:
        shape = replace(settings.fit(SCAN), states=n)
        for backend in ("numba", "torch"):
            builders[_at(f"gramian, {backend}", n)] = partial(contestants.scan, shape, backend)
        builders[_at("mambapy", n)] = partial(contestants.mambapy_scan, shape)
    return builders


def own_scan_builders(settings: Settings) -> Builders:
    """Our scan before and after a cut."""
    sizes = SMALL_SCAN_STATES if settings.small else SCAN_STATES
    names = [_at("gramian, numba", n) for n in (sizes[-1], sizes[0])]
    return {name: build for name, build in scan_builders(settings).items() if name in names}


def selective_table(settings: Settings) -> Result:
    """The selective scan alone, forward and backward, at four sizes of the state."""
    sizes = SMALL_SCAN_STATES if settings.small else SCAN_STATES
    timed, own = conditions(scan_builders, settings), conditions(own_scan_builders, settings)
    targets, growth, sections = [], [], []
    for ending, condition in timed.items():
        turns = condition[0]
        targets += _own_targets(own[ending][0], sizes[::-1], _SCAN_GAIN, ending)
        growth += [(f"{name}{ending}", *row) for name, row in _growth(turns, sizes)]
        sections += _sections(condition, sizes, "gramian, numba", ending)
        sections.append(own_section(own[ending][0], _at("gramian, numba", sizes[0]), ending=ending))
    columns = ("contestant", f"N {sizes[-1]} / N {sizes[0]}", "exponent", "fitted from")
    sections = [targets_section(targets), Section("Growth with states", columns, growth), *sections]
    note = (
        "Softplus and bias of the step sizes, the scan, feed-through and gate, with the gradients of all eight "
        "tensors. Memory that a cut frees is read and written no more, so the ratio can exceed that of the states."
    )
    shape = _without_states(replace(settings.fit(SCAN), states=sizes[-1]))
    data = {"turns": samples_of(timed), "own_turns": samples_of(own)}
    return Result(sections, (note, OURS_ALONE, SETTLED, AS_IT_COMES), data, shape, "float32")


def _growth(turns: Turns, sizes: tuple[int, ...]) -> list[tuple[str, tuple[str, ...]]]:
    rows: list[tuple[str, tuple[str, ...]]] = []
    for name in ("gramian, numba", "gramian, torch", "mambapy"):
        if all(_at(name, n) in turns for n in sizes):
            law = fit_power_law(sizes, [turns.spread(_at(name, n)).median for n in sizes])
            ratio = turns.ratio(_at(name, sizes[-1]), _at(name, sizes[0]))
            rows.append((name, (str(ratio), f"{law.exponent:.2f}", f"N {law.first:g}")))
    return rows


def _without_states(shape: Shape) -> str:
    return str(shape).replace(f", N {shape.states}", "")
