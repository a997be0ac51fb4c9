"""Turns in a process of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from gramian.lab.bench.settings import THREADS, CannotRun, Settings
from gramian.lab.bench.stock_allocator import compare_with_stock_allocator


def _absent() -> Callable[[], object]:
    raise CannotRun("not here")


def _sleeping(seconds: float) -> Callable[[], object]:
    import torch

    assert torch.get_num_threads() == THREADS
    return lambda: time.sleep(seconds)


def builders(settings: Settings) -> dict[str, Callable[[], Callable[[], object]]]:
    """A short and a long nap, one that cannot be taken, and one whose name says in which process."""
    return {
        "short": lambda: _sleeping(0.001),
        "long": lambda: _sleeping(0.02),
        "absent": _absent,
        f"process {os.getpid()}": lambda: _sleeping(0),
    }


def test_turns_are_taken_in_another_process_with_our_number_of_threads() -> None:
    turns, missing = compare_with_stock_allocator(builders, Settings(rounds=3, small=True))
    assert missing == {"absent": "not here"}
    assert turns.ratio("long", "short").median > 3
    assert len(turns.samples["long"]) == 3
    assert {"short", "long"} < set(turns.samples)
    assert f"process {os.getpid()}" not in turns
