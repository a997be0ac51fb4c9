"""The command line: ``gramian train | analyze | compress | eval | report | reproduce | bench | data | doctor``.

Exit codes: 0, 1 a run failed, 2 bad input, 130 stopped by Ctrl-C (after a checkpoint). Heavy imports stay inside the
commands, so that ``gramian --help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from gramian.allocator import keep_freed_memory
from gramian.errors import ConfigError, DataError, GramianError, NonFiniteSystemError, UnstableSystemError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gramian",
    help="Make state space models small while they train.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets that need no network.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, for instance train.steps=1000.")]
ModelPath = Annotated[Path, typer.Argument(help="A saved model, ours or of transformers, or a run folder.")]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        help="Data for a model of transformers: token ids or text (.npy, .safetensors, .jsonl, .txt), demo (Python's "
        "documentation, needs a tokenizer), or random (random tokens: sizes come out right, choices mean little).",
    ),
]
MeasureName = Annotated[
    str | None, typer.Option("--measure", help="How states are ranked: regression, energy, taylor, fisher, ...")
]
Tokens = Annotated[int, typer.Option(help="Steps of every layer to compute from.")]
Length = Annotated[int, typer.Option(help="Steps of a calibration sequence.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def train(
    config: Annotated[str | None, typer.Argument(help="A YAML file, or the name of a shipped configuration.")] = None,
    overrides: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; by default runs/NAME, numbered if taken.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show configuration, event steps and cost.")] = False,
) -> None:
    """Train with in-training compression."""
    keep_freed_memory()
    from gramian.lab.commands import dry_run_report, free_folder, train_in_terminal
    from gramian.lab.config import load_config

    if resume is not None:
        if config is not None or run is not None or dry_run:
            raise ConfigError("--resume was given together with CONFIG, --run or --dry-run; needed: --resume alone.")
        train_in_terminal(None, resume, resume=True)
        return
    if config is None:
        raise ConfigError("no configuration was given.", cure="gramian train demo")
    settings = load_config(config, overrides or [])
    folder = run or free_folder(Path("runs") / settings.name)
    if dry_run:
        dry_run_report(settings, folder)
    else:
        train_in_terminal(settings, folder)


@app.command()
def analyze(
    model: ModelPath,
    tau: Annotated[list[float] | None, typer.Option(help="Tolerance; can be repeated.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a figure of the spectra here (.svg, .png, .pdf).")] = None,
    calibration: Calibrate = None,
    measure: MeasureName = None,
    tokens: Tokens = 4096,
    length: Length = 256,
    as_json: AsJson = False,
) -> None:
    """Spectrum, states kept and error bound of every layer, by tolerance."""
    from gramian.lab.commands import analyze_in_terminal
    from gramian.lab.opened import CalibrationRequest

    data = CalibrationRequest(calibration, measure, tokens, length)
    analyze_in_terminal(model, tau or [0.01, 0.02, 0.05, 0.1, 0.2], plot, as_json, data)


@app.command()
def compress(
    model: ModelPath,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the smaller model; must not exist.")],
    tau: Annotated[float | None, typer.Option(help="Give up this fraction of the spectrum's sum.")] = None,
    rank: Annotated[int | None, typer.Option(help="Keep this many states in every layer.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Keep this fraction of every layer's states.")] = None,
    eps: Annotated[float | None, typer.Option(help="Keep the error bound below eps times the layer's norm.")] = None,
    round_to: Annotated[str | None, typer.Option(help="Round states up to a multiple of this number, or pow2.")] = None,
    at_least: Annotated[int, typer.Option(help="Keep this many states in every layer at least.")] = 1,
    calibration: Calibrate = None,
    measure: MeasureName = None,
    tokens: Tokens = 4096,
    length: Length = 256,
    layout: Annotated[
        str | None,
        typer.Option(help="Of a model of transformers: per_layer sizes, or uniform (filled up; any program reads it)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, write nothing.")] = False,
) -> None:
    """Cut a trained model once, without training it further."""
    from gramian.lab.commands import compress_in_terminal, policy_of
    from gramian.lab.opened import CalibrationRequest

    rule = {"tau": tau, "rank": rank, "fraction": fraction, "eps": eps}
    data = CalibrationRequest(calibration, measure, tokens, length)
    compress_in_terminal(model, out, policy_of(rule, round_to, at_least), dry_run, data, layout)


@app.command(name="eval")
def evaluate(
    model: ModelPath,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    root: Annotated[str | None, typer.Option(help="Folder with the data files, if not where it was.")] = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy and loss of a saved model on the data it was trained for."""
    from gramian.lab.commands import evaluate_in_terminal

    evaluate_in_terminal(model, split, root, as_json)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write RUN/report.html, a page that stands on its own."""
    from gramian.lab.commands import write_page

    typer.echo(f"report: {write_page(run)}")


@app.command()
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="smnist, mqar, text, ...; measures-TASK: cuts without retraining; state-size: accuracy by states."
        ),
    ],
    scale: Annotated[str, typer.Option(help="tiny, small or paper.")] = "small",
    seeds: Annotated[str, typer.Option(help="Seeds, separated by spaces or commas.")] = "0",
    more_seeds: Annotated[list[int] | None, typer.Argument(help="More seeds: --seeds 0 1 2.")] = None,
    out: Annotated[Path, typer.Option(help="Where results and figures go.")] = Path("results"),
    runs: Annotated[Path, typer.Option(help="Where run folders go; finished runs are not repeated.")] = Path("runs"),
) -> None:
    """A named experiment: full size, compressed, and the same final size from scratch, over all seeds."""
    keep_freed_memory()
    from gramian.lab.experiments.one_shot import one_shot
    from gramian.lab.experiments.reproduce import reproduce as carry_out
    from gramian.lab.experiments.state_size import state_size_curve

    numbers = _numbers(seeds) + (more_seeds or [])
    if name == "state-size":
        state_size_curve(scale, numbers, out, runs)
    elif name.startswith("measures-"):
        one_shot(name.removeprefix("measures-"), scale, numbers, out, runs)
    else:
        carry_out(name, scale, numbers, out, runs)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise ConfigError(f"--seeds '{text}' was given; needed: whole numbers, for instance --seeds 0 1 2.") from error


@app.command()
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Tables; all of them if none is named.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the tables there are.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds in which all contestants take turns, at least 7.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Folder for results; benchmarks/results by default.")] = None,
    small: Annotated[bool, typer.Option("--small", help="A smoke run: tiny shapes, written only with --out.")] = False,
    states: Annotated[list[int] | None, typer.Option(help="Sizes of the profile; can be repeated.")] = None,
) -> None:
    """Speed and memory, one table a question; refuses when the kernels' tests are red."""
    if not (show or small):
        keep_freed_memory()  # before torch and JAX are imported
    from gramian.lab.bench.command import bench_in_terminal, list_tables

    if show:
        list_tables()
    else:
        bench_in_terminal(names or [], rounds, out, small, states or [])


@data_app.command("list")
def data_list() -> None:
    """The data sets there are."""
    from gramian.lab.commands import list_data

    list_data()


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="Name of a data set.")],
    root: Annotated[str | None, typer.Option(help="Folder with its files.")] = None,
) -> None:
    """Load a data set and look for what could be wrong with it."""
    from gramian.lab.data import check_data

    result = check_data(name, root)
    typer.echo(str(result))
    if not result.passed:
        raise DataError(f"'{name}' did not pass: {'; '.join(result.findings)}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Versions, machine, threads, and which kernels and optional packages are here."""
    from gramian.lab.commands import diagnose

    facts = diagnose()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:<22} {v}" for k, v in facts.items()))


def main() -> None:
    """Entry point: errors of the caller become a message and exit code 2, a run that diverged one and exit code 1."""
    try:
        app()
    except GramianError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1 if isinstance(error, NonFiniteSystemError | UnstableSystemError) else 2) from None
