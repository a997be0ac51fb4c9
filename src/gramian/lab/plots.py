"""Figures that are written to files: spectra of a model, and results of an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gramian.errors import ConfigError
from gramian.lab.files import whole_file

__all__ = ["draw_comparison", "draw_spectra", "draw_state_sizes"]

_FORMATS = (".svg", ".png", ".pdf")


def draw_spectra(rows: list[dict[str, Any]], path: Path) -> None:
    """Normalised spectra of all layers, as `gramian.lab.analyze.analyze` returns them, on a logarithmic axis."""
    figure = _figure(6.0, 4.0)
    axes = figure.subplots()
    for row in rows:
        values = row["values"]
        axes.semilogy(
            range(1, len(values) + 1), [v / values[0] if values[0] > 0 else 0.0 for v in values], label=row["layer"]
        )
    axes.set_xlabel("index")
    axes.set_ylabel("Hankel singular value / largest")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    """Validation accuracy over wall clock, mean of all seeds, and test accuracy against final states, every seed."""
    figure = _figure(10.0, 4.0)
    over_time, by_size = figure.subplots(1, 2)
    for index, (name, variant) in enumerate(results["variants"].items()):
        color = f"C{index}"
        for i, run in enumerate(variant["runs"]):
            over_time.plot(
                run["curve"]["seconds"],
                run["curve"]["accuracy"],
                color=color,
                alpha=0.8,
                lw=1,
                label=None if i else name,
            )
        states = [run["states"] for run in variant["runs"]]
        by_size.scatter(states, [run["test"] for run in variant["runs"]], color=color, label=name, s=24)
    over_time.set_xlabel("seconds of training")
    over_time.set_ylabel("validation accuracy")
    by_size.set_xscale("log", base=2)
    by_size.set_xlabel("states at the end")
    by_size.set_ylabel("test accuracy")
    for axes in (over_time, by_size):
        axes.grid(alpha=0.3)
    by_size.legend(frameon=False, fontsize="small", loc="lower right")
    figure.suptitle(
        f"{results['title']}, seeds {results['seeds']}: one line and one dot for each run", fontsize="medium"
    )
    _save(figure, path)


def draw_state_sizes(results: dict[str, Any], path: Path) -> None:
    """Test accuracy against states trained from scratch: mean and standard deviation of the seeds, and every seed."""
    figure = _figure(6.5, 4.0)
    axes = figure.subplots()
    for index, curve in enumerate(results["summary"]):
        points, color = curve["points"], f"C{index}"
        sizes, means = [point["d_state"] for point in points], [point["mean"] for point in points]
        deviations = [point["sd"] or 0.0 for point in points]
        label = f"{curve['curve']}, d_model {curve['d_model']}"
        axes.errorbar(sizes, means, deviations, color=color, lw=1.2, capsize=2, label=label)
        seeds = [(point["d_state"], accuracy) for point in points for accuracy in point["test"]]
        axes.scatter(*zip(*seeds, strict=True), color=color, s=10, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("states of each layer, from scratch")
    axes.set_ylabel("test accuracy")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")
    figure.suptitle(f"{results['title']}, seeds {results['seeds']}", fontsize="medium")
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("figures need matplotlib.", cure="pip install 'gramian[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    if path.suffix not in _FORMATS:
        raise ConfigError(f"'{path}' was given for a figure; needed: a name that ends in {', '.join(_FORMATS)}.")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with whole_file(path) as draft:
        figure.savefig(draft, format=path.suffix[1:], metadata=metadata, dpi=150)
