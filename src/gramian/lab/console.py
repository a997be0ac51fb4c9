"""What a run looks like in a terminal: a live bar while it trains, and a table of what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gramian.compression.records import Event
from gramian.lab.config import Config
from gramian.lab.run import Run
from gramian.lab.train import Watcher

__all__ = ["LiveBar", "analysis_table", "cut_table", "dry_run_lines", "plan_table", "summary_table"]


class LiveBar(Watcher):
    """Loss, metric, state sizes, steps per second and the next cut, in one line that stays in place."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.values = {"loss": "-", "metric": "-", "speed": "-"}
        self.progress = Progress(MofNCompleteColumn(), TextColumn("{task.description}"), BarColumn(10), console=console)

    def started(self, run: Run) -> None:
        steps = [] if run.compressor is None else run.compressor.schedule.steps
        self.console.print(f"[bold]{run.config.name}[/bold]  {run.data.source}")
        self.console.print(f"states {_sizes(run)}; looks at steps {_steps(steps)}; run folder {run.folder}")
        self.progress.start()
        self.task = self.progress.add_task(self._line(run), total=run.config.train.steps, completed=run.step)

    def stepped(self, run: Run, row: dict[str, float]) -> None:
        self.values |= {"loss": f"{row['train/loss']:.3f}", "speed": f"{row['train/steps_per_second']:.1f}"}
        self.progress.update(self.task, completed=run.step, description=self._line(run))

    def evaluated(self, run: Run, row: dict[str, float]) -> None:
        self.values["metric"] = f"{row['eval/accuracy']:.3f}"
        self.progress.update(self.task, completed=run.step, description=self._line(run))

    def happened(self, run: Run, event: Event) -> None:
        self.progress.console.print(f"step {event.step:>6}  {event}", highlight=False)
        self.progress.update(self.task, completed=run.step, description=self._line(run))

    def finished(self, run: Run) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the line as it is and give the terminal back."""
        self.progress.stop()

    def _line(self, run: Run) -> str:
        ahead = [] if run.compressor is None else [s for s in run.compressor.schedule.steps if s > run.step]
        parts = (
            f"loss {self.values['loss']}",
            f"valid {self.values['metric']}",
            f"states {_sizes(run)}",
            f"{self.values['speed']}/s",
            f"next cut {ahead[0]}" if ahead else "no more cuts",
        )
        return " ".join(parts)


def _sizes(run: Run) -> str:
    sizes = list(run.sizes.values())
    return str(sizes[0]) if len(sizes) == 1 else f"{sum(sizes)} ({'+'.join(map(str, sizes))})"


def _steps(steps: list[int]) -> str:
    shown = ", ".join(map(str, steps[:6]))
    return f"{shown}, ... {steps[-1]}" if len(steps) > 6 else shown or "none"


def _table(title: str) -> Table:
    style = {"title_justify": "left", "title_style": "bold", "show_edge": False, "pad_edge": False}
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, **style)  # type: ignore[arg-type]


def cut_table(events: list[dict[str, Any]]) -> Table:
    """One row for each layer of each event."""
    table = _table("Cuts (bound and measured error over the layer's norm, or its output's; no bound on the loss)")
    for column in ("step", "layer", "states", "tau", "tau total", "bound", "measured", "s", ""):
        table.add_column(column, justify="left" if column in ("layer", "") else "right", no_wrap=column != "")
    for event in events:
        if event["kind"] == "noted":  # was printed when it happened
            continue
        for c in event["layers"]:
            measured = next(
                (c[key] for key in ("measured", "held_out_error", "output_error") if c.get(key) is not None), None
            )
            found = (c["tau"], c["tau_total"], c["bound"], measured)
            numbers = ("-" if number is None else f"{number:.3g}" for number in found)
            states = f"{c['before']} -> {c['after']}"
            table.add_row(str(event["step"]), c["layer"], states, *numbers, f"{c['seconds']:.2f}", c["reason"])
        if not event["layers"]:
            table.add_row(str(event["step"]), "", "", "", "", "", "", f"{event['seconds']:.2f}", event["reason"])
    return table


def summary_table(summary: dict[str, Any]) -> Table:
    """The full model beside the one that the run ended with."""
    full, now = summary["full"], summary["now"]
    table = _table(f"After {summary['steps']} steps, {summary['seconds']:.0f} s of training")
    for column in ("", "full", "now"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("states", str(full["states"]), str(now["states"]))
    table.add_row("parameters", str(full["parameters"]), str(now["parameters"]))
    if "step_time_ratio" in summary:
        times = (f"{1e3 * m['step_seconds']['median']:.1f} ms" for m in (full, now))
        table.add_row("training step, median of 7", *times)
        ratio = summary["step_time_ratio"]
        table.add_row("step time, full / now", "", f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})")
    table.add_row(f"validation accuracy (step {summary['selected_step']})", "", f"{now['valid']['accuracy']:.3f}")
    table.add_row("test accuracy", "", f"{now['test']['accuracy']:.3f}")
    table.add_row("time in cuts", "", f"{summary['cuts_seconds']:.2f} s")
    return table


def plan_table(event: Event) -> Table:
    """What a cut did, or would do."""
    return cut_table([event.to_dict()])


def analysis_table(rows: list[dict[str, Any]], taus: list[float]) -> Table:
    """States that each tolerance would keep, for every layer, with the error bound over its norm if it has one."""
    table = _table("States kept (error bound / norm), by tau")
    for column in ("layer", "d_state", "norm", *(f"{tau:g}" for tau in taus)):
        table.add_column(column, justify="left" if column == "layer" else "right", no_wrap=True)
    for row in rows:
        norm = "-" if row["norm"] is None else f"{row['norm']:.3g}"
        table.add_row(row["layer"], str(row["d_state"]), norm, *(_kept(row["kept"][str(tau)]) for tau in taus))
    return table


def _kept(kept: dict[str, Any]) -> str:
    return str(kept["d_state"]) if kept["bound"] is None else f"{kept['d_state']} ({kept['bound']:.2g})"


def dry_run_lines(config: Config, steps: list[int], estimate: dict[str, float], folder: Path) -> list[str]:
    """What a run would do, in words."""
    return [
        f"event steps: {_steps(steps)}",
        f"states: {sum(config.model.d_states)}, parameters: {estimate['parameters']:.0f}",
        f"cost at full size: {1e3 * estimate['step_seconds']:.1f} ms a step (median of 5 here), about "
        f"{estimate['step_seconds'] * config.train.steps / 60:.1f} min without cuts",
        f"would write to: {folder}",
    ]
