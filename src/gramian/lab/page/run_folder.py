"""Read a run folder, finished or still growing, into one frozen value.

Files a run has not written yet count as empty; what is there but unreadable (a half-written last line) is left out
and said so in `RunFolder.remarks`, which the page prints.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gramian.errors import CheckpointError

__all__ = ["RunFolder", "Series", "finite", "layer_rows"]

Array = NDArray[np.float64]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """One metric over a run: optimizer steps (ascending), wall clock in seconds (NaN where unknown) and values."""

    steps: Array
    seconds: Array
    values: Array

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class RunFolder:
    """What a run folder holds; reading it changes nothing on disk.

    Attributes
    ----------
    config_text, config
        ``config.yaml`` as written, and parsed.
    metrics, events
        The rows of ``metrics.jsonl`` and ``events.jsonl`` in the order written.
    spectra
        Layer -> step -> Hankel singular values, descending.
    summary
        ``summary.json``; None while the run has not finished.
    remarks
        Sentences about what could not be read.
    """

    path: Path
    config_text: str
    config: Row
    environment: Row
    metrics: tuple[Row, ...]
    events: tuple[Row, ...]
    spectra: Mapping[str, Mapping[int, Array]]
    summary: Row | None
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> RunFolder:
        """Read `path`; CheckpointError when it is no run folder or its configuration is damaged."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            found = "a folder without config.yaml" if path.is_dir() else "no folder"
            raise CheckpointError(
                f"'{path}' is {found}; a run folder is needed.",
                "A run writes config.yaml, metrics.jsonl and events.jsonl into one folder when it starts.",
                "Give the folder 'gramian train' printed, the one that holds config.yaml.",
            )
        remarks: list[str] = []
        text = (path / "config.yaml").read_text(encoding="utf-8")
        return cls(
            path=path,
            config_text=text,
            config=_parse_config(path / "config.yaml", text),
            environment=_read_json(path / "environment.json", remarks) or {},
            metrics=_read_lines(path / "metrics.jsonl", remarks),
            events=_read_lines(path / "events.jsonl", remarks),
            spectra=_read_spectra(path / "spectra.safetensors", remarks),
            summary=_read_json(path / "summary.json", remarks),
            remarks=tuple(remarks),
        )

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Every layer named anywhere in the run, numbers inside names in numerical order."""
        keys = {key for row in self.metrics for key in row}
        found = {key.removeprefix("state/") for key in keys if key.startswith("state/")} - {"total"}
        found |= {key.split("/", 2)[2] for key in keys if key.startswith("drift/") and key.count("/") >= 2}
        found |= {str(row["layer"]) for event in self.events for row in layer_rows(event)}
        return tuple(sorted(found | set(self.spectra), key=_natural))

    @cached_property
    def cuts(self) -> tuple[Row, ...]:
        """The events that changed the model."""
        return tuple(event for event in self.events if event.get("kind") == "cut")

    @cached_property
    def last_step(self) -> int:
        """The last optimizer step the run recorded; 0 before the first row."""
        return max((int(row["step"]) for row in self.metrics if finite(row.get("step"))), default=0)

    def series(self, key: str) -> Series:
        """One metric over the run; where a step was written twice (a resumed run) the later row counts."""
        rows = {
            int(row["step"]): (row["seconds"] if finite(row.get("seconds")) else math.nan, row[key])
            for row in self.metrics
            if finite(row.get("step")) and isinstance(row.get(key), int | float)
        }
        steps = sorted(rows)
        columns = steps, [rows[step][0] for step in steps], [rows[step][1] for step in steps]
        return Series(*(np.asarray(column, dtype=float) for column in columns))

    def seconds_at(self, steps: list[int]) -> Array:
        """Wall clock at the given optimizer steps, interpolated between the metric rows; empty without rows."""
        known = {int(r["step"]): float(r["seconds"]) for r in self.metrics if finite(r.get("step"), r.get("seconds"))}
        if not known:
            return np.empty(0)
        ordered = sorted(known)
        return np.interp(np.asarray(steps, dtype=float), ordered, np.maximum.accumulate([known[s] for s in ordered]))


def finite(*values: object) -> bool:
    """Whether every value is a finite number."""
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def layer_rows(event: Row) -> tuple[Row, ...]:
    """The per-layer rows of an event; rows without a layer name are left out."""
    return tuple(row for row in event.get("layers") or () if isinstance(row, dict) and "layer" in row)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _parse_config(path: Path, text: str) -> Row:
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointError(
            f"'{path}' is no YAML, but the resolved configuration of a run is needed.",
            " ".join(str(error).split()),
            "Restore it from another run with the same settings.",
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f"'{path}' holds a {type(config).__name__}; a mapping with model, data, train and compress is needed.",
            cure="Restore it from another run with the same settings.",
        )
    return config


def _read_json(path: Path, remarks: list[str]) -> Row | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    remarks.append(f"{path.name} could not be read and is left out.")
    return None


def _read_lines(path: Path, remarks: list[str]) -> tuple[Row, ...]:
    if not path.is_file():
        return ()
    rows: list[Row] = []
    broken: list[int] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        row = _parse_line(line)
        if row is None:
            broken.append(number)
        else:
            rows.append(row)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        which = ", ".join(map(str, broken[:5])) + more
        remarks.append(f"{path.name}: {len(broken)} unreadable left out (line {which}).")
    return tuple(rows)


def _parse_line(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _read_spectra(path: Path, remarks: list[str]) -> dict[str, dict[int, Array]]:
    if not path.is_file():
        return {}
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError):
        remarks.append(f"{path.name} could not be read and is left out.")
        return {}
    spectra: dict[str, dict[int, Array]] = {}
    for key in sorted(tensors):
        layer, _, step = key.rpartition("/")
        if layer and step.isdecimal() and tensors[key].ndim == 1 and tensors[key].size:
            spectra.setdefault(layer, {})[int(step)] = np.asarray(tensors[key], dtype=float)
        else:
            remarks.append(f"{path.name}: '{key}' is no spectrum '<layer>/<step>' and is left out.")
    return spectra
