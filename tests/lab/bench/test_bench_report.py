"""What a table becomes: everything in JSON, and Markdown that can be judged from its caption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gramian.lab.bench.report import Result, Section, Target, markdown, record, targets_section, write
from gramian.lab.bench.timing import Spread

LOST = Target("ours / copy", Spread(2.0, 1.5, 3.0, 7), "<=", 1.5)
RESULT = Result(
    [targets_section([LOST]), Section("Seconds", ("contestant", "ms"), [("ours", "2"), ("a|b", "1")])],
    ("How it was measured.",),
    {"seconds": {"ours": [0.002]}},
    "batch 2",
)


def facts(small: bool = False) -> dict[str, object]:
    return record("scan", "How fast?", "gramian bench scan --rounds 7", 7, small, RESULT)


def test_json_holds_samples_environment_command_and_conditions(tmp_path: Path) -> None:
    paths = write(tmp_path / "new", facts(), None)
    assert [path.name for path in paths] == ["scan.json", "scan.md"]
    content = json.loads(paths[0].read_text())
    assert content["data"] == {"seconds": {"ours": [0.002]}}
    assert content["command"] == "gramian bench scan --rounds 7"
    assert (content["threads"], content["rounds"], content["shape"]) == (2, 7, "batch 2")
    assert content["dtype"].startswith("float32")
    assert {"cpu", "torch", "git_commit", "jax", "numba", "mambapy"} <= content["environment"].keys()


def test_caption_holds_command_machine_versions_dtype_threads_and_rounds() -> None:
    content = facts()
    caption = markdown(content).splitlines()[-1]
    where = content["environment"]
    assert isinstance(where, dict)
    for part in ("`gramian bench scan --rounds 7`", where["cpu"], f"torch {where['torch']}", "float32", "2 threads"):
        assert part in caption
    assert "median (min-max) of 7 rounds" in caption
    assert "How it was measured." in markdown(content)


def test_missed_target_is_a_row_like_any_other() -> None:
    assert not LOST.met
    assert Target("x", Spread(1.5, 1, 2, 7), "<=", 1.5).met
    assert Target("x", Spread(1.5, 1, 2, 7), ">=", 1.5).met
    assert "| ours / copy | 2 (1.5-3) | <= 1.5 | no |" in markdown(facts())


def test_cells_cannot_break_the_table() -> None:
    assert "| a/b | 1 |" in markdown(facts())


def test_smoke_run_is_marked_as_one() -> None:
    assert "smoke run" not in markdown(facts())
    assert markdown(facts(small=True)).startswith("# scan: a smoke run")


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path, facts(), None)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write(tmp_path, facts() | {"data": object()}, None)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_figure_is_written_beside_the_table_in_both_formats(tmp_path: Path) -> None:
    paths = write(tmp_path, facts(), lambda path: path.write_text("drawn") and None)
    assert [path.suffix for path in paths] == [".json", ".md", ".svg", ".png"]
    assert all(path.exists() for path in paths)
