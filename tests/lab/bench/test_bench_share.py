"""The tables about shares of a training, and about first calls."""

from __future__ import annotations

from typing import Any

import pytest

from gramian.lab.bench import first_call_tables, share_tables
from gramian.lab.bench.settings import CannotRun, Settings
from gramian.lab.bench.share_tables import cut_shares_table, trained
from gramian.lab.config import load_config


def test_a_share_is_of_the_whole_training_of_which_only_the_beginning_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def canned(*arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
        """Two looks in 350 steps; after the cut, a step takes 0.01 s."""
        asked.append(arguments)
        metrics = [{"step": s, "seconds": 5 + 0.01 * (s - 250), "train/loss": 1.0} for s in range(10, 351, 20)]
        events = [{"kind": "cut", "seconds": 0.2}, {"kind": "kept", "seconds": 0.05}]
        return {"seconds": 6.0, "now": {"states": 20}}, events, metrics

    monkeypatch.setattr(share_tables, "trained", canned)
    monkeypatch.setattr(share_tables, "_names", lambda: ["demo"])
    result = cut_shares_table(Settings())
    assert asked[0][:2] == ("demo", "train.steps=350")
    total = 6 + (load_config("demo").train.steps - 350) * 0.01
    assert result.data["demo"]["total"] == pytest.approx(total)
    assert result.data["demo"]["share"] == pytest.approx(0.25 / total)
    assert result.sections[0].rows == [
        ("demo", "lru", "256 -> 20", "2", "0.250", f"{total:.1f}", f"{0.25 / total:.2%}", "yes")
    ]


def test_every_configuration_that_cuts_and_is_over_in_minutes_is_asked() -> None:
    names = list(share_tables._names())
    assert {"demo", "digits-tiny", "text-small", "smnist-small", "mqar-small"} <= set(names)
    assert not [name for name in names if name.endswith("-paper")]


def test_a_training_in_a_process_of_its_own() -> None:
    summary, events, metrics = trained("digits-tiny", "train.steps=20", "train.log_every=5", "train.eval_every=20")
    assert summary["steps"] == 20
    assert {event["kind"] for event in events} >= {"cut"}
    assert [row["step"] for row in metrics if "train/loss" in row] == [5, 10, 15, 20]
    with pytest.raises(CannotRun, match="no-such-thing"):
        trained("no-such-thing")


def test_what_cannot_run_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise CannotRun("no data")

    monkeypatch.setattr(share_tables, "trained", refuse)
    monkeypatch.setattr(first_call_tables, "_seconds", refuse)
    for table in (cut_shares_table, first_call_tables.first_call_table):
        (section,) = table(Settings(small=True)).sections
        assert [row[1] for row in section.rows] == ["not run: no data"]
        assert len(section.rows[0]) == len(section.columns)


def test_first_calls_are_counted_from_the_import_of_gramian(monkeypatch: pytest.MonkeyPatch) -> None:
    def canned(_: str, variables: Any = None) -> list[float]:
        return [1.0, 0.5, 9.0 if variables else 0.25, 0.01]

    monkeypatch.setattr(first_call_tables, "_seconds", canned)
    (section,) = first_call_tables.first_call_table(Settings(rounds=7)).sections
    assert [row[0] for row in section.rows] == ["LRU", "Mamba", "Mamba2", "LinearAttention"]
    assert all(len(row) == len(section.columns) for row in section.rows)
    assert section.rows[0][5:] == ("0.75 (0.75-0.75)", "yes", "9.0")


@pytest.mark.parametrize("name", first_call_tables._MAKERS)
def test_every_layer_can_be_called_first(name: str) -> None:
    maker = first_call_tables._MAKERS[name].format(16, 4)
    seconds = first_call_tables._seconds(first_call_tables._PROGRAM.format(maker=maker, batch=1, length=8, channels=16))
    assert len(seconds) == 4
    assert min(seconds) > 0
