"""Which share of a training the compressor takes, in every configuration that is shipped."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gramian.errors import GramianError
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import CannotRun, Settings
from gramian.lab.bench.share_estimates import largest_share, stand_in
from gramian.lab.build import build_schedule
from gramian.lab.config import SHIPPED, Config, load_config
from gramian.lab.files import JsonLines, read_json

__all__ = ["SCALES", "TOO_LONG", "cut_shares_table", "trained"]

SCALES = ("demo", "-tiny", "-small")
"""Endings of the names of the configurations that are run."""
TOO_LONG = ("-paper",)
"""Those that take days: for them, the largest share there can be is reckoned."""

_AFTER = 100  # steps after the last cut, by which all later ones are judged
_SETTLED = 20  # of them are not
_MOST = 0.01  # of a training
_TRAIN = "import sys; from gramian.cli import main; sys.argv[0] = 'gramian'; main()"


def trained(*arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Summary, events and metrics of ``gramian train`` in a process of its own and a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-c", _TRAIN, "train", *arguments, "--run", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CannotRun((done.stderr.strip().splitlines() or ["no message"])[0])
        return read_json(run / "summary.json"), *(JsonLines(run / f"{n}.jsonl").rows() for n in ("events", "metrics"))


def cut_shares_table(settings: Settings) -> Result:
    """Seconds of looking and cutting over those of the whole training, for every shipped configuration with cuts."""
    short, long = (["digits-tiny"], []) if settings.small else (list(_names(SCALES)), list(_names(TOO_LONG)))
    data: dict[str, Any] = {}
    at_most = f"at most {_MOST:.0%}"
    of_all = ("configuration", "layer", "states", "looks")
    columns: tuple[str, ...] = (*of_all, "compressor, s", "whole training, s", "share", at_most)
    sections = [Section("Run", columns, [_row(name, data) for name in short])]
    if long:
        columns = (*of_all, "a look, s", "steps", "a step, s", "largest share", at_most)
        sections.append(
            Section("Too long to run: the largest share", columns, [_long_row(name, data) for name in long])
        )
    note = (
        f"Run: each is `gramian train NAME` in a process of its own, once, to {_AFTER} steps after its last cut: all "
        "the compressor's seconds (calibration, spectra, reductions, looks that cut nothing) are those of the run. "
        "Seconds of the steps that were left out are those of as many steps after the cut. The largest share: every "
        "look as long as one at the full size, which cuts to one state, and every step as short as one with one state; "
        "evaluations are not counted. Where files of the user's own are asked for, CIFAR-10 is noise in its format and "
        "MNIST the digits that are bundled: cuts may differ from those on the data."
    )
    return Result(sections, (note,), data, dtype="float32 (training), float64 (reductions)")


def _names(endings: tuple[str, ...]) -> Iterator[str]:
    for path in sorted(SHIPPED.glob("*.yaml")):
        if path.stem.endswith(endings) and load_config(path.stem).compress is not None:
            yield path.stem


def _row(name: str, data: dict[str, Any]) -> tuple[str, ...]:
    try:
        found = data[name] = _share(name, load_config(name))
    except CannotRun as reason:
        return _not_run(name, reason)
    numbers = (f"{found['compressor']:.3f}", f"{found['total']:.1f}", f"{found['share']:.2%}")
    return (name, *_sizes(found), *numbers, _met(found))


def _long_row(name: str, data: dict[str, Any]) -> tuple[str, ...]:
    try:
        found = data[name] = largest_share(name)
    except (CannotRun, GramianError, RuntimeError) as reason:  # of which memory that is not there is one
        return (*_not_run(name, reason), "")
    numbers = (f"{found['look_seconds']:.2f}", str(found["steps"]), f"{found['step_seconds']:.3f}")
    return (name, *_sizes(found), *numbers, f"{found['share']:.3%}", _met(found))


def _not_run(name: str, reason: Exception) -> tuple[str, ...]:
    return (name, f"not run: {str(reason).splitlines()[0]}", *("",) * 6)


def _sizes(found: dict[str, Any]) -> tuple[str, str, str]:
    return found["layer"], f"{found['before']} -> {found['after']}", str(found["looks"])


def _met(found: dict[str, Any]) -> str:
    return "yes" if found["share"] <= _MOST else "no"


def _share(name: str, config: Config) -> dict[str, Any]:
    assert config.compress is not None
    last = max(build_schedule(config.compress.schedule).steps)
    steps = min(config.train.steps, last + _AFTER)
    every = f"train.log_every={_SETTLED}"
    with tempfile.TemporaryDirectory() as folder:
        overrides = (f"train.steps={steps}", every, f"train.eval_every={steps}", *stand_in(config, Path(folder)))
        summary, events, metrics = trained(name, *overrides)
    compressor = sum(event.get("seconds", 0.0) for event in events)
    times = {row["step"]: row["seconds"] for row in metrics if "train/loss" in row and row["step"] >= last + _SETTLED}
    first, end = (min(times), max(times)) if len(times) > 1 else (0, steps)
    each = (times.get(end, summary["seconds"]) - times.get(first, 0.0)) / (end - first)
    total = summary["seconds"] + (config.train.steps - steps) * each
    return {
        "layer": config.model.layer,
        "before": sum(config.model.d_states),
        "after": summary["now"]["states"],
        "looks": sum(event["kind"] in ("cut", "skipped") for event in events),
        "compressor": compressor,
        "steps_run": steps,
        "step_after": each,
        "total": total,
        "share": compressor / total,
        "summary": summary,
        "events": events,
    }
