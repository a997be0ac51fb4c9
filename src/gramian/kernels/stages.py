"""Kernels one after the other on a piece of the work at a time, so that one finds in the caches what another left.

Arrays of a layer's sequences are larger than the caches that a core has for itself; those of one sequence fit. So
between two kernels that run over all sequences everything goes out to memory and comes back, which takes longer than
computing. Here one thread takes a sequence through all of them.
"""

from __future__ import annotations

import ctypes
from array import array as integers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from gramian.kernels.native import (
    WORDS,
    WORKER,
    Argument,
    Entry,
    array,
    compiled,
    entry,
    is_double,
    launch,
    run_on_threads,
    run_with_workspace,
    values_of,
    worth_threads,
)

__all__ = ["Stage", "launch_stages"]


_EVEN = 4  # pieces a thread, with which it does not matter that some threads have one more than others


class Stage(NamedTuple):
    """A kernel of which `each` tasks make up a piece: tasks ``i each ... i each + each - 1`` the i-th one."""

    kernel: Entry
    each: int
    args: tuple[Argument, ...]


@intrinsic
def _call(context: Any, code: Any, data: Any) -> Any:
    """Call machine code at an address, of a function that takes an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@compiled
def _piece(index, worker, args, real):  # type: ignore[no-untyped-def]
    """Call every stage's code with what it is told for this piece, in a block of integers of the worker's own.

    A stage counts places in scratch memory from the piece's number on: moved there, they are the worker's.
    """
    stages, blocks = args[0], args[1]
    own = blocks + 8 * WORDS * (2 * stages + worker)
    block = array(own, WORDS, 0)
    for k in range(stages):
        common, moves = (
            array(blocks + 16 * WORDS * k, WORDS, 0),
            array(blocks + 16 * WORDS * k + 8 * WORDS, WORDS, 0),
        )
        for i in range(WORDS):
            block[i] = common[i] + moves[i] * (worker - index)
        each = common[1]
        block[0], block[1] = own + 8 * (WORDS - 1), (index + 1) * each
        block[WORDS - 1], block[WORKER] = index * each, worker
        _call(common[0], own)


@entry
def _pieces_entry(data):  # type: ignore[no-untyped-def]
    run_with_workspace(_piece, data)


def launch_stages(stages: Sequence[Stage], pieces: int, dtype: torch.dtype, scratch: Sequence[Tensor] = ()) -> None:
    """Take each of so many pieces through all stages, on at most ``torch.get_num_threads()`` threads.

    The stages of a piece may only want what earlier stages did to the same piece. Where pieces would leave threads
    idle, all tasks of a stage run before the next stage. Results are the same to the bit: tasks do not know.

    Parameters
    ----------
    stages, pieces
        What to do, and to how many.
    dtype
        As for `gramian.kernels.native.launch`.
    scratch
        Contiguous tensors, an entry a piece, for what a stage leaves to the next ones and nobody else: a worker takes
        all its pieces through one entry, which stays in its caches; most of the memory is never touched.
    """
    threads = torch.get_num_threads()
    if len(stages) == 1 or (pieces % threads and pieces < _EVEN * threads):
        for stage in stages:
            launch(stage.kernel, pieces * stage.each, dtype, *stage.args)
        return
    assert all(t.is_contiguous() and len(t) == pieces for t in scratch)
    blocks = _blocks(stages, threads, is_double(dtype), scratch)
    head = (ctypes.c_int64 * WORDS)(0, pieces, len(stages), blocks.buffer_info()[0])
    head[0] = ctypes.addressof(head) + 8 * (WORDS - 1)
    worth = any(worth_threads(stage.args) for stage in stages)
    run_on_threads(_pieces_entry, dtype, ctypes.addressof(head), min(pieces, threads) if worth else 1)


def _blocks(stages: Sequence[Stage], threads: int, double: bool, scratch: Sequence[Tensor]) -> integers[int]:
    """For each stage a block of its code's address, tasks a piece, and arguments, and one of how far these move from
    piece to piece; and room for a block of every worker."""
    blocks = integers("q", bytes(8 * WORDS * (2 * len(stages) + threads)))
    places = [(t.data_ptr(), t.data_ptr() + t.nbytes, t.nbytes // len(t)) for t in scratch]
    lowest, highest = min((p[0] for p in places), default=0), max((p[1] for p in places), default=0)
    for k, stage in enumerate(stages):
        first, moves = 2 * k * WORDS, (2 * k + 1) * WORDS
        values = [stage.kernel.native(double)[0], stage.each, *values_of(stage.args)]
        blocks[first : first + len(values)] = integers("q", values)
        for i, value in enumerate(values):
            if lowest <= value < highest:
                blocks[moves + i] = next((size for start, end, size in places if start <= value < end), 0)
    return blocks
