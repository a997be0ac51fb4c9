"""`gramian analyze`: spectra as JSON, as a table and as a figure."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import Gramian, here, plain


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
