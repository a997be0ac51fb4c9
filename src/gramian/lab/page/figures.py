"""The figures of the run page: each a row of small panels with one shared legend, or None without data.

Panels are separate drawings, so the page can put them side by side on a desk and below each other on a phone; layer
names and legends are HTML, never part of a drawing.
"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gramian.lab.page.panels import (
    MAX_POINTS,
    Clock,
    Key,
    Panel,
    Plot,
    clocks,
    cut_keys,
    line,
    mark_cuts,
    over_clocks,
    staircase,
)
from gramian.lab.page.run_folder import Array, Row, RunFolder, Series, finite, layer_rows
from gramian.lab.page.svg import INK, MUTED, RAMP, SERIES, css_color, drawing, new_panel, to_svg, use_log_scale

__all__ = ["drift", "losses", "metric_key", "sizes", "spectra", "speed"]

_SMALLEST = 1e-13
_DRIFT = {  # title of the axes -> what is drawn in it, with colour
    "subspace overlap": {"past": SERIES[0], "future": SERIES[1]},
    "relative movement of the HSVs": {"bound": MUTED, "moved": SERIES[2]},
    "states the policy would keep": {"rank": INK},
}


def metric_key(run: RunFolder) -> str:
    """The validation metric the run is judged by: accuracy where there is one, else the loss."""
    return "eval/accuracy" if len(run.series("eval/accuracy")) else "eval/loss"


def sizes(run: RunFolder) -> Plot | None:
    """State sizes and the validation metric, over steps and over wall clock."""
    total, metric = run.series("state/total"), run.series(metric_key(run))
    layers = {layer: series for layer in run.layers if len(series := run.series(f"state/{layer}"))}
    if len(layers) == 1 and len(total):
        layers = {}
    if not len(total) and not len(metric) and not layers:
        return None
    few = len(layers) <= len(SERIES)
    colors = {layer: SERIES[i] if few else MUTED for i, layer in enumerate(layers)}
    word = f"validation {metric_key(run).removeprefix('eval/')}"

    def draw(clock: Clock) -> Figure:
        with_states = bool(len(total) or layers)
        figure, axes = new_panel(with_states + bool(len(metric)), clock.label)
        mark_cuts(axes, run, clock)
        if with_states:
            for layer, series in layers.items():
                staircase(axes[0], run, clock, series, colors[layer], 1.3 if few else 0.8)
            staircase(axes[0], run, clock, total, INK, 2.0)
            axes[0].set_title("states")
            use_log_scale(axes[0], base=2)
        if len(metric):
            line(axes[-1], clock, metric, INK, dots=True)
            axes[-1].set_title(word)
        return figure

    legend = [Key("all layers together" if layers else "states", css_color(INK))] if len(total) else []
    legend += [Key(layer, css_color(color)) for layer, color in colors.items()] if few else []
    legend += [] if few else [Key(f"each of the {len(layers)} layers", css_color(MUTED))]
    return over_clocks(run, "sizes", f"States and {word}", draw, legend)


def losses(run: RunFolder) -> Plot | None:
    """Training and validation loss, over steps and over wall clock."""
    train, valid = run.series("train/loss"), run.series("eval/loss")
    if not len(train) and not len(valid):
        return None
    values = np.concatenate([train.values, valid.values])
    values = values[np.isfinite(values)]
    wide = values.size > 0 and values.min() > 0 and values.max() > 20 * values.min()

    def draw(clock: Clock) -> Figure:
        figure, (axes,) = new_panel(1, clock.label, height=190)
        mark_cuts([axes], run, clock)
        line(axes, clock, train, SERIES[0])
        line(axes, clock, valid, SERIES[1], dots=True)
        axes.set_title("loss")
        if wide:
            use_log_scale(axes)
        return figure

    legend = [Key("training", css_color(SERIES[0]))] if len(train) else []
    legend += [Key("range of the rows averaged", css_color(SERIES[0]), "band")] if len(train) > MAX_POINTS else []
    legend += [Key("validation", css_color(SERIES[1]))] if len(valid) else []
    return over_clocks(run, "loss", "Loss", draw, legend)


def speed(run: RunFolder) -> Plot | None:
    """Training steps per second over steps."""
    rate = run.series("train/steps_per_second")
    if not len(rate):
        return None

    def draw(clock: Clock) -> Figure:
        figure, (axes,) = new_panel(1, clock.label, height=190)
        mark_cuts([axes], run, clock)
        line(axes, clock, rate, SERIES[0])
        axes.set_title("training steps per second")
        axes.set_ylim(bottom=0)
        return figure

    legend = [Key("steps per second", css_color(SERIES[0]))]
    legend += [Key("range of the rows averaged", css_color(SERIES[0]), "band")] if len(rate) > MAX_POINTS else []
    return over_clocks(run, "speed", "Training steps per second", draw, legend, wall=False)


def drift(run: RunFolder) -> Plot | None:
    """Per layer: overlap with the previous analysis, movement and its bound, states the policy would keep now."""
    kinds = [kind for drawn in _DRIFT.values() for kind in drawn]
    clock = clocks(run)[0]
    panels = []
    by_layer = {layer: {kind: run.series(f"drift/{kind}/{layer}") for kind in kinds} for layer in run.layers}
    by_layer = {layer: series for layer, series in by_layer.items() if any(map(len, series.values()))}
    with drawing():
        for index, (layer, series) in enumerate(by_layer.items()):
            svg = to_svg(_drift_of(run, clock, series, len(by_layer) > 2), f"drift-{index}", f"Drift of {layer}")
            panels.append(Panel(layer, svg))
    legend = (
        Key("past (controllable) subspace", css_color(SERIES[0])),
        Key("future (observable) subspace", css_color(SERIES[1])),
        Key("movement", css_color(SERIES[2])),
        Key("bound on the movement", css_color(MUTED), "dashed"),
        *cut_keys(run),
    )
    return Plot(tuple(panels), legend) if panels else None


def _drift_of(run: RunFolder, clock: Clock, series: dict[str, Series], many: bool) -> Figure:
    rows = {title: drawn for title, drawn in _DRIFT.items() if any(len(series[kind]) for kind in drawn)}
    figure, axes = new_panel(len(rows), clock.label, height=100, many=many)
    mark_cuts(axes, run, clock)
    for ax, (title, drawn) in zip(axes, rows.items(), strict=True):
        ax.set_title(title)
        for kind, color in drawn.items():
            line(ax, clock, series[kind], color, dots=True, style="--" if kind == "bound" else "-")
        if "past" in drawn:
            ax.set_ylim(-0.03, 1.05)
        elif "rank" in drawn:
            ax.set_ylim(bottom=0)
        else:
            use_log_scale(ax)
    return figure


def spectra(run: RunFolder) -> Plot | None:
    """Normalised Hankel singular values of every layer at its cuts and at its last analysis."""
    shown = _steps_shown(run)
    if not shown:
        return None
    colors = {step: RAMP[round(i * (len(RAMP) - 1) / max(len(shown) - 1, 1))] for i, step in enumerate(shown)}
    panels = []
    many = len(run.spectra) > 2
    with drawing():
        for index, layer in enumerate(layer for layer in run.layers if layer in run.spectra):
            figure, (axes,) = new_panel(1, "states in order of their HSV", height=180, many=many)
            for step in (step for step in shown if step in run.spectra[layer]):
                _spectrum(axes, run.spectra[layer][step], _cut_of(run, layer, step), _tau(run), colors[step])
            axes.set_title("HSV / largest HSV")
            use_log_scale(axes)
            panels.append(Panel(layer, to_svg(figure, f"spectra-{index}", f"Hankel singular values of {layer}")))
    steps_of = {color: [step for step in shown if colors[step] == color] for color in colors.values()}
    legend = [Key(_span(run, steps), css_color(color)) for color, steps in steps_of.items()]
    if run.cuts:
        legend += [Key("last state kept", css_color(MUTED), "dot"), Key("discarded", css_color(MUTED), "dashed")]
    return Plot(tuple(panels), (*legend, Key("kept sum reaches 1 − τ", css_color(MUTED), "bar")))


def _spectrum(axes: Axes, hsv: Array, cut: Row | None, tau: float | None, color: str) -> None:
    if not hsv[0] > 0:
        return
    values = np.where(hsv > _SMALLEST * hsv[0], hsv / hsv[0], np.nan)
    state = np.arange(1, len(hsv) + 1)
    kept = _border(cut, len(hsv))
    axes.plot(state[:kept], values[:kept], color=color)
    if cut is not None and kept is not None:
        axes.plot(state[kept - 1 :], values[kept - 1 :], color=color, linewidth=1.1, linestyle=(0, (2, 2)))
        axes.plot(state[kept - 1], values[kept - 1], color=color, marker="o", markersize=5)
        tau = cut["tau"] if tau is None and finite(cut.get("tau")) else tau
    if tau is not None:
        rank = min(int(np.searchsorted(np.cumsum(hsv), (1 - tau) * hsv.sum() * (1 - 1e-12))), len(hsv) - 1)
        axes.plot(state[rank], values[rank], color=color, marker="|", markersize=14, markeredgewidth=1.8, zorder=3)


def _border(cut: Row | None, n: int) -> int | None:
    """How many of `n` singular values a cut kept: its real order when they are those of the real system."""
    if cut is None:
        return None
    real = finite(cut.get("order"), cut.get("before")) and n > cut["before"]
    kept = cut["order"] if real else cut.get("after")
    return max(1, min(int(kept), n)) if kept is not None and finite(kept) else None


def _cut_of(run: RunFolder, layer: str, step: int) -> Row | None:
    rows = [row for event in run.cuts if event.get("step") == step for row in layer_rows(event)]
    return next((row for row in rows if row["layer"] == layer and row.get("accepted", True)), None)


def _tau(run: RunFolder) -> float | None:
    """The tolerance of the energy policy; None for another policy."""
    found: object = run.config
    for key in ("compress", "policy", "energy", "tau"):
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) and finite(found) else None


def _steps_shown(run: RunFolder) -> list[int]:
    """The analysed steps that cut, and the last analysed one; without cuts a few spread over the run."""
    analysed = sorted({step for by_step in run.spectra.values() for step in by_step})
    cuts = {int(event["step"]) for event in run.cuts if finite(event.get("step"))} & set(analysed)
    if cuts:
        return sorted(cuts | {analysed[-1]})
    few = sorted({round(i) for i in np.linspace(0, len(analysed) - 1, len(RAMP))}) if analysed else []
    return [analysed[i] for i in few]


def _span(run: RunFolder, steps: list[int]) -> str:
    """``step 500``, or ``steps 500–900`` when several share a colour."""
    cut = any(event.get("step") == steps[-1] for event in run.cuts)
    word = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]}–{steps[-1]}"
    return word if cut or not run.cuts else f"{word} (last analysis)"
