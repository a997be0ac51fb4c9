"""Tables about the recurrence alone: the LRU layer, and the raw scan, against copying the array of states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from gramian.kernels import BACKENDS
from gramian.kernels.scan import SCAN_BACKENDS
from gramian.lab.bench import jax_peers, ours
from gramian.lab.bench.peers import mambapy_scan, torch_lru, torch_scan
from gramian.lab.bench.report import Result, Section, Target, targets_section
from gramian.lab.bench.settings import MAIN, SMALL, CannotRun, Settings, Shape
from gramian.lab.bench.timing import Call, Turns, in_turns, ready

__all__ = ["OURS_ALONE", "Builders", "compare", "layer_table", "own_section", "rows_against", "scan_table"]

Builders = Mapping[str, Callable[[], Call]]

OURS_ALONE = (
    "What a cut gains is measured in turns of our own contestants alone, so that what a rival leaves in caches and "
    "memory, or lets its threads do, has no part in it."
)


def rows_against(turns: Turns, missing: Mapping[str, str], reference: str) -> list[tuple[str, str, str]]:
    """Name, milliseconds and ratio to `reference` of every contestant, and the reason of those that did not run."""
    rows = [(name, turns.spread(name).times(1e3), str(turns.ratio(name, reference))) for name in turns.samples]
    return rows + [(name, f"not run: {reason}", "") for name, reason in missing.items()]


def compare(builders: Builders, settings: Settings, settle: int = 0) -> tuple[Turns, dict[str, str]]:
    """All that run, in turns; and why the others do not."""
    here, missing = ready(builders)
    return in_turns(here, settings.rounds, least=settings.least, settle=settle), missing


def own_section(turns: Turns, reference: str, what: str = "forward + backward, ms", ending: str = "") -> Section:
    """Ours without rivals between them: all that are called as `reference` is but for the states."""
    name = reference.rpartition(", N ")[0]
    same = {key: value for key, value in turns.samples.items() if key.rpartition(", N ")[0] == name}
    rows = rows_against(Turns(same, turns.calls), {}, reference)
    return Section(f"Ours alone in turns: {name}{ending}", ("contestant", what, f"ratio to {reference}"), rows)


def layer_table(settings: Settings) -> Result:
    """The LRU alone, forward and backward, at the full and the cut size."""
    full = settings.fit(MAIN)
    small = replace(full, states=settings.fit(replace(MAIN, states=SMALL)).states)
    sections = []
    builders: dict[str, Callable[[], Call]] = {}
    for shape in (full, small):
        builders |= {f"{name}, N {shape.states}": build for name, build in _layers(shape).items()}
    turns, missing = compare(builders, settings)
    for shape in (full, small):
        end = f", N {shape.states}"
        part = Turns({k: v for k, v in turns.samples.items() if k.endswith(end)}, turns.calls)
        reasons = {k: v for k, v in missing.items() if k.endswith(end)}
        columns = ("contestant", "forward + backward, ms", f"ratio to the copy{end}")
        sections.append(Section(f"N {shape.states}", columns, rows_against(part, reasons, f"copy_ of the states{end}")))
    a, b = (f"gramian.LRU, auto, N {shape.states}" for shape in (full, small))
    own, _ = compare({a: builders[a], b: builders[b]}, settings)
    sections.append(own_section(own, b))
    data = {**turns.to_dict(), "not_run": missing, "own_turns": own.to_dict()}
    targets = [
        Target(
            "gramian.LRU / copy_ of the states, large N",
            turns.ratio(a, f"copy_ of the states, N {full.states}"),
            "<=",
            1.5,
        ),
        Target("gramian.LRU, large N / small N", own.ratio(a, b), ">=", 3.5),
    ]
    note = (
        "Every contestant computes the layer's output and the gradients of the input and of all parameters. `copy_` "
        "copies the complex64 array (batch, L, N) of all states once: what any method pays that stores them. JAX is "
        "jitted; its layer is vmap over the batch of associative_scan over time."
    )
    return Result([targets_section(targets), *sections], (note, OURS_ALONE), data, _without_states(full))


def _layers(shape: Shape) -> Builders:
    backends: Builders = {
        f"gramian.LRU, {name}": lambda name=name: ours.layer(shape, name)  # type: ignore[misc]
        for name in ("auto", *BACKENDS)
    }
    return {
        **backends,
        "copy_ of the states": lambda: ours.copy(shape),
        "jax": lambda: jax_peers.layer(shape),
        "torch associative_scan, eager": lambda: torch_lru(ours.new_layer(shape), *ours.layer_data(shape)),
    }


def scan_table(settings: Settings) -> Result:
    """The raw scan, forward alone and with its gradients."""
    shape = settings.fit(MAIN)
    sections, found, data, targets = [], {}, {}, []
    for backward, bound in ((False, 1.3), (True, 4.0)):
        label = "forward + backward" if backward else "forward"
        turns, missing = compare(_scans(shape, backward), settings)
        found[label] = turns
        sections.append(
            Section(
                label, ("contestant", "ms", "ratio to the copy"), rows_against(turns, missing, "copy_ of the array")
            )
        )
        data[label] = {**turns.to_dict(), "not_run": missing}
        ratio = turns.ratio("gramian.kernels.scan, auto", "copy_ of the array")
        targets.append(Target(f"scan {label} / copying the array", ratio, "<=", bound))
    note = (
        "x complex64 (batch, L, N), poles constant in time; gradients for x and poles. JAX is jitted; vmap is the form "
        "of the literature, time-major (L, batch, N) the layout that suits it best. mambapy scans real float32 of the "
        "same number of bytes, with a decay that varies in time (so it reads and differentiates a second array), "
        "because its gradients are wrong for complex numbers. torch's associative_scan refuses combine_mode "
        "'pointwise' on CPUs, so it runs in mode 'generic', eager."
    )
    return Result([targets_section(targets), *sections], (note,), data, str(shape), "complex64")


def _scans(shape: Shape, backward: bool) -> Builders:
    x, poles, grads = ours.scan_data(shape)
    g = grads if backward else None

    def jax_scan(kind: str) -> Callable[[], Call]:
        return lambda: jax_peers.scan(kind, x, poles, g)

    def native(name: str) -> Callable[[], Call]:
        return lambda: ours.raw_scan(x, poles, g, name)

    return {
        **{f"gramian.kernels.scan, {name}": _on_this_device(name, native(name)) for name in ("auto", *SCAN_BACKENDS)},
        "copy_ of the array": lambda: ours.copy(shape),
        "jax associative_scan, vmap": jax_scan("associative, vmap"),
        "jax associative_scan, time-major": jax_scan("associative, time-major"),
        "jax lax.scan, time-major": jax_scan("loop, time-major"),
        "mambapy pscan (real)": lambda: mambapy_scan(x, backward),
        "torch associative_scan, eager": lambda: torch_scan(x, poles, g),
    }


def _on_this_device(name: str, build: Callable[[], Call]) -> Callable[[], Call]:
    def checked() -> Call:
        if name == "triton" and not torch.cuda.is_available():
            raise CannotRun("there is no CUDA device")
        return build()

    return checked


def _without_states(shape: Shape) -> str:
    return f"batch {shape.batch}, L {shape.length}, H {shape.channels}"
