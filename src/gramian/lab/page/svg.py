"""Turn a matplotlib figure into an inline SVG that takes its colours, font and width from the page around it.

Figures are drawn in stand-in colours (`INK`, `SERIES`, ...); each becomes a CSS variable of ``report.css``, so one
drawing serves the light and the dark page, and the stylesheet is the only place that knows a colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

__all__ = [
    "FAINT",
    "INK",
    "MUTED",
    "RAMP",
    "SERIES",
    "css_color",
    "drawing",
    "new_panel",
    "power_of_ten",
    "to_svg",
    "use_log_scale",
]

INK, MUTED, FAINT = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0001{i:02x}" for i in range(6))
RAMP = tuple(f"#0002{i:02x}" for i in range(8))

_CSS = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--rule)"}
_CSS |= {color: f"var(--series-{i})" for i, color in enumerate(SERIES)}
_CSS |= {color: f"var(--ramp-{i})" for i, color in enumerate(RAMP)}

_FOREIGN = r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->"
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gramian",
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 12.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "xtick.minor.size": 0.0,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The house style for everything drawn inside, whatever style the caller's process has set."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def css_color(color: str) -> str:
    """The CSS value a stand-in colour becomes."""
    return _CSS[color]


def new_panel(n_axes: int, x_label: str, *, height: float = 150.0, many: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty panel: `n_axes` axes of `height` units above each other on one shared x axis; narrow when one of many.

    Margins are fixed, so that axes of neighbouring panels line up; a unit is about a CSS pixel on the page.
    """
    width, top, bottom, gap = 340.0 if many else 420.0, 28.0, 44.0, 36.0
    total = top + bottom + n_axes * height + (n_axes - 1) * gap
    figure = Figure(figsize=(width / 72, total / 72), dpi=72)
    axes = figure.subplots(n_axes, 1, sharex=True, squeeze=False)[:, 0]
    figure.subplots_adjust(
        left=44 / width, right=1 - 14 / width, top=1 - top / total, bottom=bottom / total, hspace=gap / height
    )
    axes[-1].set_xlabel(x_label)
    axes[-1].xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: _plain(x)))
    return figure, list(axes)


def power_of_ten(exponent: int) -> str:
    """``10⁻³`` in plain characters, so that no mathematical typesetting is needed."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def use_log_scale(axes: Axes, *, base: int = 10) -> None:
    """Put y on a log scale with few, short tick labels (10⁻³, or 64 at base 2); linear without a positive value."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size:
        return
    low, high = np.log(values.min()) / np.log(base), np.log(values.max()) / np.log(base)
    axes.set_yscale("log", base=base, nonpositive="mask")
    if base == 10 and high - low < 1.5:
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _plain(y)))
    else:
        axes.yaxis.set_major_locator(LogLocator(base=base, numticks=6))
        label = _plain if base == 2 else (lambda y: power_of_ten(round(float(np.log10(y)))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: label(y)))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda _y, _: ""))


def to_svg(figure: Figure, prefix: str, label: str) -> str:
    """The figure as one ``<svg>`` element: ids start with `prefix`, `label` is its title and accessible name.

    Everything that would leak into or out of the page is taken away: prolog, metadata, namespaces, the global style
    rule, fixed width and height, font names, and ids nothing refers to.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    body = text[text.index(">", view_box.end()) + 1 :]
    body = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL
    )
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in referred else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", body)
    body = re.sub(r"#000[0-9a-f]{3}\b", lambda m: _CSS[m[0]], body)
    body = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    name = escape(label)
    return f'<svg {view_box[0]} role="img" aria-label="{name}">\n<title>{name}</title>\n{body}'


def _plain(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
