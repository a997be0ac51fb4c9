"""Rows that begin at lines, and tensors in the memory of one."""

from __future__ import annotations

import pytest
import torch

from gramian.kernels.memory import carved, in_lines, lines, room

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_begin_at_lines_of_64_bytes(dtype: torch.dtype) -> None:
    like = torch.empty(0, dtype=dtype)
    y = in_lines(like, 3, 5, 11)
    assert y.shape == (3, 5, 11)
    assert y.stride() == (5 * y.stride(1), y.stride(1), 1)
    assert y.stride(1) == lines(11, y.itemsize)
    assert y.stride(1) * y.itemsize % 64 == 0
    assert in_lines(like, 4, 16).is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_in_one_do_not_touch_each_other(dtype: torch.dtype) -> None:
    shapes = [(3, 5), (0,), (17,), (2, 0, 4), (1, 2, 3)]
    memory = torch.zeros(room(shapes, dtype.itemsize), dtype=dtype)
    found = carved(memory, shapes)
    for k, t in enumerate(found, 1):
        assert t.is_contiguous()
        assert t.numel() == 0 or (t.data_ptr() - memory.data_ptr()) % 64 == 0
        t.fill_(k)
    assert [t.shape for t in found] == shapes
    assert all((t == k).all() for k, t in enumerate(found, 1))
