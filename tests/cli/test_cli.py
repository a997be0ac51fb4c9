"""The command line as a whole: its help, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from command_line import Gramian, here, plain
from gramian.cli import main

COMMANDS = ("train", "analyze", "compress", "eval", "report", "reproduce", "data", "doctor")


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
