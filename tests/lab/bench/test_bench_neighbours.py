"""Who else used the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from gramian.lab.bench.neighbours import Neighbours, busy_seconds


def test_busy_is_all_but_idle_and_waiting() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    #                            user nice system idle iowait irq softirq steal guest guest_nice
    assert busy_seconds("cpu  1 2 4 1000 1000 8 16 32 7 7") == pytest.approx((1 + 2 + 4 + 8 + 16 + 32) * tick)


def test_neighbours_are_what_is_busy_less_what_we_used() -> None:
    before, after = Neighbours(10.0, 100.0, 5.0), Neighbours(14.0, 107.0, 8.0)
    assert before.cores(after) == pytest.approx((7 - 3) / 4)
    assert before.cores(Neighbours(14.0, 102.0, 8.0)) == 0


def test_own_work_and_that_of_processes_waited_for_is_not_the_neighbours() -> None:
    before = Neighbours.now()
    if before is None:
        pytest.skip("there is no /proc/stat")
    subprocess.run([sys.executable, "-c", "for _ in range(3_000_000): pass"], check=True)
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    after = Neighbours.now()
    assert after is not None
    assert after.own - before.own > 0.1
    assert after.busy >= before.busy
