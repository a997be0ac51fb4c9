"""The parts figures are made of: panels and legends, the two clocks of a run, and lines drawn against a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gramian.lab.page.run_folder import Array, RunFolder, Series, finite
from gramian.lab.page.svg import MUTED, css_color, drawing, to_svg

__all__ = [
    "MAX_POINTS",
    "Clock",
    "Key",
    "Panel",
    "Plot",
    "clocks",
    "cut_keys",
    "line",
    "mark_cuts",
    "over_clocks",
    "staircase",
]

MAX_POINTS = 240
"""Longer series are drawn as means of consecutive rows, with their range as a band."""
_MAX_DOTS = 60


@dataclass(frozen=True)
class Key:
    """One legend entry: a mark (line, dashed, dot, bar, band) in a CSS colour, and what it stands for."""

    label: str
    color: str
    mark: str = "line"


@dataclass(frozen=True)
class Panel:
    """One drawing with its heading."""

    heading: str
    svg: str


@dataclass(frozen=True)
class Plot:
    """Panels that share a legend."""

    panels: tuple[Panel, ...]
    legend: tuple[Key, ...]


@dataclass(frozen=True)
class Clock:
    """An x axis: optimizer steps, or the wall clock of the run in a unit that suits its length.

    Attributes
    ----------
    of
        Where the points of a series lie on it.
    at
        Where optimizer steps lie on it; empty when the run recorded no wall clock.
    """

    slug: str
    heading: str
    label: str
    of: Callable[[Series], Array]
    at: Callable[[list[int]], Array]


def clocks(run: RunFolder) -> list[Clock]:
    """Optimizer steps, then wall clock if the run recorded it."""
    steps = Clock("steps", "over steps", "optimizer steps", lambda s: s.steps, lambda s: np.asarray(s, dtype=float))
    seconds = [float(row["seconds"]) for row in run.metrics if finite(row.get("seconds"))]
    if not seconds:
        return [steps]
    longest = max(seconds)
    unit, size = ("hours", 3600.0) if longest > 7200 else ("minutes", 60.0) if longest > 180 else ("seconds", 1.0)
    label = f"{unit} of training"
    wall = Clock("time", "over wall clock", label, lambda s: s.seconds / size, lambda s: run.seconds_at(s) / size)
    return [steps, wall]


def over_clocks(
    run: RunFolder, slug: str, title: str, draw: Callable[[Clock], Figure], legend: list[Key], *, wall: bool = True
) -> Plot:
    """The same drawing once per clock of the run; over steps only when `wall` is False."""
    shown = clocks(run) if wall else clocks(run)[:1]
    with drawing():
        panels = [Panel(c.heading, to_svg(draw(c), f"{slug}-{c.slug}", f"{title} {c.heading}")) for c in shown]
    return Plot(tuple(panels), (*legend, *cut_keys(run)))


def mark_cuts(axes: list[Axes], run: RunFolder, clock: Clock) -> None:
    """A thin vertical line at every cut, dashed at every roll-back."""
    for kind, style in (("cut", "-"), ("rolled_back", "--")):
        steps = [int(e["step"]) for e in run.events if e.get("kind") == kind and finite(e.get("step"))]
        for x in clock.at(steps):
            for ax in axes:
                ax.axvline(x, color=MUTED, linewidth=0.7, linestyle=style, alpha=0.45, zorder=0.5)


def cut_keys(run: RunFolder) -> tuple[Key, ...]:
    """Legend entries for the lines `mark_cuts` draws."""
    kinds = {event.get("kind") for event in run.events}
    cut = (Key("cut", css_color(MUTED), "bar"),) if "cut" in kinds else ()
    back = (Key("rolled back", css_color(MUTED), "dashed-bar"),) if "rolled_back" in kinds else ()
    return cut + back


def staircase(axes: Axes, run: RunFolder, clock: Clock, series: Series, color: str, width: float) -> None:
    """A quantity that stays until it is written again, drawn on to the last step of the run."""
    if not len(series):
        return
    x, last = clock.of(series), clock.at([run.last_step])
    axes.plot(
        np.concatenate([x, last]),
        np.append(series.values, series.values[-1:] if len(last) else []),
        color=color,
        linewidth=width,
        drawstyle="steps-post",
    )


def line(axes: Axes, clock: Clock, series: Series, color: str, *, dots: bool = False, style: str = "-") -> None:
    """A series as a line; one longer than `MAX_POINTS` as the means of consecutive rows and a band of their range."""
    x, y = clock.of(series), np.where(np.isfinite(series.values), series.values, np.nan)
    x, y = x[np.isfinite(x)], y[np.isfinite(x)]
    if len(x) > MAX_POINTS:
        parts = np.array_split(np.arange(len(x)), MAX_POINTS)
        low, high = (np.array([end(y[part]) for part in parts]) for end in (np.min, np.max))
        x, y = (np.array([column[part].mean() for part in parts]) for column in (x, y))
        axes.fill_between(x, low, high, color=color, alpha=0.22, linewidth=0)
    dots = len(x) == 1 or (dots and len(x) <= _MAX_DOTS)
    axes.plot(x, y, style, color=color, marker="o" if dots else None, markersize=3)
