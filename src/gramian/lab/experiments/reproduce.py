"""Full size, compressed in training, and the same final size from scratch: the comparison the method stands on.

For every seed: the full model; one or two compressed ones; and for each of these a model that has its final number
of states from the first step on. All are trained alike and selected on validation accuracy. Finished runs are
not repeated, and the results file is written anew after every run.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gramian.errors import ConfigError, did_you_mean
from gramian.lab.config import Config, load_config
from gramian.lab.environment import environment
from gramian.lab.files import JsonLines, read_json, whole_file, write_json
from gramian.lab.train import train

__all__ = ["EXPERIMENTS", "finished", "reproduce", "spread", "without_cuts"]


def _tolerances(*taus: float) -> dict[str, str]:
    return {f"tau {tau:.2f}": f"compress.policy.energy.tau={tau}" for tau in taus}


EXPERIMENTS: Mapping[str, Mapping[str, str]] = {
    "smnist": _tolerances(0.04, 0.10),
    "scifar": _tolerances(0.05, 0.15),
    "mqar": {"cut": ""},
    "mqar-long": {"cut": ""},
    "mqar-many": {"cut": ""},
    "copying": {"cut": ""},
    "copying-few": {"cut": ""},
    "copying-four": {"cut": ""},
    "induction": {"cut": ""},
    "text": {"cut": ""},
    "dna": {"cut": ""},
}
"""Names, and of each the compressed runs: what they are called, and what they override of the configuration."""

SCALES = ("tiny", "small", "paper")


def reproduce(name: str, scale: str, seeds: Sequence[int], out: Path, runs: Path) -> dict[str, Any]:
    """Carry out experiment `name`, or what is left of it, and write results, table and figure to `out`.

    Raises
    ------
    ConfigError
        For an unknown name or scale.
    """
    if name not in EXPERIMENTS:
        raise ConfigError(
            f"experiment '{name}' is not known.{did_you_mean(name, EXPERIMENTS)} Known: {', '.join(EXPERIMENTS)}."
        )
    if scale not in SCALES:
        raise ConfigError(f"--scale '{scale}' was given; needed: tiny, small or paper.{did_you_mean(scale, SCALES)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds {list(seeds)} were given; needed: different whole numbers, at least one.")
    label = f"{name}-{scale}"
    command = f"gramian reproduce {name} --scale {scale} --seeds {shlex.join(map(str, seeds))}"
    results: dict[str, Any] = {
        "title": label + (": a check that it runs, not a reproduction" if scale == "tiny" else ""),
        "command": command,
        "seeds": list(seeds),
        "environment": environment(),
        "config": load_config(label).model_dump(),
        "variants": {},
    }
    for seed in seeds:
        for variant, config in _variants(label, seed, EXPERIMENTS[name], results):
            folder = runs / "reproduce" / label / f"{variant.replace(' ', '-')}-seed{seed}"
            Console().print(f"{label}  seed {seed}  {variant}  ({sum(config.model.d_states)} states)", highlight=False)
            summary = finished(config, folder)
            record = results["variants"].setdefault(variant, {"runs": []})
            record["runs"].append(_record(seed, folder, summary))
            _write(results, out, label)
    return results


def _variants(label: str, seed: int, cuts: Mapping[str, str], results: dict[str, Any]) -> Any:
    """Name and configuration of every run of a seed; those from scratch need the sizes the compressed ones got."""
    base = [f"train.seed={seed}"]
    yield "full", without_cuts(load_config(label, base))
    for name, override in cuts.items():
        yield name, load_config(label, [*base, *([override] if override else [])])
    for name in cuts:
        compressed = results["variants"][name]["runs"][-1]
        config = load_config(label, [*base, f"model.d_state={compressed['sizes']}"])
        yield f"scratch as {name}", without_cuts(config)


def without_cuts(config: Config) -> Config:
    """The same run, which keeps its size."""
    return config.model_copy(update={"compress": None})


def finished(config: Config, folder: Path) -> dict[str, Any]:
    """The summary of the run in `folder`, after training or resuming it if it is not finished."""
    if (folder / "summary.json").exists():
        summary: dict[str, Any] = read_json(folder / "summary.json")
        return summary
    started = (folder / "config.yaml").exists()
    return train(None if started else config, folder, resume=started)


def _record(seed: int, folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    rows = [row for row in JsonLines(folder / "metrics.jsonl").rows() if "eval/accuracy" in row]
    sizes = read_json(folder / "model" / "config.json")["model"]["d_state"]
    return {
        "seed": seed,
        "states": summary["now"]["states"],
        "sizes": sizes,
        "valid": summary["now"]["valid"]["accuracy"],
        "test": summary["now"]["test"]["accuracy"],
        "test_loss": summary["now"]["test"]["loss"],
        "valid_at_end": rows[-1]["eval/accuracy"],
        "seconds": summary["seconds"],
        "cuts_seconds": summary["cuts_seconds"],
        "step_time_ratio": summary.get("step_time_ratio"),
        "events": JsonLines(folder / "events.jsonl").rows(),
        "curve": {
            "step": [row["step"] for row in rows],
            "seconds": [round(row["seconds"], 3) for row in rows],
            "accuracy": [row["eval/accuracy"] for row in rows],
        },
    }


def _write(results: dict[str, Any], out: Path, label: str) -> None:
    write_json(out / f"{label}.json", results)
    with whole_file(out / f"{label}.md") as draft:
        draft.write_text(table(results))
    from gramian.lab.plots import draw_comparison

    draw_comparison(results, out / f"{label}.svg")
    draw_comparison(results, out / f"{label}.png")


def table(results: dict[str, Any]) -> str:
    """The results as Markdown, with all that is needed to judge them."""
    where, train_settings = results["environment"], results["config"]["train"]
    lines = [
        f"# {results['title']}",
        "",
        "| | states | validation | validation, last step | test | test loss | training, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, variant in results["variants"].items():
        runs = variant["runs"]
        states = ", ".join(str(run["states"]) for run in runs)
        cells = (spread([run[key] for run in runs], 3) for key in ("valid", "valid_at_end", "test", "test_loss"))
        lines.append(f"| {name} | {states} | {' | '.join(cells)} | {spread([r['seconds'] for r in runs], 0)} |")
    how = "{steps} steps of batch {batch_size}, lr {lr}, {precision}".format(**train_settings)
    lines += [
        "",
        f"Mean ± standard deviation over seeds {results['seeds']} (states: every seed). {how}; the model is selected "
        "on validation accuracy among the evaluations at its final size, test data is used once. Seconds are wall "
        "clock of training steps and cuts, one run after the other.",
        "",
        *_at_equal_time(results),
        f"`{results['command']}` · {where['cpu']}, {where['threads']} threads · torch {where['torch']}, "
        f"Python {where['python']} · commit {where['git_commit']}",
        "",
    ]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation, the latter of more than one value."""
    mean = statistics.fmean(values)
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:.{digits}f}{deviation}"


def _at_equal_time(results: dict[str, Any]) -> list[str]:
    """Where the full model stood when a compressed run of the same seed had ended."""
    lines = []
    full = {run["seed"]: run for run in results["variants"]["full"]["runs"]}
    for name, variant in results["variants"].items():
        if name == "full" or name.startswith("scratch"):
            continue
        then = [_last_before(full[run["seed"]]["curve"], run["seconds"]) for run in variant["runs"]]
        ends = [run["valid_at_end"] for run in variant["runs"]]
        lines += [
            f"When the run with {name} had ended ({spread(ends, 3)}), the full model of the same seed stood at "
            f"{spread(then, 3)} (validation, at the last evaluation before that time).",
            "",
        ]
    return lines


def _last_before(curve: dict[str, list[float]], seconds: float) -> float:
    reached = [a for s, a in zip(curve["seconds"], curve["accuracy"], strict=True) if s <= seconds]
    return reached[-1] if reached else 0.0
