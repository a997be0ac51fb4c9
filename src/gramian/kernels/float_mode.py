"""How the processor treats numbers too small for full precision, inside compiled functions."""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["FLUSH", "float_mode", "set_float_mode"]

_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64")
FLUSH = 0x8040  # flush results, and take inputs, that are subnormal for zero: they cost a hundred cycles each


@intrinsic
def float_mode(context: Any) -> Any:
    """The processor's floating-point control word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        slot = builder.alloca(ir.IntType(32))
        if not _HAS_MXCSR:
            return ir.Constant(ir.IntType(32), 0)
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
        store = builder.module.declare_intrinsic("llvm.x86.sse.stmxcsr", fnty=kind)
        builder.call(store, [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return builder.load(slot)

    return types.int32(), codegen


@intrinsic
def set_float_mode(context: Any, mode: Any) -> Any:
    """Set it."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _HAS_MXCSR:
            slot = builder.alloca(ir.IntType(32))
            builder.store(args[0], slot)
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()])
            load = builder.module.declare_intrinsic("llvm.x86.sse.ldmxcsr", fnty=kind)
            builder.call(load, [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int32), codegen
