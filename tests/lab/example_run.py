"""A run folder as training writes it, for the tests of what reads one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

CUT_STEPS = (500, 700, 900, 1100, 1300)
KEPT = (124, 81, 54, 40, 31)
CONFIG = """\
model: {layer: lru, n_layers: 1, d_model: 8, d_state: 256, r_min: 0.9, r_max: 0.999, dropout: 0.1}
data: {name: smnist, root: ./data}
train: {steps: 2500, batch_size: 50, lr: 0.0004, seed: 8, precision: fp32}
compress:
  policy:
    energy: {tau: 0.04}
  schedule: {every: 200, until: 1300}
"""


def write_run(folder: Path, layers: tuple[str, ...] = ("blocks.0.lru",), *, cuts: int = 5, steps: int = 2500) -> Path:
    """A finished run as training writes it: a real LRU has 2 N real states, so its spectra are 2 N long."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes = dict(zip(CUT_STEPS[:cuts], KEPT, strict=False))
    metrics, spectra, events, seconds, states = [], {}, [], 0.0, 256
    for step in range(0, steps + 1, 10):
        seconds += 10 * (0.02 + 0.1 * states / 256)
        loss = 0.3 + 2.0 * np.exp(-step / 600)
        row = {"step": step, "seconds": round(seconds, 3)}
        metrics.append(row | {"train/loss": loss + 0.1 * rng.random(), "train/steps_per_second": 256 / (20 + states)})
        if step % 100 == 0:
            metrics.append(row | {"eval/loss": loss + 0.05, "eval/accuracy": 0.93 - 0.8 * np.exp(-step / 500)})
        if step % 200 == 100 and step >= 500:
            rows = []
            for i, layer in enumerate(layers):
                decay = np.arange(2 * states) * (1.6 + 0.1 * i) / sizes.get(step, states)
                hsv = np.sort(np.exp(-decay - (decay / 4) ** 3 - 0.2 * rng.random(2 * states)))[::-1].copy()
                spectra[f"{layer}/{step:08d}"] = hsv
                metrics.append(row | _drift(layer, step, rng))
                if step in sizes:
                    rows.append(_cut(layer, states, sizes[step]))
            if rows:
                events.append({"step": step, "kind": "cut", "reason": "", "seconds": 0.3, "layers": rows})
            elif step == 1500:
                row_of_none = {"layer": layers[0], "before": states, "accepted": False, "reason": "gain below min_gain"}
                events.append({"step": step, "kind": "skipped", "reason": "nothing to gain", "layers": [row_of_none]})
            states = sizes.get(step, states)
        if step == 0 or step in sizes:
            metrics.append(row | {"state/total": states * len(layers)} | {f"state/{layer}": states for layer in layers})
    write_rows(folder / "metrics.jsonl", metrics)
    write_rows(folder / "events.jsonl", events)
    save_file(spectra, folder / "spectra.safetensors")
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "environment.json").write_text(json.dumps({"gramian": "0.1.0", "torch": "2.13.0", "git_commit": None}))
    (folder / "summary.json").write_text(json.dumps(_summary(len(layers), states, seconds)))
    return folder


def _drift(layer: str, step: int, rng: np.random.Generator) -> dict[str, float]:
    moved = 0.4 * np.exp(-step / 700) * (1 + 0.2 * rng.random())
    overlaps = {"past": 1 - 0.5 * np.exp(-step / 800), "future": 1 - 0.6 * np.exp(-step / 800)}
    values = overlaps | {"moved": moved, "bound": 3 * moved, "rank": int(20 + 200 * np.exp(-step / 500))}
    return {f"drift/{kind}/{layer}": value for kind, value in values.items()}


def _cut(layer: str, before: int, after: int) -> dict[str, object]:
    row = {
        "layer": layer,
        "before": before,
        "after": after,
        "asked": after - 1,
        "order": 2 * after - 2,
        "real_poles": 2,
    }
    row |= {"tau": 0.04, "tau_total": 0.08, "norm": 3.2, "bound": 0.0134, "measured": 0.00421, "h2_error": 1.7e-5}
    return row | {"condition": 1.7, "max_pole": 0.999123, "seconds": 0.12, "accepted": True, "reason": ""}


def _summary(n_layers: int, states: int, seconds: float) -> dict[str, object]:
    def side(states: int, median: float) -> dict[str, object]:
        times = {"median": median, "min": 0.95 * median, "max": 1.1 * median, "n": 20}
        return {"states": states * n_layers, "parameters": 1000 + 34 * states * n_layers, "step_seconds": times}

    scores = {"valid": {"accuracy": 0.9134, "loss": 0.31}, "test": {"accuracy": 0.9021, "loss": 0.33}}
    ratio = {"median": 0.25, "min": 0.24, "max": 0.29, "n": 20}
    now = side(states, 0.03) | scores
    return {
        "steps": 2500,
        "seconds": seconds,
        "full": side(256, 0.12),
        "now": now,
        "step_time_ratio": ratio,
        "cuts_seconds": 1.5,
    }


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
