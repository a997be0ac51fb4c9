"""Which version of the recurrence is fastest for a shape: looked up in a table of measurements that ships along.

``choice.json`` was written by ``python -m gramian.kernels.measure_choice``, which tells how; it holds seconds of
forward and backward pass for a grid of shapes. Between grid points the nearest one counts, with distances in powers
of two. On another machine the absolute times differ, and the order of the versions much less.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

__all__ = ["TABLE", "fastest", "stateless"]

TABLE = Path(__file__).with_name("choice.json")
_FEW_CHANNELS = 64  # on other devices than the CPU, where nothing was measured: up to here, a convolution


class _Row(TypedDict):
    batch: int
    length: int
    channels: int
    order: int
    seconds: dict[str, float]


def stateless(backend: str) -> bool:
    """Whether a version starts from a zero state and gives no final one."""
    return backend == "fft"


def fastest(u: Tensor, order: int, outputs: int, *, stateful: bool, padded: bool) -> str:
    """The name of the version to take.

    Parameters
    ----------
    u
        Inputs, ``(batch, L, H_in)``.
    order
        States N.
    outputs
        ``H_out``.
    stateful
        Whether a state goes in or comes out.
    padded
        Whether sequences have lengths of their own.
    """
    if padded and stateful:
        return "chunked"
    if u.device.type != "cpu":
        few = max(u.shape[2], outputs) <= _FEW_CHANNELS
        return ("chunked" if stateful else "fft") if few else "products"
    batch, length, inputs = u.shape
    find = _nearest if torch.compiler.is_compiling() else _nearest_cached  # a graph is traced without the cache
    return find(batch, length, max(inputs, outputs), order, stateful, inputs == outputs)


def _nearest(batch: int, length: int, channels: int, order: int, stateful: bool, square: bool) -> str:
    shape = [math.log2(max(1, size)) for size in (batch, length, channels, order)]

    def distance(row: _Row) -> float:
        point = (row["batch"], row["length"], row["channels"], row["order"])
        return sum((a - math.log2(b)) ** 2 for a, b in zip(shape, point, strict=True))

    seconds = min(_ROWS, key=distance)["seconds"]
    able = {
        name: time
        for name, time in seconds.items()
        if not (stateful and stateless(name)) and (square or name != "numba")
    }
    return min(able, key=lambda name: able[name])


_nearest_cached = cache(_nearest)
_ROWS: list[_Row] = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
