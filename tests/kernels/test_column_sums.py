"""Sums over the rows of a matrix as a stage."""

from __future__ import annotations

import pytest
import torch

from gramian.kernels.column_sums import column_sums_stage
from gramian.kernels.stages import launch_stages


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 64), (17, 65), (200, 300)])
def test_columns_are_summed_to_where_they_belong(rows: int, columns: int, dtype: torch.dtype) -> None:
    """Rows may lie apart, and so may the sums; nothing else is written."""
    wide = torch.randn(rows, columns + 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    x = wide[:, 3 : 3 + columns]
    for step in (1, 4):
        room = torch.full((columns + 2, step), 7.0, dtype=dtype)
        launch_stages([column_sums_stage(x, room[:columns, 0])], 1, dtype)
        torch.testing.assert_close(room[:columns, 0], x.sum(0))
        assert (room[:columns, 1:] == 7).all()
        assert (room[columns:] == 7).all()


def test_many_rows_lose_no_digits() -> None:
    x = torch.full((100_000, 20), 0.1)
    for room in (torch.empty(20), torch.empty(20, 2)[:, 0]):
        launch_stages([column_sums_stage(x, room)], 1, torch.float32)
        torch.testing.assert_close(room.double(), x.double().sum(0), rtol=1e-5, atol=0)
