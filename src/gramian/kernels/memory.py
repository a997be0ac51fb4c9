"""Where numbers of kernels lie: rows that begin at lines of the caches, and many tensors in the memory of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from torch import Tensor

__all__ = ["carved", "in_lines", "lines", "room"]

_LINE = 64  # bytes


def lines(columns: int, itemsize: int) -> int:
    """The least number of numbers, not below `columns`, that is whole lines."""
    numbers = _LINE // itemsize
    return -(-columns // numbers) * numbers


def in_lines(like: Tensor, *shape: int) -> Tensor:
    """An empty tensor of the type of `like`, with some unused numbers behind every row if that takes it to a line of
    the caches."""
    *outer, columns = shape
    return like.new_empty(*outer, lines(columns, like.itemsize))[..., :columns]


def room(shapes: Iterable[Sequence[int]], itemsize: int) -> int:
    """How many numbers `carved` wants if every tensor is to begin at a line."""
    return sum(lines(prod(shape), itemsize) for shape in shapes)


def carved(memory: Tensor, shapes: Iterable[Sequence[int]], *, packed: bool = False) -> list[Tensor]:
    """Contiguous tensors in a flat one, one behind the other: each from a line on, or with nothing between them."""
    found, start = [], 0
    for shape in shapes:
        size = prod(shape)
        found.append(memory[start : start + size].view(tuple(shape)))
        start += size if packed else lines(size, memory.itemsize)
    return found
