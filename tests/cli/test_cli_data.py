"""`gramian data`: what there is, and whether it is sound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from command_line import Gramian


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
