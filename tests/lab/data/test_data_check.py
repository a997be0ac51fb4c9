"""The look at a data set before a run."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gramian.errors import ConfigError
from gramian.lab.data import DATASETS, SequenceData, Split, check_data, load_data


def register(monkeypatch: pytest.MonkeyPatch, data: SequenceData) -> None:
    info = dataclasses.replace(DATASETS["digits"], load=lambda root, seed, parameters: data)
    monkeypatch.setitem(DATASETS, "digits", info)


@pytest.fixture(scope="module")
def digits() -> SequenceData:
    return load_data("digits")


def rebuilt(data: SequenceData, **changes: Split) -> SequenceData:
    return SequenceData.from_splits(data.name, **(data.splits | changes), n_classes=10, origin="changed by a test")


def test_digits_pass_and_their_numbers_are_those_of_the_splits(digits: SequenceData) -> None:
    report = check_data("digits")
    assert report.passed
    assert report.source == digits.source
    assert [split.samples for split in report.splits] == [1297, 250, 250]
    assert report.splits[0].class_counts == tuple(digits.train.targets.bincount().tolist())
    assert all(split.also_in_train == split.repeated == split.non_finite == 0 for split in report.splits)


def test_samples_that_training_has_seen_are_counted_but_are_no_finding(
    digits: SequenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaked = digits.test.inputs.clone()
    leaked[[3, 8, 100]] = digits.train.inputs[[0, 700, 0]]
    register(monkeypatch, rebuilt(digits, test=Split(leaked, digits.test.targets)))
    report = check_data("digits")
    train, valid, test = report.splits
    assert (train.also_in_train, valid.also_in_train, test.also_in_train) == (0, 0, 3)
    assert (train.repeated, valid.repeated, test.repeated) == (0, 0, 1)
    assert report.passed


def test_entries_that_are_not_finite_are_found_and_counted(
    digits: SequenceData, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt = digits.valid.inputs.clone()
    spoilt[0, :5] = torch.nan
    spoilt[1, 0] = torch.inf
    register(monkeypatch, rebuilt(digits, valid=Split(spoilt, digits.valid.targets)))
    report = check_data("digits")
    assert not report.passed
    assert report.findings == ("valid: 6 input entries are NaN or infinite",)


def test_a_class_without_samples_is_found(digits: SequenceData, monkeypatch: pytest.MonkeyPatch) -> None:
    without = (digits.train.targets != 4) & (digits.train.targets != 9)
    register(monkeypatch, rebuilt(digits, train=Split(digits.train.inputs[without], digits.train.targets[without])))
    assert check_data("digits").findings == ("train: no sample of class 4, 9",)


def test_another_length_than_promised_is_found(digits: SequenceData, monkeypatch: pytest.MonkeyPatch) -> None:
    halves = {name: Split(split.inputs[:, :32], split.targets) for name, split in digits.splits.items()}
    register(monkeypatch, rebuilt(digits, **halves))
    assert "(32, 1, 10), not (64, 1, 10)" in check_data("digits").findings[0]


def test_the_report_prints_as_a_table_with_one_row_a_split() -> None:
    lines = str(check_data("digits")).splitlines()
    header = next(i for i, line in enumerate(lines) if line.lstrip().startswith("split"))
    rows = [line.split() for line in lines[header + 1 : header + 4]]
    assert [row[:2] for row in rows] == [["train", "1297"], ["valid", "250"], ["test", "250"]]
    assert len({len(line) for line in lines[header : header + 4]}) == 1
    assert "sha256" in lines[1]
    assert lines[-1] == "nothing wrong found"


def test_an_unknown_name_is_refused_as_by_load_data() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mnist1d'"):
        check_data("mnist1")
