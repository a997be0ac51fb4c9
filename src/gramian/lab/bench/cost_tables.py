"""Tables about what compression costs, and what inference costs at every size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gramian.lab.bench import ours
from gramian.lab.bench.memory import peak_bytes
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import CannotRun, Settings, Shape
from gramian.lab.bench.share_tables import trained
from gramian.lab.bench.timing import Turns, in_turns

__all__ = ["cuts_table", "inference_table"]

CUTS = ((8, 256), (512, 1024), (1152, 2304))
"""Channels and states."""


def cuts_table(settings: Settings) -> Result:
    """Seconds of one reduction by size, and the share of cuts in a whole run."""
    shapes = [Shape(1, 1, h, n) for h, n in (((2, 6), (3, 8)) if settings.small else CUTS)]
    rows, data = [], dict[str, Any]()
    for shape in shapes:
        name = f"LRU({shape.channels}, {shape.states})"
        turns = in_turns({name: ours.cut(shape)}, settings.rounds, warmup=1, least=0.0)
        data[name] = turns.to_dict()
        rows.append((name, str(max(1, shape.states // 4)), str(turns.spread(name)), ""))
    rows[-1] = (*rows[-1][:3], _peak(shapes[-1], data))
    run = _shares("digits-tiny" if settings.small else "demo")
    sections = [
        Section("One reduction", ("layer", "to states", "seconds", "peak of a fresh process, MB"), rows),
        Section("In a whole run", ("part", "seconds", "share of the run"), run["rows"]),
    ]
    note = (
        "One reduction is `layer.propose(N // 4, spectrum=layer.spectrum())` of a freshly initialised layer, in "
        f"float64; nothing is compared with it. The run is `{run['command']}` in a temporary folder; its seconds are "
        "those of summary.json (training steps and the compressor's work), cuts from cuts_seconds, the compressor's "
        "other work from events.jsonl."
    )
    return Result(sections, (note,), {**data, "run": run}, dtype="float64 (cuts), float32 (run)")


def _peak(shape: Shape, data: dict[str, Any]) -> str:
    try:
        peak = peak_bytes("cut", shape, calls=1)
    except CannotRun as reason:
        return f"not run: {reason}"
    data["peak_bytes"] = {"shape": str(shape), **peak}
    return f"{peak['peak'] / 1e6:.0f}"


def _shares(config: str) -> dict[str, Any]:
    """Where the seconds of a training run went, by its own account."""
    try:
        summary, events, _ = trained(config)
    except CannotRun as reason:
        return {"command": f"gramian train {config}", "rows": [("the whole run", f"not run: {reason}", "")]}
    total, cuts = summary["seconds"], summary["cuts_seconds"]
    looks = sum(event.get("seconds", 0.0) for event in events) - cuts
    parts = {"cuts": cuts, "looks that did not cut, and roll-backs": max(0.0, looks)}
    parts |= {
        key.removesuffix("_seconds").replace("_", " "): value
        for key, value in summary.items()
        if key.endswith("_seconds") and key != "cuts_seconds" and isinstance(value, int | float)
    }
    rows = [(name, f"{value:.3g}", f"{value / total:.4f}") for name, value in parts.items()]
    rows.append(("the whole run", f"{total:.3g}", "1"))
    return {"command": f"gramian train {config}", "rows": rows, "summary": summary, "events": events}


def inference_table(settings: Settings) -> Result:
    """One step of an LRU, and a whole prompt, by number of states, channels and batch."""
    sizes = (3, 6) if settings.small else (8, 16, 32, 64, 128, 256, 512, 1024)
    rows, data = [], {}
    for channels in (2,) if settings.small else (8, 256):
        for batch in (1, 2) if settings.small else (1, 50):
            shape = Shape(batch, 16 if settings.small else 784, channels, 0)
            turns = _of_sizes(shape, sizes, settings)
            data[f"H {channels}, batch {batch}"] = turns.to_dict()
            for n in sizes:
                step, prompt = turns.spread(f"step, N {n}"), turns.spread(f"prefill, N {n}")
                row = (str(channels), str(batch), str(n), step.times(1e6), prompt.times(1e3))
                rows.append((*row, prompt.times(1e6 / shape.tokens)))
    length = 16 if settings.small else 784
    columns = ("H", "batch", "N", "step, us", f"prefill of {length} steps, ms", "prefill, us a step and sequence")
    note = (
        "`LRU.stepper`: coefficients computed once, one compiled pass a step; prefill returns all outputs and leaves "
        "the last state behind. No gradients. All sizes of one H and batch are timed in the same turns."
    )
    return Result([Section("", columns, rows)], (note,), data)


def _of_sizes(shape: Shape, sizes: tuple[int, ...], settings: Settings) -> Turns:
    calls = {}
    for n in sizes:
        calls[f"step, N {n}"] = ours.stepping(replace(shape, states=n))
        calls[f"prefill, N {n}"] = ours.prefill(replace(shape, states=n))
    return in_turns(calls, settings.rounds, least=settings.least)
