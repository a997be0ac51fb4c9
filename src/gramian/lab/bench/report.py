"""What a table becomes: a JSON file with everything in it, and a Markdown file to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gramian.lab.bench.settings import THREADS
from gramian.lab.bench.timing import Spread
from gramian.lab.environment import environment
from gramian.lab.files import whole_file, write_json

__all__ = ["Result", "Section", "Target", "markdown", "record", "targets_section", "write"]

KEPT_MEMORY = (
    "In the process that times, the allocator was told to keep freed memory and to have one arena (mallopt: M_MMAP_MAX "
    "0, M_TRIM_THRESHOLD 2 GiB, M_ARENA_MAX 1; glibc only), for all contestants: otherwise the page faults of fresh "
    "buffers outweigh much of the computation, most of all for JAX, whose threads then also slow down whoever comes "
    "next."
)

_PACKAGES = ("numba", "jax", "jaxlib", "mambapy", "transformers")


@dataclass(frozen=True)
class Section:
    """A table of text; `heading` may be empty."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Target:
    """A number and what it is hoped to be: ``measured >= bound`` or ``measured <= bound``."""

    what: str
    measured: Spread
    relation: str
    bound: float

    @property
    def met(self) -> bool:
        """By the median."""
        assert self.relation in (">=", "<=")
        return self.measured.median >= self.bound if self.relation == ">=" else self.measured.median <= self.bound


@dataclass(frozen=True)
class Result:
    """What a table function returns: tables to read, notes for the caption, and all samples."""

    sections: Sequence[Section]
    notes: Sequence[str]
    data: Mapping[str, Any]
    shape: str = ""
    dtype: str = "float32 (states complex64)"
    draw: Callable[[Path], None] | None = field(default=None, repr=False)


def targets_section(targets: Sequence[Target]) -> Section:
    """Targets as rows, those that are missed like any other."""
    rows = [(t.what, str(t.measured), f"{t.relation} {t.bound:g}", "yes" if t.met else "no") for t in targets]
    rows = rows or [("none: what they compare with cannot run here", "", "", "")]
    return Section("Targets", ("ratio, pair by pair: median (min-max)", "measured", "target", "met"), rows)


def record(name: str, question: str, command: str, rounds: int, small: bool, result: Result) -> dict[str, Any]:
    """Everything about a table that a file can hold."""
    facts = {**environment(), "threads": THREADS}
    return {
        "name": name,
        "question": question,
        "smoke": small,
        "command": command,
        "environment": facts | {package: _version(package) for package in _PACKAGES},
        "threads": THREADS,
        "rounds": rounds,
        "dtype": result.dtype,
        "shape": result.shape,
        "sections": [
            {"heading": s.heading, "columns": list(s.columns), "rows": [list(row) for row in s.rows]}
            for s in result.sections
        ],
        "notes": [*result.notes, *([] if small else [KEPT_MEMORY])],
        "data": dict(result.data),
    }


def markdown(facts: Mapping[str, Any]) -> str:
    """A record as Markdown: the tables, and a caption with all that is needed to judge them."""
    where = facts["environment"]
    lines = [f"# {facts['name']}{': a smoke run, its numbers mean nothing' if facts['smoke'] else ''}", ""]
    lines += [facts["question"], ""]
    for section in facts["sections"]:
        if section["heading"]:
            lines += [f"## {section['heading']}", ""]
        lines += [_row(section["columns"]), "|" + "---|" * len(section["columns"])]
        lines += [*map(_row, section["rows"]), ""]
    for note in facts["notes"]:
        lines += [note, ""]
    versions = ", ".join(f"{p} {where[p]}" for p in ("torch", "numpy", *_PACKAGES))
    others = facts.get("neighbours_cores")
    others = "" if others is None else f" · other processes used {others:.2f} cores meanwhile"
    shape = f" · {facts['shape']}" if facts["shape"] else ""
    lines += [
        f"`{facts['command']}` · {where['cpu']}, {facts['threads']} threads · {versions}, Python {where['python']} · "
        f"{facts['dtype']}{shape} · median (min-max) of {facts['rounds']} rounds unless the table says otherwise · "
        f"gramian {where['gramian']}, commit {where['git_commit']}, {where['started_at']}{others}",
        "",
    ]
    return "\n".join(lines)


def write(out: Path, facts: Mapping[str, Any], draw: Callable[[Path], None] | None) -> list[Path]:
    """Write NAME.json, NAME.md and, if there is one, the figure; each whole or not at all."""
    paths = [out / f"{facts['name']}{suffix}" for suffix in (".json", ".md")]
    figures = [out / f"{facts['name']}{suffix}" for suffix in (".svg", ".png")] if draw else []
    write_json(paths[0], facts)
    with whole_file(paths[1]) as draft:
        draft.write_text(markdown(facts))
    for path in figures:
        assert draw is not None
        draw(path)
    return paths + figures


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} |"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
