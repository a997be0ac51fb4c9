"""The CUDA kernels of Mamba's authors, packages ``mamba_ssm`` and ``causal_conv1d``, where they are and fit.

Neither is needed, and neither is imported before it is used. They were **not measured on a GPU** here: their call is
checked against stand-ins that have the same signature and layout.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = ["conv_by_package", "scan_by_package", "why_not_conv", "why_not_scan"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_STATES = 256
_WIDTHS = range(2, 5)
_ALIGNED = 8  # numbers


def _missing(*modules: str) -> str:
    absent = [name for name in modules if find_spec(name) is None]
    return f"{absent[0]} is not installed" if absent else ""


def why_not_scan(u: Tensor, A: Tensor, state: Tensor | None, final_state: bool) -> str:
    """Why ``mamba_ssm`` cannot run a selective scan; empty if it can."""
    if reason := _missing("mamba_ssm", "selective_scan_cuda"):
        return reason
    if u.device.type != "cuda":
        return f"mamba_ssm computes on CUDA devices; the tensors are on '{u.device}'"
    if u.dtype not in _DTYPES or A.dtype == torch.float64:
        return f"mamba_ssm has no {u.dtype} scan with A in {A.dtype}"
    if A.shape[1] > _MOST_STATES:
        return f"mamba_ssm scans {_MOST_STATES} states at most, not {A.shape[1]}"
    if state is not None:
        return "mamba_ssm starts from zero, and a state was given"
    if final_state and torch.is_grad_enabled():
        return "mamba_ssm knows no gradient through the final state"
    return ""


def scan_by_package(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    softplus: bool,
    final_state: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state (empty if not wanted); shapes as in `selective_scan`, B and C with groups.

    Time is innermost there, sequences have the dtype of u, and what belongs to channels is float32.
    """
    scan = import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    sequences = [None if t is None else t.to(u.dtype).movedim(1, -1) for t in (u, dt, B, C, z)]
    A, D, dt_bias = (None if t is None else t.float() for t in (A, D, dt_bias))  # type: ignore[assignment]
    u, dt, B, C, z = sequences  # type: ignore[assignment]
    found = scan(u, dt, A, B, C, D, z=z, delta_bias=dt_bias, delta_softplus=softplus, return_last_state=final_state)
    y, final = found if final_state else (found, A.new_empty(0))
    return y.mT, final


def why_not_conv(x: Tensor, width: int) -> str:
    """Why ``causal_conv1d`` cannot run a causal convolution; empty if it can."""
    if reason := _missing("causal_conv1d", "causal_conv1d_cuda"):
        return reason
    if x.device.type != "cuda":
        return f"causal_conv1d computes on CUDA devices; the tensors are on '{x.device}'"
    if x.dtype not in _DTYPES:
        return f"causal_conv1d has no {x.dtype} convolution"
    if width not in _WIDTHS:
        return f"causal_conv1d has widths {_WIDTHS[0]} to {_WIDTHS[-1]}, not {width}"
    places = (x.shape[2], x.stride(0), x.stride(1), x.storage_offset())
    if x.stride(2) != 1 or any(place % _ALIGNED for place in places):
        return f"causal_conv1d wants channels side by side, and rows that start at multiples of {_ALIGNED}"
    return ""


def conv_by_package(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """Outputs; shapes as in `causal_conv1d`. Channels stay innermost."""
    conv = import_module("causal_conv1d").causal_conv1d_fn
    bias = None if bias is None else bias.float()
    before = None if state is None else state.to(x.dtype).contiguous().mT
    y: Tensor = conv(x.mT, weight.float(), bias, initial_states=before, activation="silu" if silu else None)
    return y.mT
