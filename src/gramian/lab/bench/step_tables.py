"""Tables about the whole model: training step, a wide one, and evaluation, against the same in JAX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gramian.lab.bench import jax_peers, ours
from gramian.lab.bench.kernel_tables import OURS_ALONE, compare, own_section, rows_against
from gramian.lab.bench.memory import JAX, peak_bytes
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import MAIN, SMALL, CannotRun, Settings, Shape
from gramian.lab.bench.timing import Call, Spread, Turns

__all__ = ["evaluate_table", "multiply_adds", "step_table", "wide_table"]

_WARMUP = 2

WIDE = Shape(8, 1024, 512, 384, blocks=2)

_STEP_NOTE = (
    "A step is forward, cross entropy, backward and AdamW on one batch, of the same model with the same parameters. "
    "Ours always has dropout 0.1. JAX is one jitted step with donated state, in the form of the literature (complex64, "
    "vmap of associative_scan); its rows have dropout 0.1 (threefry, JAX's own) and none, so that our speed is never "
    "the price of its random numbers. The rows with lax.scan, a loop over time, are not what the literature does: they "
    "show what JAX can do on a CPU. Compilation is not counted."
)


def _pair(settings: Settings) -> tuple[Shape, Shape]:
    full = settings.fit(MAIN)
    return full, replace(full, states=settings.fit(replace(MAIN, states=SMALL)).states)


def step_table(settings: Settings) -> Result:
    """The training step of the main job before and after the cuts, its ratio to JAX, and peak memory."""
    full, small = _pair(settings)
    builders: dict[str, Callable[[], Call]] = {}
    for shape in (full, small):
        builders |= _steps(shape)
    turns, missing = compare(builders, settings)
    a, b = (f"gramian, N {shape.states}" for shape in (full, small))
    own, _ = compare({a: builders[a], b: builders[b]}, settings)
    targets = [Target("gramian, large N / small N", own.ratio(a, b), ">=", 2.5)]
    for shape, bound in ((full, 25.0), (small, 6.0)):
        targets += _against_jax(turns, shape, bound)
    rows, memory = _memory((full, small), _WARMUP + settings.rounds)
    ratio = {n: _ratio(memory, n) for n in (full.states, small.states)}
    targets += [Target(f"peak memory, gramian / jax, N {n}", r, "<=", 0.4) for n, r in ratio.items() if r is not None]
    sections = [
        targets_section(targets),
        Section("Seconds", ("contestant", "step, ms", f"ratio to {a}"), rows_against(turns, missing, a)),
        own_section(own, b, "step, ms"),
        Section("Alone in a fresh process", ("contestant", "peak, MB", "of it libraries, MB", "step, ms"), rows),
    ]
    note = (
        "Alone: a fresh process for each contestant, with the allocator as it is by default. Peak memory (VmHWM) with "
        "Python and libraries; there is no torch in the processes of JAX; libraries are what a process took after "
        "steps of a tiny model. Its seconds were not taken in turns: they tell what the default allocator costs each "
        "side, and are no comparison."
    )
    data = {**turns.to_dict(), "not_run": missing, "own_turns": own.to_dict(), "memory_bytes": memory}
    return Result(
        sections, (_STEP_NOTE, OURS_ALONE, note), data, f"batch {full.batch}, L {full.length}, H {full.channels}"
    )


def _steps(shape: Shape) -> dict[str, Callable[[], Call]]:
    end = f", N {shape.states}"
    return {
        f"gramian{end}": lambda: ours.step(shape),
        f"jax{end}": lambda: jax_peers.step(shape),
        f"jax, no dropout{end}": lambda: jax_peers.step(shape, 0.0),
        f"jax, lax.scan, no dropout{end}": lambda: jax_peers.step(shape, 0.0, loop=True),
    }


def _against_jax(turns: Turns, shape: Shape, bound: float) -> list[Target]:
    name = f"gramian, N {shape.states}"
    rivals = (f"jax, N {shape.states}", f"jax, no dropout, N {shape.states}")
    return [Target(f"{r} / {name}", turns.ratio(r, name), ">=", bound) for r in rivals if r in turns]


def _memory(shapes: Sequence[Shape], calls: int) -> tuple[list[tuple[str, ...]], dict[str, Any]]:
    rows: list[tuple[str, ...]] = []
    found: dict[str, Any] = {}
    for shape in shapes:
        for name in ("step", *JAX):
            label = f"{name}, N {shape.states}"
            try:
                found[label] = seen = peak_bytes(name, shape, calls)
            except CannotRun as reason:
                rows.append((label, f"not run: {reason}", "", ""))
            else:
                alone = Spread.of(seen["seconds"][_WARMUP:]).times(1e3)
                rows.append((label, f"{seen['peak'] / 1e6:.0f}", f"{seen['libraries'] / 1e6:.0f}", alone))
    return rows, found


def _ratio(memory: dict[str, Any], states: int) -> Spread | None:
    """Against the JAX step without dropout, the smaller one."""
    mine, other = memory.get(f"step, N {states}"), memory.get(f"jax step, no dropout, N {states}")
    return Spread.of([mine["peak"] / other["peak"]]) if mine and other else None


def multiply_adds(shape: Shape) -> int:
    """Real multiply-adds that the plain form of a training step needs, three times those of its forward pass.

    Per block and step of time: ``4 N H`` for the maps B and C between H reals and N complex states (2 N H each), and
    ``2 H^2`` for the gated linear unit. The recurrence itself, normalisation, activations, encoder and head are not
    counted, nor what a method computes beyond the plain form.
    """
    H, N = shape.channels, shape.states
    return 3 * shape.blocks * shape.tokens * (4 * N * H + 2 * H * H)


def wide_table(settings: Settings) -> Result:
    """The training step of a wide model, where matrix products decide."""
    shape = settings.fit(WIDE)
    size = 64 if settings.small else 2048
    product = f"torch.mm, {size} x {size}"
    turns, missing = compare({**_steps(shape), product: lambda: ours.matrix_product(size)}, settings)
    name, needed = f"gramian, N {shape.states}", multiply_adds(shape)
    peak = Spread.of(size**3 / s for s in turns.samples[product])
    rows = []
    for contestant in turns.samples:
        if contestant == product:
            continue
        rate = Spread.of(needed / s for s in turns.samples[contestant])
        fraction = Spread.of(
            needed / a / (size**3 / b) for a, b in zip(turns.samples[contestant], turns.samples[product], strict=True)
        )
        rows.append((contestant, rate.times(1e-9), str(fraction)))
    rows.append((product, peak.times(1e-9), "1"))
    sections = [
        targets_section(_against_jax(turns, shape, 3.0)),
        Section("Seconds", ("contestant", "ms", f"ratio to {name}"), rows_against(turns, missing, name)),
        Section("Multiply-adds", ("contestant", "10^9 multiply-adds / s", "fraction of the matrix product's"), rows),
    ]
    count = (
        f"{needed / 1e9:.3g} * 10^9 multiply-adds a step: per block and step of time 4 N H for B and C and 2 H^2 for "
        "the GLU, times 3 for forward and backward; nothing else is counted, whatever a method does. The peak is "
        "float32 torch.mm in the same turns."
    )
    data = {**turns.to_dict(), "not_run": missing, "multiply_adds": needed}
    return Result(sections, (_STEP_NOTE, count), data, str(shape))


def evaluate_table(settings: Settings) -> Result:
    """The forward pass as it is evaluated, before and after the cuts."""
    full, small = _pair(settings)
    builders: dict[str, Callable[[], Call]] = {}
    for shape in (full, small):
        builders[f"gramian, N {shape.states}"] = lambda shape=shape: ours.evaluation(shape)  # type: ignore[misc]
        builders[f"jax, N {shape.states}"] = lambda shape=shape: jax_peers.evaluation(shape)  # type: ignore[misc]
    turns, missing = compare(builders, settings)
    a = f"gramian, N {full.states}"
    targets = [t for shape in (full, small) for t in _against_jax(turns, shape, 30.0)]
    sections = [
        targets_section(targets),
        Section("Seconds", ("contestant", "batch, ms", f"ratio to {a}"), rows_against(turns, missing, a)),
    ]
    note = "One batch through the model in eval mode, without gradients (JAX: jitted), running statistics, no dropout."
    data = {**turns.to_dict(), "not_run": missing}
    return Result(sections, (note,), data, f"batch {full.batch}, L {full.length}, H {full.channels}")
