"""Models of transformers on gramian's CPU kernels: the same outputs and gradients, without their slow loops.

Without compiled packages for a GPU, transformers runs the recurrences of Mamba step by step in Python, and those of
Mamba-2 by matrix products over all heads at once. `accelerate_` gives the mixers of one model kernels of ours instead.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from gramian.errors import GramianError
from gramian.kernels import causal_conv1d, selective_scan, ssd
from gramian.layers.adapters.borrowed import called_by, forward_with

__all__ = ["Accelerated", "accelerate_"]

Function = Callable[..., Any]


class Accelerated:
    """Mixers that run on other kernels, until `remove` is called or a ``with`` block ends.

    Attributes
    ----------
    mixers
        The modules that were changed.
    """

    def __init__(self, mixers: list[nn.Module]) -> None:
        self.mixers = mixers

    def remove(self) -> None:
        """Let the mixers run as their classes say."""
        for mixer in self.mixers:
            vars(mixer).pop("forward", None)

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def accelerate_(model: nn.Module) -> Accelerated:
    """Run the recurrences and convolutions of transformers' Mamba and Mamba-2 mixers on gramian's kernels, on the CPU.

    Only this model's mixers change; tensors on other devices, and packed sequences, take the path they took before.
    The model can be trained, cut, copied and saved; a pickle of it needs `Accelerated.remove` first.

    Raises
    ------
    GramianError
        If there is no such mixer in the model, or hooks of accelerate are on one.
    """
    mixers = [module for module in model.modules() if called_by(module).keys() & _KERNELS.keys()]
    if not mixers:
        raise GramianError(
            f"{type(model).__name__} has no mixer that calls any of {', '.join(sorted(_KERNELS))}.",
            "Only transformers' mixers of Mamba's and Mamba-2's kind are known.",
        )
    taken = next((type(mixer).__name__ for mixer in mixers if "forward" in vars(mixer)), None)
    if taken is not None:
        raise GramianError(
            f"the forward pass of a {taken} has been replaced already.",
            "By accelerate_ itself, or by a library that moves weights between devices.",
            "Call remove() on what accelerate_ returned, or load the model without device_map.",
        )
    for mixer in mixers:
        called = called_by(mixer)
        names = called.keys() & _KERNELS.keys()
        mixer.forward = forward_with(mixer, {name: _on_cpu(_KERNELS[name], called[name]) for name in names})
    return Accelerated(mixers)


def _on_cpu(kernel: Function, original: Function) -> Function:
    """`kernel` where it can run, `original` elsewhere."""

    def run(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        packed = kwargs.get("seq_idx") is not None or kwargs.get("cu_seqlens") is not None
        strange = kwargs.get("activation") not in (None, "silu")
        return (original if packed or strange or x.device.type != "cpu" else kernel)(x, *args, **kwargs)

    return run


def _selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """``mamba_selective_scan``: sequences in the last dimension."""
    gate = None if z is None else z.mT
    y, state = selective_scan(
        x.mT, dt.mT, A, B.mT, C.mT, D, gate, delta_bias, softplus=delta_softplus, final_state=return_last_state
    )
    return (y.mT, state) if return_last_state else y.mT


def _chunk_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """``mamba2_chunk_scan``; chunks are of our own choice."""
    dt = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    dt = (F.softplus(dt) if dt_softplus else dt).clamp(*dt_limit)
    x = x.float()
    y, state = ssd(x * dt[..., None], dt * A.float(), B, C, initial_states, final_state=return_final_states)
    y = (y if D is None else y + D.float()[:, None] * x).contiguous()
    return (y, state) if return_final_states else y


def _causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, **_: Any
) -> Tensor:
    """``causal_conv1d_fn``: sequences in the last dimension."""
    return causal_conv1d(x.mT, weight, bias, activation=activation)[0].mT


_KERNELS: dict[str, Function] = {
    "mamba_selective_scan": _selective_scan,
    "mamba2_chunk_scan": _chunk_scan,
    "causal_conv1d_fn": _causal_conv1d,
}
