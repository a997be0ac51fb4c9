"""Turns in a process of their own that says nothing to the allocator: what a script of a user's own has.

Ours are not the only ones to profit from memory that is kept: how much faster one contestant is than another depends
on it. So where a rival allocates a lot, both are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from gramian.lab.bench.kernel_tables import Builders, compare
from gramian.lab.bench.settings import Settings, threads
from gramian.lab.bench.timing import Turns

__all__ = ["AS_IT_COMES", "compare_with_stock_allocator"]

AS_IT_COMES = (
    "'Allocator as it comes': the same turns in a fresh process in which nothing was told to the allocator, as in a "
    "script of a user's own. There, page faults of fresh buffers count, and weigh the more the more memory a "
    "contestant takes."
)


def compare_with_stock_allocator(
    builders: Callable[[Settings], Builders], settings: Settings, settle: int = 0
) -> tuple[Turns, dict[str, str]]:
    """`gramian.lab.bench.kernel_tables.compare` of what `builders`, a function of a module, returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_compared, builders, settings, settle).result()


def _compared(
    builders: Callable[[Settings], Builders], settings: Settings, settle: int
) -> tuple[Turns, dict[str, str]]:
    with threads():
        return compare(builders(settings), settings, settle)
