"""What the commands of the command line do, once their arguments are read."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from gramian.compression.cuts import compress_
from gramian.compression.policies import Energy, ErrorBound, Policy, Rank, Shrink
from gramian.errors import CheckpointError, ConfigError, did_you_mean
from gramian.kernels.native import openmp
from gramian.kernels.scan_triton import why_not
from gramian.lab.analyze import analyze
from gramian.lab.build import build_data, build_model, build_schedule, find_device, set_threads
from gramian.lab.config import Config
from gramian.lab.console import LiveBar, analysis_table, cut_table, dry_run_lines, plan_table, summary_table
from gramian.lab.data import DATASETS
from gramian.lab.environment import environment
from gramian.lab.evaluate import evaluate
from gramian.lab.opened import CalibrationRequest, open_model
from gramian.lab.saved_model import load_model
from gramian.lab.summary import training_step
from gramian.lab.timing import interleaved
from gramian.lab.token_files import RANDOM_MEANS
from gramian.lab.train import Interrupted, train

__all__ = [
    "analyze_in_terminal",
    "compress_in_terminal",
    "diagnose",
    "dry_run_report",
    "evaluate_in_terminal",
    "free_folder",
    "list_data",
    "policy_of",
    "train_in_terminal",
    "write_page",
]


def free_folder(path: Path) -> Path:
    """`path`, or the first of path-2, path-3, ... that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def train_in_terminal(config: Config | None, folder: Path, *, resume: bool = False) -> None:
    """Train with a live bar, then print what came of it and write the run page if its packages are here."""
    console = Console()
    bar = LiveBar(console)
    try:
        summary = train(config, folder, resume=resume, watcher=bar)
    except Interrupted as stopped:
        console.print(str(stopped))
        raise SystemExit(130) from None
    finally:
        bar.stop()
    events = [json.loads(line) for line in _lines(folder / "events.jsonl")]
    if events:
        console.print(cut_table(events))
    console.print(summary_table(summary))
    console.print(f"model:  {folder / 'model'}", soft_wrap=True)
    if find_spec("matplotlib") and find_spec("jinja2"):
        console.print(f"report: {write_page(folder)}", soft_wrap=True)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def write_page(run: Path) -> Path:
    """Write the run page."""
    if not (find_spec("matplotlib") and find_spec("jinja2")):
        raise ConfigError("the run page needs matplotlib and jinja2.", cure="pip install 'gramian[plot]'")
    from gramian.lab.page import write_report

    return write_report(run)


def dry_run_report(config: Config, folder: Path) -> None:
    """Print the resolved configuration, the steps at which it acts, and what a step costs here; write nothing."""
    console = Console()
    set_threads(config.train.threads)
    data = build_data(config.data)
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, data.d_input, data.n_classes, tokens=data.tokens, head=data.head)
    model = model.to(find_device(config.train.device))
    step = training_step(config.train, model, data.train.inputs[: config.train.batch_size], data.train.targets)
    times = interleaved(step, lambda: None, rounds=5)["first"]
    estimate = {"parameters": sum(p.numel() for p in model.parameters()), "step_seconds": times["median"]}
    steps = [] if config.compress is None else build_schedule(config.compress.schedule).steps
    console.print(yaml.safe_dump(config.model_dump(), sort_keys=False), highlight=False)
    for line in dry_run_lines(config, steps, estimate, folder):
        console.print(line, highlight=False, soft_wrap=True)


def analyze_in_terminal(
    path: Path, taus: list[float], plot: Path | None, as_json: bool, data: CalibrationRequest
) -> None:
    """Print what the spectra of a saved model say; with `plot`, draw them."""
    opened = open_model(path)
    rows = analyze(opened.model, taus, opened.calibration(data))
    if plot is not None:
        from gramian.lab.plots import draw_spectra

        draw_spectra(rows, plot)
    if as_json:
        print_json(rows)
    else:
        Console().print(analysis_table(rows, taus))
        Console().print("\n".join(sorted({f"spectrum: {row['measure']}" for row in rows})), highlight=False)
    if data.source == "random":
        Console(stderr=True).print(RANDOM_MEANS, soft_wrap=True, highlight=False)


def print_json(content: Any) -> None:
    """JSON and nothing else on standard output."""
    Console(soft_wrap=True, highlight=False, markup=False).print(json.dumps(content, indent=2))


def compress_in_terminal(
    path: Path, out: Path, policy: Policy, dry_run: bool, data: CalibrationRequest, layout: str | None
) -> None:
    """Cut a saved model once and write the smaller one to `out`, which must not exist."""
    if layout not in (None, "per_layer", "uniform"):
        hint = did_you_mean(str(layout), ("per_layer", "uniform"))
        raise ConfigError(f"--layout '{layout}' was given; needed: per_layer or uniform.{hint}")
    if out.exists() and not dry_run:
        raise CheckpointError(f"'{out}' exists already.", "A model is never overwritten.", "Choose another --out.")
    opened = open_model(path)
    event = compress_(opened.model, policy, opened.calibration(data), dry_run)
    console = Console()
    console.print(plan_table(event))
    if event.reason:
        console.print(event.reason)
    if data.source == "random":
        Console(stderr=True).print(RANDOM_MEANS, soft_wrap=True, highlight=False)
    if not dry_run:
        opened.save(out, layout)
        console.print(f"model: {out}", soft_wrap=True)


def policy_of(rule: dict[str, Any], round_to: str | None = None, at_least: int = 1) -> Policy:
    """The policy that options of the command line describe; exactly one of those of `rule` is not None."""
    given = {name: value for name, value in rule.items() if value is not None}
    if len(given) != 1:
        raise ConfigError(
            f"{list(given) or 'nothing'} was given; needed: exactly one of --tau, --rank, --fraction, --eps."
        )
    to: Any = int(round_to) if round_to is not None and round_to.isdecimal() else round_to
    (name, value), options = next(iter(given.items())), dict[str, Any](min_gain=0.0, minimum=at_least, round_to=to)
    if name == "tau":
        return Energy(value, **options)
    if name == "rank":
        return Rank(value, **options)
    return ErrorBound(value, **options) if name == "eps" else Shrink(1 - value, **options)


def evaluate_in_terminal(path: Path, split: str, root: str | None, as_json: bool) -> None:
    """Print accuracy and loss of a saved model on one split of its data."""
    saved = load_model(path)
    data = build_data(saved.data.model_copy(update={"root": root or saved.data.root}))
    splits = {**data.splits, **data.further}
    if split not in splits:
        hint = did_you_mean(split, splits)
        raise ConfigError(f"--split '{split}' was given; needed: {', '.join(splits)}.{hint}")
    result = evaluate(saved.model, splits[split])
    record = {"model": str(path), "data": data.name, "split": split, "samples": len(splits[split]), **result}
    if as_json:
        print_json(record)
    else:
        Console().print("  ".join(f"{key} {value}" for key, value in record.items()), soft_wrap=True)


def list_data() -> None:
    """Print the data sets there are."""
    table = Table()
    for column in ("name", "length", "channels", "classes", "what", "files"):
        table.add_column(column)
    for name, info in DATASETS.items():
        table.add_row(name, str(info.length), str(info.d_input), str(info.n_classes), info.summary, info.files)
    console = Console()
    console.print(table)
    for name, info in DATASETS.items():
        if info.scales:
            console.print(f"[bold]{name}[/bold]: data.scale and what it stands for; each can be set (data.KEY=VALUE)")
            console.print(info.scales, highlight=False)


def diagnose() -> dict[str, Any]:
    """Versions, machine, kernels and optional packages, with reasons where something is not used."""
    facts = environment()
    compiled = "compiled by numba, on torch's threads" if openmp() else "compiled by numba, on Python's threads"
    for name in ("numba", "fft", "products", "chunked"):
        facts[f"kernel '{name}'"] = f"ready: {compiled}"
    facts["kernel 'torch'"] = "ready: plain torch, any device"
    facts["kernel 'reference'"] = "ready: the loop that specifies it, for tests"
    facts["scan 'triton'"] = why_not() or "ready (not measured on a GPU)"
    cuda = torch.cuda.is_available()
    facts["cuda"] = (
        f"{torch.cuda.get_device_name(0)} (not measured)" if cuda else "no device; everything runs on the CPU"
    )
    for package in ("matplotlib", "jinja2", "scikit-learn", "mlxtend", "mnist1d"):
        facts[package] = _installed(package)
    return facts


def _installed(package: str) -> str:
    extra = "plot" if package in ("matplotlib", "jinja2") else "data"
    try:
        return version(package)
    except PackageNotFoundError:
        return f"not installed: pip install 'gramian[{extra}]'"
