"""How step time and memory grow with states, length, batch and channels, around the main job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gramian.lab.bench import ours
from gramian.lab.bench.fits import PowerLaw, fit_power_law
from gramian.lab.bench.memory import peak_bytes
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import MAIN, SMALL, Settings, Shape
from gramian.lab.bench.timing import Spread, in_turns
from gramian.lab.plots import _figure, _save

__all__ = ["Curve", "draw", "scaling_table"]

AXES: Mapping[str, tuple[str, Sequence[int]]] = {
    "N": ("states", (8, 16, 32, 64, 128, 256, 512, 1024)),
    "L": ("length", (98, 196, 392, 784, 1568, 3136)),
    "B": ("batch", (6, 12, 25, 50, 100, 200)),
    "H": ("channels", (4, 8, 16, 32, 64, 128)),
}
SMALL_SIZES = (2, 4, 6)


@dataclass(frozen=True)
class Curve:
    """Costs along one axis with the other three held; `low` and `high` are the range over rounds."""

    axis: str
    label: str
    sizes: tuple[int, ...]
    costs: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def law(self) -> PowerLaw:
        """Fitted to the medians."""
        return fit_power_law(self.sizes, self.costs)


def scaling_table(settings: Settings) -> Result:
    """Curves, exponents and a figure."""
    times, samples = [], {}
    for axis in AXES:
        for states in (None,) if axis == "N" else (MAIN.states, SMALL):
            curve, raw = _times(axis, states, settings)
            times.append(curve)
            samples[f"{axis} {curve.label}"] = raw
    memory = [_memory("N", None, settings), *(_memory("L", n, settings) for n in (MAIN.states, SMALL))]
    sections = [
        Section(
            "Exponents",
            ("axis", "at", "quantity", "exponent", "fitted from"),
            [
                *(_exponent(curve, "step time") for curve in times),
                *(_exponent(curve, "memory of the step") for curve in memory),
            ],
        ),
        *(_values(axis, times, "step, ms", 1e3) for axis in AXES),
        *(_values(axis, memory, "memory of the step, MB", 1e-6) for axis in ("N", "L")),
    ]
    note = (
        f"Whole training step around {MAIN}: one axis at a time, before the cuts (N {MAIN.states}) and after "
        f"(N {SMALL}); all sizes of a curve in the same turns. An exponent is the slope of a least squares line "
        "through logarithms over the upper half of the range; well below 1 it means that constant costs still weigh. "
        "Memory is the peak of a fresh process (VmHWM, three steps) less what the libraries take, as seen after steps "
        "of a tiny model."
    )
    data = {"seconds": samples, "times": [asdict(c) for c in times], "memory": [asdict(c) for c in memory]}
    return Result(sections, (note,), data, draw=lambda path: draw(times, memory, path))


def _shape(axis: str, size: int, states: int | None, settings: Settings) -> Shape:
    base = settings.fit(MAIN if states is None else replace(MAIN, states=states))
    return replace(base, **{AXES[axis][0]: size})


def _label(axis: str, states: int | None, settings: Settings) -> str:
    return "" if states is None else f"N {_shape(axis, 1, states, settings).states}"


def _times(axis: str, states: int | None, settings: Settings) -> tuple[Curve, dict[str, Any]]:
    sizes = SMALL_SIZES if settings.small else tuple(AXES[axis][1])
    calls = {str(size): ours.step(_shape(axis, size, states, settings)) for size in sizes}
    turns = in_turns(calls, settings.rounds, least=settings.least)
    spreads = [turns.spread(str(size)) for size in sizes]
    return _curve(axis, _label(axis, states, settings), sizes, spreads), turns.to_dict()


def _memory(axis: str, states: int | None, settings: Settings) -> Curve:
    sizes = SMALL_SIZES[:2] if settings.small else tuple(AXES[axis][1])
    found = [peak_bytes("step", _shape(axis, size, states, settings)) for size in sizes]
    used = [Spread.of([float(max(1, f["peak"] - f["libraries"]))]) for f in found]
    return _curve(axis, _label(axis, states, settings), sizes, used)


def _curve(axis: str, label: str, sizes: tuple[int, ...], spreads: Sequence[Spread]) -> Curve:
    costs, low, high = (tuple(getattr(s, part) for s in spreads) for part in ("median", "min", "max"))
    return Curve(axis, label, sizes, costs, low, high)


def _exponent(curve: Curve, quantity: str) -> tuple[str, ...]:
    law = curve.law
    return curve.axis, curve.label, quantity, f"{law.exponent:.2f}", f"{curve.axis} {law.first:g}"


def _values(axis: str, curves: Sequence[Curve], quantity: str, unit: float) -> Section:
    chosen = [c for c in curves if c.axis == axis]
    rows = []
    for i, size in enumerate(chosen[0].sizes):
        cells = (Spread(c.costs[i], c.low[i], c.high[i], 0) for c in chosen)
        rows.append((str(size), *(s.times(unit) if s.min < s.max else f"{s.median * unit:.0f}" for s in cells)))
    return Section(f"{quantity} against {axis}", (axis, *(f"{quantity} {c.label}".strip() for c in chosen)), rows)


def draw(times: Sequence[Curve], memory: Sequence[Curve], path: Path) -> None:
    """Six log-log panels: time against N, L, B, H and memory against N, L, with fitted lines."""
    figure = _figure(11.0, 6.5)
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure.suptitle(
        f"Training step around {MAIN}: median, range, and power law fitted to the upper half", fontsize="medium"
    )
    panels = figure.subplots(2, 3)
    plan = [("N", times), ("L", times), ("N", memory), ("B", times), ("H", times), ("L", memory)]
    for axes, (axis, curves) in zip(panels.flat, plan, strict=True):
        unit, quantity = (1e-6, "memory of the step, MB") if curves is memory else (1e3, "training step, ms")
        for i, curve in enumerate(c for c in curves if c.axis == axis):
            _draw_curve(axes, curve, unit, f"C{i}")
        axes.set(xscale="log", yscale="log", xlabel=f"{axis} ({AXES[axis][0]})", ylabel=quantity)
        axes.set_xticks(sizes := next(c.sizes for c in curves if c.axis == axis), [str(s) for s in sizes])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize="small")
    _save(figure, path)


def _draw_curve(axes: Any, curve: Curve, unit: float, color: str) -> None:
    law = curve.law
    label = f"{curve.label}  ~ {curve.axis}^{law.exponent:.2f}".strip()
    axes.fill_between(
        curve.sizes, [v * unit for v in curve.low], [v * unit for v in curve.high], color=color, alpha=0.15
    )
    axes.plot(curve.sizes, [v * unit for v in curve.costs], "o-", color=color, lw=1, ms=4, label=label)
    fitted = [s for s in curve.sizes if s >= law.first]
    axes.plot(fitted, [law(s) * unit for s in fitted], "--", color="black", lw=0.8)
