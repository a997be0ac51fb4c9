"""The contestants of the Mamba tables compute the same, and the tables say what could not run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gramian.lab.bench import mamba_contestants as contestants
from gramian.lab.bench import mamba_tables
from gramian.lab.bench.settings import CannotRun, Settings, Shape

SHAPE = Shape(2, 37, 8, 6, blocks=2)


def test_mambapy_computes_our_output_and_gradient_of_the_input() -> None:
    pytest.importorskip("mambapy", reason="compares with mambapy: pip install 'gramian[bench]'")
    y, (g, *mine) = contestants.model(SHAPE)()
    z, (h, *others) = contestants.mambapy_model(SHAPE)()
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(h, g, rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in mine) == sum(p.numel() for p in others)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_scans_compute_the_same_output_and_gradients(backend: str) -> None:
    pytest.importorskip("mambapy", reason="compares with mambapy: pip install 'gramian[bench]'")
    y, mine = contestants.scan(SHAPE, backend)()
    z, others = contestants.mambapy_scan(SHAPE)()
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
    for a, b in zip(others, mine, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_step_sizes_are_those_of_a_new_layer() -> None:
    *_, bias = contestants.scan_inputs(SHAPE)[0]
    steps = torch.nn.functional.softplus(bias)
    assert ((steps > 0.9e-3) & (steps < 0.11)).all()


def test_without_mambapy_the_tables_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    monkeypatch.setattr(mamba_tables, "peak_bytes", lambda name, shape: {"peak": 6e6, "libraries": 1e6})
    with pytest.raises(CannotRun, match=r"pip install 'gramian\[bench\]'"):
        contestants.mambapy_model(SHAPE)
    for table, absent in ((mamba_tables.mamba_table, 2), (mamba_tables.selective_table, 4)):
        result: Any = table(Settings(rounds=1, small=True))
        cells = [cell for section in result.sections for row in section.rows for cell in row]
        assert sum("not run" in cell for cell in cells) == absent
        assert all("mambapy" not in row[0] or "memory" in row[0] for row in result.sections[0].rows)


def test_memory_that_cannot_be_measured_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, shape: Shape) -> dict[str, Any]:
        if name == "mambapy":
            raise CannotRun("out of memory")
        return {"peak": 2e6, "libraries": 1e6}

    monkeypatch.setattr(mamba_tables, "peak_bytes", refuse)
    rows, found = mamba_tables._memory({6: SHAPE})
    assert rows == [("gramian, N 6", "2", "1"), ("mambapy, N 6", "not run: out of memory", "")]
    assert list(found) == ["gramian, N 6"]
