"""One thread for all of the laboratory: its tests are many small products, and two threads that wait for each other
on two busy cores take twenty times as long as one. And a small run for those who only look at one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import finished


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")  # comparisons of whole states hold only while nobody draws from Python's generators
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; nobody changes it."""
    return finished(tmp_path_factory.mktemp("small") / "run")
