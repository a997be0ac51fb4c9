"""Kernels one after the other on a piece of the work at a time, so that one finds in the caches what another left.

Arrays of a layer's sequences are larger than the caches that a core has for itself; those of one sequence fit. So
between two kernels that run over all sequences everything goes out to memory and comes back, which takes longer than
computing. Here one thread takes a sequence through all of them.
"""

from __future__ import annotations

from array import array as integers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from gramian.kernels.native import (
    HEAD,
    WORDS,
    WORKER,
    Argument,
    At,
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

__all__ = ["Plan", "Stage", "launch_stages"]


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
        common = array(blocks + 16 * WORDS * k, WORDS, 0)
        moves = array(blocks + 16 * WORDS * k + 8 * WORDS, WORDS, 0)
        for i in range(WORDS):
            block[i] = common[i] + moves[i] * (worker - index)
        each = common[1]
        block[0], block[1] = own + 8 * (WORDS - 1), (index + 1) * each
        block[WORDS - 1], block[WORKER] = index * each, worker
        _call(common[0], own)


@entry
def _pieces_entry(data):  # type: ignore[no-untyped-def]
    run_with_workspace(_piece, data)


class Plan:
    """Stages as blocks of integers, worked out once; a launch fills in where tensors are.

    Parameters
    ----------
    stages, pieces
        What to do, and to how many. The stages of a piece may only want what earlier stages did to the same piece.
        Where pieces would leave threads idle, all tasks of a stage run before the next stage. Results are the same to
        the bit: tasks do not know.
    dtype
        As for `gramian.kernels.native.launch`.
    tensors
        Those whose places will be others at each launch, in which arguments of stages lie; their values do not matter
        here. Tensors that lie in none of them are used as they are, and kept.
    scratch
        Contiguous tensors, an entry a piece, for what a stage leaves to the next ones and nobody else: a worker takes
        all its pieces through one entry, which stays in its caches; most of the memory is never touched.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        pieces: int,
        dtype: torch.dtype,
        tensors: Sequence[Tensor] = (),
        scratch: Sequence[Tensor] = (),
    ) -> None:
        assert all(t.is_contiguous() and len(t) == pieces for t in scratch)
        threads = torch.get_num_threads()
        idle = pieces % threads and pieces < _EVEN * threads
        self._together = len(stages) > 1 and not idle
        self._pieces, self._dtype = pieces, dtype
        worth = [worth_threads(stage.args) for stage in stages]
        self._workers = min(pieces, threads) if any(worth) else 1
        self._alone = [
            (stage.kernel, pieces * stage.each, min(pieces * stage.each, threads) if w else 1)
            for stage, w in zip(stages, worth, strict=True)
        ]
        self._blocks, self._places, self._kept = _blocks(stages, threads, is_double(dtype), tensors, scratch)

    def launch(self, tensors: Sequence[Tensor] = ()) -> None:
        """Take every piece through all stages, on as many threads as torch had when the plan was made; with tensors of
        the same sizes and strides as then."""
        blocks, starts = self._blocks[:], [t.data_ptr() for t in tensors]
        for position, k, offset in self._places:
            blocks[position] = starts[k] + offset
        address = blocks.buffer_info()[0]
        if self._together:
            head = len(blocks) - WORDS
            at = address + 8 * head
            blocks[head : head + 4] = integers("q", [at + 8 * (WORDS - 1), self._pieces, len(self._alone), address])
            run_on_threads(_pieces_entry, self._dtype, at, self._workers)
            return
        for k, (kernel, tasks, workers) in enumerate(self._alone):
            first = 2 * k * WORDS
            at = address + 8 * first
            blocks[first : first + HEAD] = integers("q", [at + 8 * (WORDS - 1), tasks])
            run_on_threads(kernel, self._dtype, at, workers)


def launch_stages(stages: Sequence[Stage], pieces: int, dtype: torch.dtype, scratch: Sequence[Tensor] = ()) -> None:
    """Make a `Plan` of tensors where they are, and launch it; one stage by itself needs none."""
    if len(stages) == 1:
        launch(stages[0].kernel, pieces * stages[0].each, dtype, *stages[0].args)
    else:
        Plan(stages, pieces, dtype, scratch=scratch).launch()


def _blocks(
    stages: Sequence[Stage], threads: int, double: bool, tensors: Sequence[Tensor], scratch: Sequence[Tensor]
) -> tuple[integers[int], list[tuple[int, int, int]], list[Tensor]]:
    """For each stage a block of its code's address, tasks a piece, and arguments, and one of how far these move from
    piece to piece; room for a block of every worker, and for what starts them. Which integers are addresses in which of
    the tensors, how far behind its start; and tensors in none of them."""
    blocks = integers("q", bytes(8 * WORDS * (2 * len(stages) + threads + 1)))
    moving = [(t.data_ptr(), t.data_ptr() + t.nbytes, t.nbytes // len(t)) for t in scratch]
    known = [(t.data_ptr(), t.data_ptr() + _reach(t), k) for k, t in enumerate(tensors)]
    places, kept = [], []
    for k, stage in enumerate(stages):
        first, moves = 2 * k * WORDS, (2 * k + 1) * WORDS
        values = [*stage.kernel.native(double)[:1], stage.each, *values_of(stage.args)]
        blocks[first : first + len(values)] = integers("q", values)
        for i, (argument, value) in enumerate(zip(stage.args, values[HEAD:], strict=True), HEAD):
            if isinstance(argument, int):
                continue
            blocks[moves + i] = next((size for start, end, size in moving if start <= value < end), 0)
            inside = next(((first + i, j, value - start) for start, end, j in known if start <= value < end), None)
            if inside is None:
                kept.append(argument.tensor if isinstance(argument, At) else argument)
            else:
                places.append(inside)
    return blocks, places, kept


def _reach(t: Tensor) -> int:
    """Bytes from the first number of a tensor to behind its last one."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.itemsize * (last + 1) if t.numel() else 0
