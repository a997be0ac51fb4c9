"""The command line: what it prints, what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from gramian.cli import main

CONFIG = """\
model: {d_model: 6, d_state: 12, dropout: 0.2}
data: {name: digits}
train: {steps: 20, batch_size: 32, lr: 5.0e-3, seed: 3, log_every: 5, eval_every: 10, checkpoint_every: 10}
compress:
  policy: {energy: {tau: 0.1}}
  schedule: {at: [8, 16]}
"""
COMMANDS = ("train", "analyze", "compress", "eval", "report", "reproduce", "data", "doctor")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Gramian = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small models: two threads that wait for each other are slower
    yield
    torch.set_num_threads(before)


@pytest.fixture
def gramian(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Gramian:
    """The command line in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gramian", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; nobody changes it."""
    from gramian.lab.config import load_config
    from gramian.lab.train import train

    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    train(load_config(folder / "small.yaml"), folder / "run")
    return folder / "run"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def here() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def plain(text: str) -> str:
    """What was said, without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def test_entry_point_is_the_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="gramian")
    assert script.load() is main


def test_help_answers_without_loading_torch() -> None:
    code = f"""
import json, sys
from gramian.cli import main
codes = []
for arguments in [["--help"], *([name, "--help"] for name in {COMMANDS}), ["data", "list", "--help"]]:
    sys.argv = ["gramian", *arguments]
    try:
        main()
    except SystemExit as stopped:
        codes.append(stopped.code)
heavy = {{"torch", "numpy", "numba", "matplotlib", "sklearn", "scipy", "pandas", "safetensors", "omegaconf"}}
print(json.dumps([codes, sorted(heavy & {{name.split(".")[0] for name in sys.modules}})]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    codes, loaded = json.loads(done.stdout.splitlines()[-1])
    assert codes == [0] * (len(COMMANDS) + 2)
    assert loaded == []


def test_help_names_every_command(gramian: Gramian) -> None:
    outcome = gramian("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert re.search(rf"^\W*{name}\W", outcome.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "no configuration was given"),
        (["train", "dem"], "Did you mean 'demo'?"),
        (["train", "demo", "train.stepz=3"], "unknown key 'train.stepz'. Did you mean 'steps'?"),
        (["train", "demo", "train.steps"], "override 'train.steps' was given; needed: key=value"),
        (["train", "demo", "train.steps=[1"], "cannot be merged"),
        (["train", "demo", "compress.policy.energy.tol=1"], "The tolerance is called 'tau'"),
        (["train", "demo", "train.batch_size=9999", "--run", "r"], "batch_size=9999"),
        (["train", "demo", "data.name=digit", "--run", "r"], "Did you mean 'digits'?"),
        (["train", "demo", "train.device=abacus", "--run", "r"], "train.device='abacus' cannot be used here"),
        (["train", "demo", "train.device=abacus", "--dry-run"], "train.device='abacus' cannot be used here"),
        (["train", "--resume", "nothing"], "'nothing' is no run folder"),
        (["train", "demo", "--resume", "nothing"], "--resume was given together with CONFIG"),
        (["analyze", "nothing"], "'nothing' holds no saved model"),
        (["compress", "nothing", "-o", "out", "--tau", "0.1"], "'nothing' holds no saved model"),
        (["compress", "nothing", "-o", "out"], "nothing was given; needed: exactly one of --tau"),
        (["compress", "nothing", "-o", "out", "--tau", "0.1", "--rank", "3"], "['tau', 'rank'] was given"),
        (["compress", "nothing", "-o", "out", "--rank", "0"], "Rank(n=0) was given"),
        (["compress", "nothing", "-o", "out", "--fraction", "1.5"], "was given; needed: a fraction"),
        (["eval", "nothing"], "'nothing' holds no saved model"),
        (["report", "nothing"], "a run folder is needed"),
        (["reproduce", "smnis"], "Did you mean 'smnist'?"),
        (["reproduce", "smnist", "--scale", "tin"], "Did you mean 'tiny'?"),
        (["reproduce", "smnist", "--seeds", "a"], "needed: whole numbers"),
        (["reproduce", "smnist", "--seeds", "1", "1"], "needed: different whole numbers"),
        (["data", "check", "digit"], "Did you mean 'digits'?"),
        (["data", "check", "cifar10"], "No root was given, and nothing is downloaded"),
        (["trian", "demo"], "No such command 'trian'"),
        (["analyze"], "Missing argument"),
        (["compress", "nothing", "-o", "out", "--tau", "much"], "Invalid value"),
    ],
)
def test_bad_input_is_a_message_exit_code_2_and_nothing_written(
    gramian: Gramian, arguments: list[str], message: str
) -> None:
    outcome = gramian(*arguments)
    assert outcome.code == 2
    assert message in plain(outcome.err)
    assert "Traceback" not in outcome.err
    assert here() == []


def test_exit_code_reaches_the_shell_and_the_message_standard_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from gramian.cli import main; main()", "train", "demo", "model.d_stat=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: the configuration has 1 problem" in done.stderr
    assert "Did you mean 'd_state'?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_run_that_diverges_is_a_message_and_exit_code_1(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.lr=1e30", "--run", "run")
    assert outcome.code == 1
    assert "Training has probably diverged" in outcome.err
    assert not Path("run/summary.json").exists()


def test_train_writes_a_run_its_page_and_says_where(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.steps=12")
    assert (outcome.code, outcome.err) == (0, "")
    said = plain(outcome.out)
    for expected in (
        "states 12; looks at steps 8, 16; run folder runs/small",
        "step 8 blocks.0.lru 12 -> 9",
        "After 12 steps",
        "states 12 9",
        "model: runs/small/model",
        "report: runs/small/report.html",
    ):
        assert expected in said
    for name in ("config.yaml", "metrics.jsonl", "events.jsonl", "summary.json", "report.html", "model/config.json"):
        assert Path("runs/small", name).is_file()


def test_default_folder_is_numbered_when_it_is_taken(gramian: Gramian, config: Path) -> None:
    Path("runs/small").mkdir(parents=True)
    Path("runs/small-2").mkdir()
    outcome = gramian("train", config, "--dry-run")
    assert "would write to: runs/small-3" in outcome.out
    named = gramian("train", config, "name=other", "--dry-run")
    assert "would write to: runs/other" in named.out


def test_run_folder_that_is_taken_is_left_alone(gramian: Gramian, config: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes").write_text("mine")
    outcome = gramian("train", config, "--run", "mine")
    assert outcome.code == 2
    assert "gramian train --resume mine" in outcome.err
    assert here() == ["mine", "mine/notes"]


def test_dry_run_shows_configuration_steps_and_cost_and_writes_nothing(gramian: Gramian, config: Path) -> None:
    outcome = gramian("train", config, "train.steps=30", "compress.min_gain=0.2", "--dry-run")
    assert outcome.code == 0
    assert here() == []
    resolved, _, words = outcome.out.partition("event steps: ")
    content = yaml.safe_load(resolved)
    assert content["train"]["steps"] == 30
    assert content["compress"]["min_gain"] == 0.2
    assert content["compress"]["policy"]["energy"] == {"tau": 0.1}
    assert words.startswith("8, 16\n")
    assert "states: 12, parameters: " in words
    assert re.search(r"cost at full size: \d+\.\d ms a step \(median of 5 here\)", words)
    assert "would write to: runs/small" in words


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["compress=null"], "none"),
        (["compress.schedule={every: 5, until: 20}", "compress.schedule.at=null"], "5, 10, 15, 20"),
        (["compress.schedule.at=[1,2,3,4,5,6,7,19]"], "1, 2, 3, 4, 5, 6, ... 19"),
    ],
)
def test_dry_run_prints_the_event_steps(gramian: Gramian, config: Path, overrides: list[str], steps: str) -> None:
    outcome = gramian("train", config, *overrides, "--dry-run")
    assert outcome.code == 0
    assert f"event steps: {steps}\n" in outcome.out


def test_dry_run_shows_the_demo(gramian: Gramian) -> None:
    outcome = gramian("train", "demo", "train.batch_size=2", "--dry-run")
    assert outcome.code == 0
    assert "event steps: 50, 100, 150, 200, 250\n" in outcome.out
    assert here() == []


def test_analysis_as_json_is_json_and_nothing_else(gramian: Gramian, trained: Path) -> None:
    outcome = gramian("analyze", trained, "--json", "--tau", "0.05", "--tau", "0.3")
    assert (outcome.code, outcome.err) == (0, "")
    (row,) = json.loads(outcome.out)
    assert row["layer"] == "blocks.0.lru"
    assert set(row["kept"]) == {"0.05", "0.3"}
    assert len(row["values"]) == 2 * row["d_state"]
    assert row["kept"]["0.3"]["d_state"] < row["kept"]["0.05"]["d_state"] <= row["d_state"]


def test_analysis_as_a_table_has_a_column_for_every_tolerance(gramian: Gramian, trained: Path) -> None:
    kept = json.loads(gramian("analyze", trained / "model", "--json").out)[0]["kept"]
    outcome = gramian("analyze", trained / "model")
    lines = [plain(line) for line in outcome.out.splitlines()]
    assert "layer d_state norm 0.01 0.02 0.05 0.1 0.2" in lines
    (row,) = (line for line in lines if line.startswith("blocks.0.lru"))
    assert re.findall(r"(\d+) \(", row) == [str(kept[tau]["d_state"]) for tau in ("0.01", "0.02", "0.05", "0.1", "0.2")]
    assert here() == []


def test_analysis_draws_the_spectra_where_it_is_told(gramian: Gramian, trained: Path) -> None:
    assert gramian("analyze", trained, "--plot", "figures/s.svg").code == 0
    assert Path("figures/s.svg").read_text().startswith("<?xml")
    refused = gramian("analyze", trained, "--plot", "s.gif")
    assert refused.code == 2
    assert here() == ["figures", "figures/s.svg"]


def test_tolerance_out_of_range_is_bad_input(gramian: Gramian, trained: Path) -> None:
    outcome = gramian("analyze", trained, "--tau", "1.5")
    assert outcome.code == 2
    assert "tau = 1.5 was given" in outcome.err


def states(path: str | Path) -> list[int]:
    return json.loads((Path(path) / "config.json").read_text())["model"]["d_state"]


def test_compressed_model_is_smaller_and_can_be_evaluated(gramian: Gramian, trained: Path) -> None:
    before = (trained / "model/model.safetensors").read_bytes()
    outcome = gramian("compress", trained, "-o", "out/small", "--rank", "4")
    assert outcome.code == 0
    assert "model: out/small" in outcome.out
    assert states("out/small") == [4]
    assert load_file("out/small/model.safetensors")["blocks.0.lru.nu_log"].shape == (4,)
    result = json.loads(gramian("eval", "out/small", "--json").out)
    assert 0 < result["accuracy"] < 1
    assert result["samples"] == 250
    assert (trained / "model/model.safetensors").read_bytes() == before
    again = gramian("compress", "out/small", "-o", "out/smaller", "--rank", "2")
    assert (again.code, states("out/smaller")) == (0, [2])


@pytest.mark.parametrize(
    ("option", "expected"),
    [(("--fraction", "0.5"), lambda n: round(n / 2)), (("--tau", "0"), lambda n: n), (("--rank", "99"), lambda n: n)],
    ids=["fraction", "tau 0", "rank 99"],
)
def test_compression_keeps_what_the_option_says(
    gramian: Gramian, trained: Path, option: tuple[str, str], expected: Callable[[int], int]
) -> None:
    (n,) = states(trained / "model")
    assert gramian("compress", trained, "-o", "out", *option).code == 0
    assert states("out") == [expected(n)]


def test_tolerance_and_error_bound_cut_as_far_as_they_allow(gramian: Gramian, trained: Path) -> None:
    (row,) = json.loads(gramian("analyze", trained, "--json", "--tau", "0.3").out)
    gramian("compress", trained, "-o", "tau", "--tau", "0.3")
    assert states("tau") == [row["kept"]["0.3"]["d_state"]]
    bound = row["kept"]["0.3"]["bound"]
    gramian("compress", trained, "-o", "eps", "--eps", bound * 1.001)
    assert states("eps") == states("tau")


def test_model_that_is_kept_whole_is_said_to_be(gramian: Gramian, trained: Path) -> None:
    outcome = gramian("compress", trained, "-o", "out", "--rank", "99")
    assert "the policy keeps all states" in outcome.out
    assert Path("out/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()


def test_compression_never_overwrites(gramian: Gramian, trained: Path) -> None:
    Path("out").mkdir()
    outcome = gramian("compress", trained, "-o", "out", "--rank", "4")
    assert outcome.code == 2
    assert "'out' exists already" in outcome.err
    assert here() == ["out"]


def test_compression_dry_run_shows_the_plan_and_writes_nothing(gramian: Gramian, trained: Path) -> None:
    (n,) = states(trained / "model")
    outcome = gramian("compress", trained, "-o", "out", "--rank", "4", "--dry-run")
    assert outcome.code == 0
    assert f"blocks.0.lru {n} -> 4" in plain(outcome.out)
    assert here() == []
    assert states(trained / "model") == [n]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_repeats_the_scores_of_the_run(gramian: Gramian, trained: Path, split: str) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    outcome = gramian("eval", trained, "--split", split, "--json")
    record = json.loads(outcome.out)
    assert {key: record[key] for key in ("accuracy", "loss")} == summary["now"][split]
    assert (record["data"], record["split"], record["samples"]) == ("digits", split, 250)
    told = gramian("eval", trained, "--split", split).out
    assert f"accuracy {record['accuracy']}" in told
    assert f"split {split}" in told


def test_split_that_does_not_exist_is_bad_input(gramian: Gramian, trained: Path) -> None:
    outcome = gramian("eval", trained, "--split", "tset")
    assert outcome.code == 2
    assert "needed: train, valid, test. Did you mean 'test'?" in outcome.err


def test_report_writes_the_page_of_a_run(gramian: Gramian, trained: Path) -> None:
    shutil.copytree(trained, "copy")
    outcome = gramian("report", "copy")
    assert outcome.out == "report: copy/report.html\n"
    assert "<html" in Path("copy/report.html").read_text(encoding="utf-8")


def test_resumed_run_is_finished_on_the_command_line(gramian: Gramian, trained: Path) -> None:
    shutil.copytree(trained, "copy")
    Path("copy/summary.json").unlink()
    shutil.rmtree("copy/checkpoints/step_00000020")
    outcome = gramian("train", "--resume", "copy")
    assert outcome.code == 0
    assert "After 20 steps" in outcome.out
    assert Path("copy/model/model.safetensors").read_bytes() == (trained / "model/model.safetensors").read_bytes()


def test_data_list_names_every_data_set_and_what_it_needs(gramian: Gramian) -> None:
    from gramian.lab.data import DATASETS

    outcome = gramian("data", "list")
    assert outcome.code == 0
    rows = [re.findall(r"[\w-]+", line)[:4] for line in outcome.out.splitlines()]
    for name, info in DATASETS.items():
        assert [name, str(info.length), str(info.d_input), str(info.n_classes)] in rows


def test_data_check_tells_what_is_there(gramian: Gramian) -> None:
    outcome = gramian("data", "check", "digits")
    assert outcome.code == 0
    assert "digits: length 64, 1 channel(s), 10 classes" in outcome.out
    assert "nothing wrong found" in outcome.out


def test_data_that_does_not_pass_is_reported_and_exits_with_2(gramian: Gramian, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (9, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(9)
        records.tofile(tmp_path / f"{name}.bin")
    outcome = gramian("data", "check", "cifar10-gray", "--root", tmp_path)
    assert outcome.code == 2
    assert "test: no sample of class 9" in outcome.out
    assert "'cifar10-gray' did not pass" in outcome.err


def test_doctor_says_what_runs_here(gramian: Gramian) -> None:
    facts = json.loads(gramian("doctor", "--json").out)
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1
    assert facts["kernel 'chunked'"].startswith("ready")
    assert {"gramian", "python", "cpu", "cuda", "matplotlib", "scikit-learn", "mlxtend"} <= facts.keys()
    told = gramian("doctor").out
    assert all(key in told and str(facts[key]) in told for key in ("torch", "cpu", "cuda"))


def test_doctor_names_the_cure_for_what_is_missing(gramian: Gramian, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError

    from gramian.lab import commands

    def version(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(commands, "version", version)
    facts = json.loads(gramian("doctor", "--json").out)
    assert facts["matplotlib"] == "not installed: pip install 'gramian[plot]'"
    assert facts["mlxtend"] == "not installed: pip install 'gramian[data]'"


def test_experiment_runs_once_and_writes_results_table_and_figures(
    gramian: Gramian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slowest test of this file: five short runs on sequences of 784 steps."""
    from gramian.lab.experiments import reproduce

    outcome = gramian("reproduce", "smnist", "--scale", "tiny", "--seeds", "1")
    assert outcome.code == 0
    names = ["full", "tau 0.04", "tau 0.10", "scratch as tau 0.04", "scratch as tau 0.10"]
    assert [name for name in names if f"smnist-tiny  seed 1  {name}  (" in outcome.out] == names
    results = json.loads(Path("results/smnist-tiny.json").read_text())
    assert list(results["variants"]) == names
    runs: dict[str, Any] = {name: variant["runs"][0] for name, variant in results["variants"].items()}
    assert runs["full"]["states"] == 64
    assert not runs["full"]["events"]
    for tau in ("0.04", "0.10"):
        cut, scratch = runs[f"tau {tau}"], runs[f"scratch as tau {tau}"]
        assert 64 > cut["states"] == scratch["states"]
        assert [event["step"] for event in cut["events"]] == [10, 20]
        assert not scratch["events"]
    assert runs["tau 0.10"]["states"] < runs["tau 0.04"]["states"]
    assert all(run["seed"] == 1 and run["curve"]["step"] == [30, 60] for run in runs.values())
    table = Path("results/smnist-tiny.md").read_text()
    assert "a check that it runs, not a reproduction" in table
    assert "`gramian reproduce smnist --scale tiny --seeds 1`" in table
    assert all(f"| {name} | {runs[name]['states']} | {runs[name]['valid']:.3f} |" in table for name in names)
    assert {path.suffix for path in Path("results").iterdir()} == {".json", ".md", ".svg", ".png"}

    def repeated(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(reproduce, "train", repeated)
    written = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert gramian("reproduce", "smnist", "--scale", "tiny", "--seeds", "1").code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == written
    assert json.loads(Path("results/smnist-tiny.json").read_text())["variants"] == results["variants"]
