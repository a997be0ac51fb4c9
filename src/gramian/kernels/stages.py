"""Kernels one after the other on a piece of the work at a time, so that one finds in the caches what another left.

Arrays of a layer's sequences are larger than the caches that a core has for itself; those of one sequence fit. So
between two kernels that run over all sequences everything goes out to memory and comes back, which takes longer than
computing. Here one thread takes a sequence through all of them. What comes before all sequences and after them is part
of the same launch: threads are woken once, and Python is asked once.
"""

from __future__ import annotations

from array import array as integers
from collections.abc import Iterator, Sequence
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
    address,
    array,
    compiled,
    entry,
    is_double,
    launch,
    next_task,
    openmp,
    run_on_threads,
    values_of,
    worth_threads,
)

__all__ = ["Phase", "Plan", "Stage", "enough", "independent", "launch_stages"]


_EVEN = 4  # pieces a thread, with which it does not matter that some threads have one more than others
_FIRST, _END, _PHASES, _BARRIER, _COUNT, _STARTS, _OWN = range(7)  # what a launch is told
_COUNTERS = 7  # behind it, a counter for each phase; then starts of tensors, and a block for each worker
_TASKS, _STAGES, _BLOCKS, _WAITS = range(4)  # of a phase: its pieces, stages, where their blocks are, and `Phase.waits`
_ROW = 4
_VALUES, _MOVES, _TENSORS, _STAGE = 0, WORDS, 2 * WORDS, 3 * WORDS  # blocks of a stage, and all of them


class Stage(NamedTuple):
    """A kernel of which `each` tasks make up a piece: tasks ``i each ... i each + each - 1`` the i-th one."""

    kernel: Entry
    each: int
    args: tuple[Argument, ...]


class Phase(NamedTuple):
    """Stages, and how many pieces of work go through them.

    The stages of a piece may only want what earlier stages did to the same piece. If it `waits`, a phase begins when
    everything before is done; if not, threads that are free begin it beside what is still being done.

    `scratch` are contiguous tensors, an entry a piece, for what a stage leaves to the next ones and nobody else: a
    worker takes all its pieces through one entry, which stays in its caches; most of the memory is never touched.
    """

    stages: Sequence[Stage]
    pieces: int
    waits: bool = True
    scratch: Sequence[Tensor] = ()


@intrinsic
def _call(context: Any, code: Any, data: Any) -> Any:
    """Call machine code at an address, of a function that takes an address, or does not look at it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(args[1], ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@compiled
def _piece(index, worker, stages, blocks, starts, own):  # type: ignore[no-untyped-def]
    """Call every stage's code with what it is told for this piece, in a block of integers of the worker's own.

    A stage counts places in scratch memory from the piece's number on: moved there, they are the worker's.
    """
    block, start = array(own, WORDS, 0), array(starts, 1 << 40, 0)
    for k in range(stages):
        given = array(blocks + 8 * _STAGE * k, _STAGE, 0)
        for i in range(WORDS):
            moved = given[_MOVES + i] * (worker - index) + start[given[_TENSORS + i]]
            block[i] = given[_VALUES + i] + moved
        each = given[1]
        block[0], block[1] = own + 8 * (WORDS - 1), (index + 1) * each
        block[WORDS - 1], block[WORKER] = index * each, worker
        _call(given[0], own)


@entry
def _phases_entry(data):  # type: ignore[no-untyped-def]
    told = array(address(data), _COUNTERS, 0)
    worker = next_task(address(data) + 8 * _COUNT)
    own = told[_OWN] + 8 * WORDS * worker
    for k in range(told[_FIRST], told[_END]):
        phase = array(told[_PHASES] + 8 * _ROW * k, _ROW, 0)
        if phase[_WAITS] and k > told[_FIRST] and told[_BARRIER]:
            _call(told[_BARRIER], 0)
        while True:
            index = next_task(address(data) + 8 * (_COUNTERS + k))
            if index >= phase[_TASKS]:
                break
            _piece(index, worker, phase[_STAGES], phase[_BLOCKS], told[_STARTS], own)


def enough(pieces: int, threads: int) -> bool:
    """Whether so many pieces keep threads busy, so that each goes through all stages of a phase on one of them."""
    return pieces % threads == 0 or pieces >= _EVEN * threads


class Plan:
    """Phases as blocks of integers, worked out once; a launch says where tensors are.

    Parameters
    ----------
    phases
        What to do. Where the pieces of one would leave threads idle, all tasks of a stage run before the next stage.
        Results are the same to the bit: tasks do not know.
    dtype
        As for `gramian.kernels.native.launch`.
    tensors
        Those whose places will be others at each launch, in which arguments of stages lie; their values do not matter
        here. Tensors that lie in none of them are used as they are, and kept.
    threads
        At most; as many as torch has now if it is not said. Any of them may be the worker that takes a stage's tasks,
        also if these are fewer: workspaces need room for all.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        dtype: torch.dtype,
        tensors: Sequence[Tensor] = (),
        threads: int | None = None,
    ) -> None:
        threads = torch.get_num_threads() if threads is None else threads
        assert all(t.is_contiguous() and len(t) == phase.pieces for phase in phases for t in phase.scratch)
        worth = any(worth_threads(stage.args) for phase in phases for stage in phase.stages)
        phases = [part for phase in phases for part in _parts(phase, threads)]
        self._workers = min(threads, max(phase.pieces for phase in phases)) if worth else 1
        self._kept = [_Blocks(phase, is_double(dtype), tensors) for phase in phases]
        rows = (v for p, b in zip(phases, self._kept, strict=True) for v in (p.pieces, len(p.stages), b.place, p.waits))
        self._table, self._phases, self._tensors = integers("q", rows), len(phases), len(tensors)
        self._starts = _COUNTERS + len(phases)
        self._told = integers("q", bytes(8 * (self._starts + 1 + len(tensors) + WORDS * self._workers)))

    def launch(self, tensors: Sequence[Tensor] = ()) -> None:
        """Do all of it, on as many threads as torch had when the plan was made; with tensors of the same sizes and
        strides as then."""
        assert len(tensors) == self._tensors
        told, start, end = self._told[:], self._starts, self._starts + 1 + len(tensors)
        told[start + 1 : end] = integers("q", [t.data_ptr() for t in tensors])
        at, found = told.buffer_info()[0], openmp() if self._workers > 1 else None
        told[_PHASES], told[_STARTS], told[_OWN] = self._table.buffer_info()[0], at + 8 * start, at + 8 * end
        if found is not None or self._workers == 1:
            told[_END], told[_BARRIER] = self._phases, 0 if found is None else found.barrier
            run_on_threads(_phases_entry, torch.float32, at, self._workers)
            return
        for k in range(self._phases):  # nothing to wait at
            told[_FIRST], told[_END], told[_COUNT] = k, k + 1, 0
            run_on_threads(_phases_entry, torch.float32, at, self._workers)


def _parts(phase: Phase, threads: int) -> Iterator[Phase]:
    """The phase, or a phase for each of its stages, in which every task is a piece."""
    if len(phase.stages) > 1 and enough(phase.pieces, threads):
        yield phase
        return
    for k, stage in enumerate(phase.stages):
        yield Phase([stage._replace(each=1)], phase.pieces * stage.each, phase.waits or k > 0)


def independent(stages: Sequence[Stage], *, after: bool = False) -> list[Phase]:
    """One piece each, of stages that do not depend on each other, but perhaps on what comes before all of them."""
    return [Phase([stage], 1, waits=after and k == 0) for k, stage in enumerate(stages)]


class _Blocks:
    """Of the stages of a phase: code, tasks a piece, and arguments; how far these move from piece to piece; and in
    which tensor they lie, counted from 1: then they count from its start. Tensors that lie in none are kept."""

    def __init__(self, phase: Phase, double: bool, tensors: Sequence[Tensor]) -> None:
        moving = [(t.data_ptr(), t.data_ptr() + t.nbytes, t.nbytes // len(t)) for t in phase.scratch]
        known = [(t.data_ptr(), t.data_ptr() + _reach(t), k) for k, t in enumerate(tensors, 1)]
        self._integers, self._tensors = integers("q", bytes(8 * _STAGE * len(phase.stages))), []
        for k, stage in enumerate(phase.stages):
            values = [*stage.kernel.native(double)[:1], stage.each, *values_of(stage.args)]
            for i, (argument, value) in enumerate(zip(stage.args, values[HEAD:], strict=True), HEAD):
                if isinstance(argument, int):
                    continue
                at = k * _STAGE + i
                self._integers[at + _MOVES] = next((size for start, end, size in moving if start <= value < end), 0)
                place = next(((value - start, j) for start, end, j in known if start <= value < end), None)
                if place is None:
                    self._tensors.append(argument.tensor if isinstance(argument, At) else argument)
                else:
                    values[i], self._integers[at + _TENSORS] = place
            self._integers[k * _STAGE : k * _STAGE + len(values)] = integers("q", values)

    @property
    def place(self) -> int:
        """Where they are."""
        return self._integers.buffer_info()[0]


def _reach(t: Tensor) -> int:
    """Bytes from the first number of a tensor to behind its last one."""
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.itemsize * (last + 1) if t.numel() else 0


def launch_stages(stages: Sequence[Stage], pieces: int, dtype: torch.dtype, scratch: Sequence[Tensor] = ()) -> None:
    """Make a `Plan` of tensors where they are, and launch it; one stage by itself needs none."""
    if len(stages) == 1:
        launch(stages[0].kernel, pieces * stages[0].each, dtype, *stages[0].args)
    else:
        Plan([Phase(stages, pieces, scratch=scratch)], dtype).launch()
