"""Accuracy against the number of states, trained from scratch: how many a task needs before any is cut.

A cell is one task at one difficulty, with one width, one number of states and one seed. Cells are trained one after
another, all with one thread; each writes its result to a file of its own when it is finished, and one that was stopped
goes on from its last checkpoint. A cell is known by its whole configuration, so a grid can grow, and nothing is
trained twice.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from gramian.errors import ConfigError, did_you_mean
from gramian.lab.config import Config, load_config
from gramian.lab.environment import environment
from gramian.lab.experiments.reproduce import finished, spread, without_cuts
from gramian.lab.files import JsonLines, read_json, whole_file, write_json

__all__ = ["GRIDS", "Curve", "state_size_curve", "table"]

_LEARNED = 0.9  # accuracy; below it a curve says how far training got, not how many states the task needs


@dataclass(frozen=True)
class Curve:
    """A task at one difficulty, and the sizes it is trained with.

    Parameters
    ----------
    config
        The configuration it begins with; its cuts are left out.
    difficulty
        What it is called.
    overrides
        What makes the difficulty, as ``a.b=c``.
    d_model, d_state
        All combinations are trained.
    """

    config: str
    difficulty: str
    overrides: tuple[str, ...]
    d_model: tuple[int, ...]
    d_state: tuple[int, ...]

    @property
    def name(self) -> str:
        """Task and difficulty."""
        return f"{self.config}, {self.difficulty}"


def _mqar(pairs: int, d_model: tuple[int, ...], d_state: tuple[int, ...], *overrides: str) -> Curve:
    return Curve("mqar-small", f"{pairs} pairs", (f"data.pairs={pairs}", *overrides), d_model, d_state)


_MAMBA = ("model.layer=mamba", "model.head_dim=null")
_SHORT = ("train.steps=1200", "train.warmup=0.1", "train.eval_every=100", "train.checkpoint_every=500")
_HARDER = ("train.steps=3000", "train.warmup=0.1", "train.eval_every=300")
_SHORT_INDUCTION = (
    *("data.length=64", "data.test_lengths=[128]"),
    *("train.steps=1500", "train.batch_size=64", "train.eval_every=150"),
)
_LONG = (*_MAMBA, "train.steps=10000")

GRIDS: Mapping[str, tuple[Curve, ...]] = {
    "tiny": (
        Curve("mqar-tiny", "2 pairs", ("data.pairs=2", "train.steps=20"), (16,), (2, 4)),
        Curve("copying-tiny", "2 tokens", ("data.memorize=2", "train.steps=20"), (16,), (2, 4)),
    ),
    "small": (
        _mqar(8, (32,), (1, 2, 4, 8, 16), *_SHORT),
        _mqar(16, (32,), (1, 2, 3, 4, 8), *_HARDER),
        Curve("copying-small", "8 tokens", (), (32,), (1, 2, 4, 8, 16, 64)),
        Curve("induction-small", "length 64", _SHORT_INDUCTION, (8, 16), (1, 4, 16)),
        Curve("copying-small", "4 tokens", ("data.memorize=4",), (32,), (1, 2, 4, 16)),
        Curve("copying-small", "8 tokens", (), (64,), (1, 4, 16)),
        _mqar(4, (32,), (1, 2, 4), *_SHORT),
        Curve("mqar-many-small", "24 pairs", (), (64,), (3, 6, 12, 24, 48)),
    ),
    "paper": tuple(
        _mqar(pairs, (32, 64, 128), (1, 2, 4, 8, 16, 32, 64, 128), "data.length=256", "data.vocab=8192", *_LONG)
        for pairs in (4, 8, 16, 32, 64)
    ),
}
"""Curves by scale."""


def state_size_curve(
    scale: str, seeds: Sequence[int], out: Path, runs: Path, curves: Sequence[Curve] | None = None
) -> dict[str, Any]:
    """Train what is left of the grid and write results, table and figure to `out` after every cell.

    Parameters
    ----------
    scale
        A key of `GRIDS`.
    seeds
        Of initialisation and order of the data; every cell is trained with each.
    out, runs
        Folders for what came of it, and for run folders and the results of cells.
    curves
        Another grid than that of `scale`.

    Raises
    ------
    ConfigError
        For an unknown scale, or no seeds.
    """
    if scale not in GRIDS:
        hint = did_you_mean(scale, GRIDS)
        raise ConfigError(f"--scale '{scale}' was given; needed: {', '.join(GRIDS)}.{hint}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds {list(seeds)} were given; needed: different whole numbers, at least one.")
    label = f"state-size-{scale}"
    results: dict[str, Any] = {
        "title": label + (": a check that it runs, its numbers mean nothing" if scale == "tiny" else ""),
        "command": f"gramian reproduce state-size --scale {scale} --seeds {shlex.join(map(str, seeds))}",
        "seeds": list(seeds),
        "environment": environment(),
        "cells": [],
    }
    grid = curves or GRIDS[scale]
    for cell, config in _cells(grid, seeds):
        where = f"{cell['curve']}  d_model {cell['d_model']}  d_state {cell['d_state']}  seed {cell['seed']}"
        Console().print(f"{label}  {where}", highlight=False)
        results["cells"].append(_result(cell, config, runs / "state-size"))
        results["summary"] = _summary(results["cells"])
        _write(results, out, label)
    return results


def _cells(curves: Sequence[Curve], seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], Config]]:
    """All cells, one seed after another, so that whole curves are there early."""
    for seed in seeds:
        for curve in curves:
            for d_model in curve.d_model:
                for d_state in curve.d_state:
                    sizes = {"d_model": d_model, "d_state": d_state}
                    overrides = [f"model.{key}={value}" for key, value in sizes.items()]
                    overrides += [*curve.overrides, f"train.seed={seed}", "train.threads=1"]
                    yield (
                        {"curve": curve.name, **sizes, "seed": seed},
                        without_cuts(load_config(curve.config, overrides)),
                    )


def _result(cell: dict[str, Any], config: Config, runs: Path) -> dict[str, Any]:
    """What came of a cell: read if it is known, or trained, or trained to the end."""
    described = json.dumps(config.model_dump(mode="json", exclude={"name"}), sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    name = f"{config.name}-H{cell['d_model']}-N{cell['d_state']}-seed{cell['seed']}-{digest}"
    known = runs / f"{name}.json"
    if not known.exists():
        summary = finished(config, runs / name)
        rows = [row for row in JsonLines(runs / name / "metrics.jsonl").rows() if "eval/accuracy" in row]
        measured = {
            "valid": summary["now"]["valid"],
            "valid_at_end": rows[-1]["eval/accuracy"],
            "test": summary["now"]["test"],
            "parameters": summary["now"]["parameters"],
            "steps": summary["steps"],
            "seconds": summary["seconds"],
            "history": {key: [row[key] for row in rows] for key in ("step", "eval/accuracy", "eval/loss")},
        }
        write_json(known, {"config": config.model_dump(mode="json"), **measured})
    result: dict[str, Any] = read_json(known)
    return {**cell, "file": known.name, **result}


def _summary(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every point, and which point is enough: see `_enough`."""
    groups: dict[tuple[str, int], dict[int, list[dict[str, Any]]]] = {}
    for cell in cells:
        groups.setdefault((cell["curve"], cell["d_model"]), {}).setdefault(cell["d_state"], []).append(cell)
    found = []
    for (curve, d_model), by_size in groups.items():
        points = [_point(d_state, same) for d_state, same in sorted(by_size.items())]
        found.append({"curve": curve, "d_model": d_model, "points": points, "enough": _enough(points)})
    return found


def _point(d_state: int, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    accuracies = [cell["test"]["accuracy"] for cell in cells]
    return {
        "d_state": d_state,
        "n": len(cells),
        "mean": statistics.fmean(accuracies),
        "sd": statistics.stdev(accuracies) if len(cells) > 1 else None,
        "test": accuracies,
        "test_loss": [cell["test"]["loss"] for cell in cells],
        "seconds": [cell["seconds"] for cell in cells],
    }


def _enough(points: Sequence[dict[str, Any]]) -> int | None:
    """The fewest states whose mean accuracy is within a hundredth of the best; None for a task that is not learned."""
    best = max(point["mean"] for point in points)
    if best < _LEARNED:
        return None
    return min(int(point["d_state"]) for point in points if point["mean"] >= best - 0.01)


def _write(results: dict[str, Any], out: Path, label: str) -> None:
    write_json(out / f"{label}.json", results)
    with whole_file(out / f"{label}.md") as draft:
        draft.write_text(table(results))
    from gramian.lab.plots import draw_state_sizes

    draw_state_sizes(results, out / f"{label}.svg")
    draw_state_sizes(results, out / f"{label}.png")


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, a row a curve and width, a column a number of states."""
    where = results["environment"]
    sizes = sorted({point["d_state"] for curve in results["summary"] for point in curve["points"]})
    lines = [
        f"# {results['title']}",
        "",
        f"Test accuracy by states of each layer. Seeds {results['seeds']}.",
        "",
        f"| task | d_model | {' | '.join(f'N = {n}' for n in sizes)} | enough |",
        "|" + "---|" * (len(sizes) + 3),
    ]
    for curve in results["summary"]:
        points = {point["d_state"]: point for point in curve["points"]}
        cells = (spread(points[n]["test"], 3) if n in points else "" for n in sizes)
        lines.append(
            f"| {curve['curve']} | {curve['d_model']} | {' | '.join(cells)} | {curve['enough'] or 'not learned'} |"
        )
    seconds = sum(cell["seconds"] for cell in results["cells"])
    lines += [
        "",
        "Mean ± standard deviation over seeds; every cell is trained from scratch and selected on validation accuracy, "
        "test data is used once. Enough: the fewest states whose mean is within 0.01 of the best, where that is at "
        f"least {_LEARNED}. "
        f"{len(results['cells'])} cells, {seconds:.0f} s of training, one thread.",
        "",
        f"`{results['command']}` · {where['cpu']} · torch {where['torch']}, Python {where['python']} · float32 · "
        f"commit {where['git_commit']}",
        "",
    ]
    return "\n".join(lines)
