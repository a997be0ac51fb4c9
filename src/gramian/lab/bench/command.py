"""What ``gramian bench`` does: the gate, then table after table, each written as soon as it is measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from gramian.errors import ConfigError
from gramian.lab.bench.gate import require_green_kernels, source_tree
from gramian.lab.bench.neighbours import Neighbours
from gramian.lab.bench.registry import TABLES, chosen
from gramian.lab.bench.report import markdown, record, write
from gramian.lab.bench.settings import Settings, threads

__all__ = ["bench_in_terminal", "list_tables"]

RESULTS = Path("benchmarks/results")
LEAST_ROUNDS, SMOKE_ROUNDS = 7, 3


def list_tables() -> None:
    """Print the tables there are."""
    grid = Grid("name", "question")
    for table in TABLES.values():
        grid.add_row(table.name, table.question)
    Console().print(grid)


def bench_in_terminal(
    names: Sequence[str], rounds: int, out: Path | None, small: bool, states: Sequence[int] = ()
) -> None:
    """Measure the tables of these names, write and print each; a smoke run is written only where it is told."""
    tables = chosen(names)
    if rounds < LEAST_ROUNDS:
        raise ConfigError(f"--rounds {rounds} was given; needed: at least {LEAST_ROUNDS}, or --small for a smoke run.")
    if states and (min(states) < 1 or [table.name for table in tables] != ["profile"]):
        raise ConfigError("--states was given; it sizes the profile.", cure="gramian bench profile --states 256")
    settings = Settings(SMOKE_ROUNDS if small else rounds, small, tuple(states))
    require_green_kernels(source_tree())
    console = Console(soft_wrap=True, highlight=False, markup=False)
    folder = out or (None if small else RESULTS)
    for table in tables:
        with threads():
            before = Neighbours.now()
            result = table.measure(settings)
            after = Neighbours.now()
            facts = record(table.name, table.question, _command(table.name, settings), settings.rounds, small, result)
        facts["neighbours_cores"] = before.cores(after) if before and after else None
        console.print(markdown(facts))
        if folder is not None:
            console.print("written: " + ", ".join(map(str, write(folder, facts, result.draw))) + "\n")


def _command(name: str, settings: Settings) -> str:
    parts = ["gramian bench", name]
    parts.append("--small" if settings.small else f"--rounds {settings.rounds}")
    parts += [f"--states {n}" for n in settings.states]
    return " ".join(parts)
