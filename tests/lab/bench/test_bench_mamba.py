"""The contestants of the Mamba tables compute the same, and the tables say what could not run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gramian.lab.bench import mamba_contestants as contestants
from gramian.lab.bench import mamba_tables, mamba_training_tables
from gramian.lab.bench.kernel_tables import compare
from gramian.lab.bench.settings import CannotRun, Settings, Shape
from gramian.lab.bench.timing import Turns
from gramian.layers.mamba import Mamba

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


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """mambapy is not installed, for this process, in which everything is timed."""
    monkeypatch.setattr(contestants, "find_spec", lambda name: None)
    monkeypatch.setattr(mamba_tables, "peak_bytes", lambda name, shape: {"peak": 6e6, "libraries": 1e6})
    monkeypatch.setattr(
        mamba_tables, "compare_with_stock_allocator", lambda build, settings, settle: compare(build(settings), settings)
    )


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("table", "rows_of_mambapy"),
    [
        (mamba_tables.mamba_table, 2 * 2),
        (mamba_tables.selective_table, 2 * 4),
        (mamba_training_tables.mamba_training_table, 2 * 1),
    ],
)
def test_without_mambapy_the_tables_say_so(table: Any, rows_of_mambapy: int) -> None:
    with pytest.raises(CannotRun, match=r"pip install 'gramian\[bench\]'"):
        contestants.mambapy_model(SHAPE)
    result: Any = table(Settings(rounds=1, small=True))
    cells = [cell for section in result.sections for row in section.rows for cell in row]
    assert sum(cell.startswith("not run: ") for cell in cells) == rows_of_mambapy
    assert all("mambapy" not in row[0] or "memory" in row[0] for row in result.sections[0].rows)


def test_a_layer_of_mambapy_has_our_weights() -> None:
    pytest.importorskip("mambapy", reason="compares with mambapy: pip install 'gramian[bench]'")
    layer, x = Mamba(8, 6), torch.randn(2, 11, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(contestants.mambapy_layer(layer)(x), layer(x), rtol=1e-4, atol=1e-5)


def test_a_whole_training_is_made_of_its_steps_and_the_cut() -> None:
    turns = Turns({"gramian, N 8": (2.0, 3.0), "gramian, N 2": (1.0, 1.5), "mambapy, N 8": (50.0, 60.0)}, {})
    whole = mamba_training_tables._whole(turns, states=8, cut=2, steps=100, at=10, seconds=7.0)
    assert whole["gramian, cut from, N 8"] == [10 * 2 + 7 + 90 * 1, 10 * 3 + 7 + 90 * 1.5]
    assert whole["gramian, N 8"] == [200.0, 300.0]
    assert whole["mambapy, N 8"] == [5000.0, 6000.0]


def test_memory_that_cannot_be_measured_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, shape: Shape) -> dict[str, Any]:
        if name == "mambapy":
            raise CannotRun("out of memory")
        return {"peak": 2e6, "libraries": 1e6}

    monkeypatch.setattr(mamba_tables, "peak_bytes", refuse)
    rows, found = mamba_tables._memory({6: SHAPE})
    assert rows == [("gramian, N 6", "2", "1"), ("mambapy, N 6", "not run: out of memory", "")]
    assert list(found) == ["gramian, N 6"]
