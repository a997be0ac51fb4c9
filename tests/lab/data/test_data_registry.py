"""The data sets by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gramian.errors import ConfigError, DataError
from gramian.lab.data import DATASETS, load_data


@pytest.mark.parametrize(("typed", "meant"), [("sminst", "smnist"), ("cifar", "cifar10"), ("Digits", "digits")])
def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"'{typed}'. Did you mean '{meant}'") as caught:
        load_data(typed)
    assert all(name in str(caught.value) for name in DATASETS)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed=-1"):
        load_data("digits", seed=-1)


def test_root_may_be_text_or_a_path_and_the_seed_reaches_the_split(tmp_path: Path) -> None:
    first, again = load_data("digits", str(tmp_path), seed=3), load_data("digits", tmp_path, seed=3)
    assert first.source == again.source
    assert not torch.equal(first.test.inputs, load_data("digits").test.inputs)


@pytest.mark.parametrize("name", ["smnist", "digits"])
def test_what_is_promised_without_loading_is_what_is_loaded(name: str) -> None:
    info, data = DATASETS[name], load_data(name)
    assert data.name == name
    assert (data.length, data.d_input, data.n_classes) == (info.length, info.d_input, info.n_classes)


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if info.needs_files])
def test_data_that_needs_files_says_so_by_its_own_name(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' needs"):
        load_data(name)


def test_listing_the_data_sets_imports_none_of_their_packages() -> None:
    heavy = ("sklearn", "mlxtend", "mnist1d", "matplotlib", "pandas")
    code = f"import sys, gramian.lab.data as d; assert d.DATASETS; sys.exit(str(set({heavy}) & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.stderr.strip() == "set()"
