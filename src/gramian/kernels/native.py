"""Compiled loops on torch's own threads: numba makes the machine code, torch's OpenMP pool runs it.

A *task* is a numba function ``task(index, args, real)`` that does one independent part of the work, for instance one
sequence of a batch. `launch` runs tasks ``0 .. tasks - 1`` on as many threads as torch is set to use, so there is one
pool and one setting, ``torch.set_num_threads``. A second pool beside it would make both spin on the same cores.

Instead, ``task(index, worker, args, real)`` can be told which thread it is on, by `run_with_workspace`.

Arguments reach a task as one array of 64-bit integers: sizes as they are, tensors as addresses, numbers through `bits`.
Inside, ``array(args[k], shape, real)`` is the tensor again. A task that is shared by threads in any order must give
the same bits, so a task writes only what is its own, and sums over tasks are made afterwards, in order.

The *entry* of a kernel, ``@entry def name(data): run(task, data)``, is compiled for float32 or float64 when it is first
launched with that type, and cached on disk beside the source (or in numba's cache directory, if that cannot be
written to).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array
from torch import Tensor

from gramian.kernels.float_mode import FLUSH, float_mode, set_float_mode

__all__ = [
    "HEAD",
    "WORDS",
    "WORKER",
    "Argument",
    "At",
    "Entry",
    "OpenMP",
    "address",
    "array",
    "bits",
    "compiled",
    "entry",
    "inlined",
    "is_double",
    "launch",
    "next_task",
    "openmp",
    "run",
    "run_as",
    "run_on_threads",
    "run_with_workspace",
    "values_of",
    "worth_threads",
]

HEAD = 2  # integers before a task's own arguments: address of the task counter, number of tasks
_ARGUMENTS = 60  # at most, of a task's own
WORKER = HEAD + _ARGUMENTS  # where workers count themselves
WORDS = WORKER + 2  # integers in all; the last one is the counter of tasks
_WORTH_THREADS = 4096  # numbers in the largest tensor

# Fused multiply-adds and reciprocals are welcome. Sums keep their order: reassociation breaks the polynomials of exp
# and makes results depend on how a loop was vectorised. NaN and infinity keep their meaning.
compiled = numba.njit(error_model="numpy", fastmath={"contract", "arcp", "nsz"})

inlined = numba.njit(error_model="numpy", fastmath={"contract", "arcp", "nsz"}, inline="always")
"""As `compiled`, and part of whoever calls it: for inner loops that use many vectors, which a call would spill."""


@intrinsic
def array(context: Any, address: Any, shape: Any, real: Any) -> Any:
    """The contiguous array of `shape` at an address, of the type of the number `real`.

    As `numba.carray`, but without a function to compile for every number of dimensions.
    """
    result = types.Array(types.unliteral(real), len(shape) if isinstance(shape, types.BaseTuple) else 1, "C")

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sizes = unpack_tuple(builder, args[1]) if isinstance(shape, types.BaseTuple) else [args[1]]
        kinds = shape if isinstance(shape, types.BaseTuple) else [shape]
        sizes = [context.cast(builder, size, kind, types.intp) for size, kind in zip(sizes, kinds, strict=True)]
        strides = [context.get_constant(types.intp, result.dtype.bitwidth // 8)]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        made = context.make_array(result)(context, builder)
        data = builder.inttoptr(args[0], context.get_data_type(result.dtype).as_pointer())
        populate_array(made, data=data, shape=sizes, strides=strides, itemsize=strides[-1], meminfo=None)
        return made._getvalue()

    return result(types.int64, shape, real), codegen


@intrinsic
def address(context: Any, data: Any) -> Any:
    """Where what an entry is told begins."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(data), codegen


@intrinsic
def _zero(context: Any, data: Any) -> Any:
    """Zero of the type that a pointer says."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(data.dtype, 0)

    return data.dtype(data), codegen


@intrinsic
def next_task(context: Any, counter: Any) -> Any:
    """What the integer at an address was, which counts one more from here on: for one thread at a time."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), codegen


# Inlined, so that no trace of `task` as a value is left in the machine code: that would keep it out of the cache.
@numba.njit(error_model="numpy", inline="always")
def run_as(task, data, real):  # type: ignore[no-untyped-def]
    """`run` with numbers of the type of `real`, whatever type the kernel was launched with."""
    head = array(address(data), HEAD, 0)
    args = array(address(data) + 8 * HEAD, _ARGUMENTS, 0)
    mode = float_mode()
    set_float_mode(mode | np.int32(FLUSH))
    while True:
        index = next_task(head[0])
        if index >= head[1]:
            break
        task(index, args, real)
    set_float_mode(mode)


@numba.njit(error_model="numpy", inline="always")
def run(task, data):  # type: ignore[no-untyped-def]
    """Take tasks off the common counter until none is left. The type of `data` says which numbers the tasks have."""
    run_as(task, data, _zero(data))


@numba.njit(error_model="numpy", inline="always")
def run_with_workspace(task, data):  # type: ignore[no-untyped-def]
    """`run` for ``task(index, worker, args, real)``: no two tasks of one worker run at a time, so that a workspace for
    each of them is enough, and stays in the caches. Workers count from 0, and are as many as the launch has threads,
    also if these tasks are fewer."""
    head = array(address(data), HEAD, 0)
    args = array(address(data) + 8 * HEAD, _ARGUMENTS, 0)
    mode = float_mode()
    set_float_mode(mode | np.int32(FLUSH))
    worker = next_task(address(data) + 8 * WORKER)
    while True:
        index = next_task(head[0])
        if index >= head[1]:
            break
        task(index, worker, args, _zero(data))
    set_float_mode(mode)


_Native = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Entry:
    """A kernel as C can call it; compiled for a type, or read from the cache, at the first use of `native` with it."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        self._native: dict[bool, tuple[Any, int, Callable[[int], None]]] = {}

    def native(self, double: bool) -> tuple[int, Callable[[int], None]]:
        """The address of the machine code for float64 (or float32), and a Python function that calls it."""
        if double not in self._native:
            signature = types.void(types.CPointer(types.float64 if double else types.float32))
            try:
                found = numba.cfunc(signature, cache=True)(self._function)
            except RuntimeError:  # no folder that could hold a cache
                found = numba.cfunc(signature)(self._function)
            self._native[double] = found, found.address, _Native(found.address)
        return self._native[double][1:]


def entry(function: Callable[[Any], None]) -> Entry:
    """The decorator of ``def name(data): run(task, data)``."""
    return Entry(function)


def bits(number: float) -> int:
    """A float64 as the integer that has its bits; in a task, ``number(args[k])`` reads it back."""
    return int(struct.unpack("q", struct.pack("d", number))[0])


class OpenMP(NamedTuple):
    """``GOMP_parallel``, and the address of ``GOMP_barrier``, at which threads of one such call wait for each other."""

    parallel: Callable[[int, int, int, int], None]
    barrier: int


@cache
def openmp() -> OpenMP | None:
    """Of the library that torch computes with; None where torch brings none (macOS)."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        library = ctypes.CDLL(str(path))
        parallel, barrier = library.GOMP_parallel, ctypes.cast(library.GOMP_barrier, ctypes.c_void_p).value
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        assert barrier is not None
        return OpenMP(parallel, barrier)
    return None


class At(NamedTuple):
    """A tensor of any strides, as an argument: a task gets its address, and is told the strides beside it."""

    tensor: Tensor


Argument: TypeAlias = int | Tensor | At


def launch(kernel: Entry, tasks: int, dtype: torch.dtype, *args: Argument) -> None:
    """Run ``task(0) ... task(tasks - 1)`` of `kernel` on at most ``torch.get_num_threads()`` threads.

    Where the largest tensor is small, one thread is faster than waking others.

    Parameters
    ----------
    tasks
        How many.
    dtype
        float32 or float64 (or the complex type made of it): the type `real` of the task.
    args
        Sizes, `bits` of numbers, and tensors on the CPU, which must be contiguous if they are not wrapped in `At`.
    """
    data = (ctypes.c_int64 * WORDS)(0, tasks, *values_of(args))
    at = ctypes.addressof(data)
    data[0] = at + 8 * (WORDS - 1)  # the counter is the last integer, and starts at zero
    workers = min(tasks, torch.get_num_threads()) if worth_threads(args) else 1
    run_on_threads(kernel, dtype, at, workers)


def values_of(args: Sequence[Argument]) -> list[int]:
    """Arguments as a task finds them: tensors by their addresses."""
    assert len(args) <= _ARGUMENTS
    return [a if isinstance(a, int) else _address_of(a) for a in args]


def _address_of(argument: Tensor | At) -> int:
    """Where a tensor's first number is."""
    if isinstance(argument, At):
        return argument.tensor.data_ptr()
    assert argument.is_contiguous()
    return argument.data_ptr()


def worth_threads(args: Iterable[Argument]) -> bool:
    """Whether one of the tensors is large enough to wake a thread for it."""
    tensors = (a.tensor if isinstance(a, At) else a for a in args if not isinstance(a, int))
    return any(t.numel() >= _WORTH_THREADS for t in tensors)


def run_on_threads(kernel: Entry, dtype: torch.dtype, at: int, workers: int) -> None:
    """Let so many threads take tasks, as the block of integers at an address says."""
    code, call = kernel.native(is_double(dtype))
    if workers <= 1:
        call(at)
    elif (found := openmp()) is not None:
        found.parallel(code, at, workers, 0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(call, at) for _ in range(workers)]:
                done.result()


def is_double(dtype: torch.dtype) -> bool:
    """Whether a kernel computes in float64 for tensors of this type."""
    return dtype not in (torch.float32, torch.complex64)
