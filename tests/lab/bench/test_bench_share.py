"""The tables about shares of a training, and about first calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gramian.lab.bench import first_call_tables, share_estimates, share_tables
from gramian.lab.bench.settings import CannotRun, Settings
from gramian.lab.bench.share_tables import cut_shares_table, trained
from gramian.lab.build import build_data
from gramian.lab.config import SHIPPED, load_config


def test_a_share_is_of_the_whole_training_of_which_only_the_beginning_was_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def canned(*arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
        """Two looks in 350 steps; after the cut, a step takes 0.01 s."""
        asked.append(arguments)
        metrics = [{"step": s, "seconds": 5 + 0.01 * (s - 250), "train/loss": 1.0} for s in range(10, 351, 20)]
        looks = [{"kind": "cut", "seconds": 0.2}, {"kind": "skipped", "seconds": 0.05}]
        events = [*looks, {"kind": "noted", "seconds": 0.0}]
        return {"seconds": 6.0, "now": {"states": 20}}, events, metrics

    monkeypatch.setattr(share_tables, "trained", canned)
    monkeypatch.setattr(share_tables, "_names", lambda endings: ["demo"] if "demo" in endings else [])
    result = cut_shares_table(Settings())
    assert asked[0][:2] == ("demo", "train.steps=350")
    total = 6 + (load_config("demo").train.steps - 350) * 0.01
    assert result.data["demo"]["total"] == pytest.approx(total)
    assert result.data["demo"]["share"] == pytest.approx(0.25 / total)
    assert result.sections[0].rows == [
        ("demo", "lru", "256 -> 20", "2", "0.250", f"{total:.1f}", f"{0.25 / total:.2%}", "yes")
    ]


def test_every_configuration_that_cuts_is_asked() -> None:
    short, long = list(share_tables._names(share_tables.SCALES)), list(share_tables._names(share_tables.TOO_LONG))
    assert {"demo", "digits-tiny", "text-small", "smnist-small", "scifar-small"} <= set(short)
    assert {"smnist-paper", "scifar-paper", "mqar-paper"} <= set(long)
    assert {*short, *long} == {p.stem for p in SHIPPED.glob("*.yaml") if load_config(p.stem).compress is not None}


def test_what_is_too_long_to_run_has_its_largest_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def reckoned(name: str) -> dict[str, Any]:
        if name == "scifar-paper":
            raise RuntimeError("not enough memory\nand more")
        sizes = {"layer": "lru", "before": 256, "after": 1, "looks": 5}
        return {**sizes, "look_seconds": 0.5, "steps": 1000, "step_seconds": 0.01, "share": 0.2}

    monkeypatch.setattr(share_tables, "largest_share", reckoned)
    names = ["smnist-paper", "scifar-paper"]
    monkeypatch.setattr(share_tables, "_names", lambda endings: names if "-paper" in endings else [])
    short, long = cut_shares_table(Settings()).sections
    assert short.rows == []
    assert long.rows == [
        ("smnist-paper", "lru", "256 -> 1", "5", "0.50", "1000", "0.010", "20.000%", "no"),
        ("scifar-paper", "not run: not enough memory", *("",) * 7),
    ]
    assert all(len(row) == len(long.columns) for row in long.rows)


def test_a_look_that_cuts_nothing_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share_estimates, "_cut_once", lambda config: config)
    with pytest.raises(CannotRun, match="cut nothing"):
        share_estimates.largest_share("digits-tiny")  # which looks later


def test_noise_stands_in_for_photographs_and_what_is_bundled_for_other_files(tmp_path: Path) -> None:
    overrides = share_estimates.stand_in(load_config("scifar-small"), tmp_path)
    data = build_data(load_config("scifar-small", overrides).data)
    assert len(data.test.inputs) == 1000
    assert data.test.inputs.shape[1:] == (1024, 1)
    assert sorted(set(data.train.targets.tolist())) == list(range(10))
    assert share_estimates.stand_in(load_config("smnist-paper"), tmp_path) == ["data.root=null"]
    assert share_estimates.stand_in(load_config("text-small"), tmp_path) == []


@pytest.mark.parametrize(("name", "states", "looks"), [("digits-tiny", (32, 1), 2), ("mqar-tiny", (32, 2), 2)])
def test_the_largest_share_is_all_looks_at_full_size_over_all_steps_at_one_state(
    name: str, states: tuple[int, int], looks: int
) -> None:
    found = share_estimates.largest_share(name)
    assert (found["before"], found["after"], found["looks"]) == (*states, looks)
    assert found["steps"] == load_config(name).train.steps
    cuts = looks * found["look_seconds"]
    assert found["look_seconds"] > 0
    assert found["share"] == pytest.approx(cuts / (cuts + found["steps"] * found["step_seconds"]))


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
