"""The contestants of the Mamba-2 table compute the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gramian.lab.bench import mamba2_tables, mamba_tables
from gramian.lab.bench.kernel_tables import compare
from gramian.lab.bench.settings import CannotRun, Settings, Shape


def test_transformers_computes_our_output_and_gradient_of_the_input() -> None:
    pytest.importorskip("transformers", reason="compares with transformers: pip install 'gramian[hf]'")
    shape = Shape(2, 37, 8, 6, blocks=2)
    y, (g, *mine) = mamba2_tables.ours(shape)()
    for chunk in (16, 256):
        z, (h, *others) = mamba2_tables.theirs(shape, chunk)()
        torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(h, g, rtol=1e-4, atol=1e-4)
        assert sum(p.numel() for p in mine) == sum(p.numel() for p in others)


def test_transformers_computes_our_recurrence_with_its_gradients() -> None:
    pytest.importorskip("transformers", reason="compares with transformers: pip install 'gramian[hf]'")
    shape = Shape(2, 37, 8, 6)
    y, mine = mamba2_tables.our_recurrence(shape)()
    try:
        z, others = mamba2_tables.their_recurrence(shape, 16)()
    except CannotRun as reason:
        pytest.skip(str(reason))
    torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-4)
    for a, b in zip(others, mine, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_without_transformers_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba2_tables, "find_spec", lambda name: None)
    monkeypatch.setattr(
        mamba_tables, "compare_with_stock_allocator", lambda build, settings, settle: compare(build(settings), settings)
    )  # in this process, for which there is no transformers
    with pytest.raises(CannotRun, match=r"pip install 'gramian\[hf\]'"):
        mamba2_tables.theirs(Shape(2, 37, 8, 6), 16)
    result: Any = mamba2_tables.mamba2_table(Settings(rounds=1, small=True))
    cells = [cell for section in result.sections for row in section.rows for cell in row]
    assert sum("not run" in cell for cell in cells) == 2 * 12
    with pytest.raises(CannotRun, match=r"pip install 'gramian\[hf\]'"):
        mamba2_tables.their_recurrence(Shape(2, 37, 8, 6), 16)
    assert [row[0] for row in result.sections[0].rows] == ["gramian, N 12 / N 4"]


def test_width_of_a_head_fits_a_narrow_model() -> None:
    assert mamba2_tables.head_dim(Shape(8, 256, 128, 16)) == 64
    assert mamba2_tables.head_dim(Shape(8, 256, 4, 16)) == 8
