"""`gramian compress`: each option keeps what it says, and nothing is overwritten."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from command_line import Gramian, here, plain


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
