"""Functions as operators that autograd and torch.compile know.

`torch.library.custom_op` does the same, and at its first call loads all of torch's compiler: a second, and 150 MB, in a
process that compiles nothing. Here the schema still comes from the function's annotations, and the checks of
`torch.library.opcheck` hold (``tests/kernels``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Operator", "operator"]

_LIBRARY = torch.library.Library("gramian", "FRAGMENT")  # lives as long as the process, and the operators with it


class Operator:
    """``torch.ops.gramian.NAME``, to be called like the function that it was made of."""

    def __init__(self, name: str, function: Callable[..., Any], cpu_only: bool) -> None:
        self.name, self.__doc__ = name, function.__doc__
        self._function, self._cpu_only = function, cpu_only
        self._fake: Callable[..., Any] | None = None
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CPU" if cpu_only else "CompositeExplicitAutograd")
        self._call = getattr(torch.ops.gramian, name).default

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What the results look like, without values: a decorator."""
        torch.library.register_fake(f"gramian::{self.name}", function, lib=_LIBRARY)
        self._fake = function
        return function

    def register_autograd(
        self, backward: Callable[..., Any], *, setup_context: Callable[..., Any], results: int | None = None
    ) -> None:
        """The gradient, as for `torch.library.register_autograd`, of the first so many outputs, or all of them.

        Those behind are kept for the backward pass, and are often large: `backward` is given no gradients of them,
        where torch would fill as many numbers with zeros. For others that are None it gets zeros. Gradients of
        gradients are refused.

        Torch's own function looks up the operator's schema at every call. Here autograd finds a
        `torch.autograd.Function` around an operator of its own, ``NAME_forward``, that it knows nothing of.
        """
        assert self._fake is not None
        forward = Operator(f"{self.name}_forward", self._function, self._cpu_only)
        forward.register_fake(self._fake)

        class Differentiable(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                output = forward(*inputs)
                outputs = output if isinstance(output, tuple) else (output,)
                kept = len(outputs) if results is None else results
                ctx.set_materialize_grads(False)
                ctx.mark_non_differentiable(*outputs[kept:])
                ctx.outputs = [(o.shape, o.dtype, o.device) for o in outputs[:kept]]
                setup_context(ctx, inputs, output)
                return output

            @staticmethod
            @once_differentiable
            def backward(ctx: Any, *grads: Tensor | None) -> Any:
                def filled(g: Tensor | None, size: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
                    return torch.zeros(size, dtype=dtype, device=device) if g is None else g

                return backward(ctx, *(filled(g, *like) for g, like in zip(grads, ctx.outputs, strict=False)))

        def differentiable(*inputs: Any) -> Any:
            wanted = torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)
            return Differentiable.apply(*inputs) if wanted else forward(*inputs)

        _LIBRARY.impl(self.name, differentiable, "Autograd")


def operator(name: str, *, cpu_only: bool = False) -> Callable[[Callable[..., Any]], Operator]:
    """The decorator that makes an `Operator` of a function without side effects."""
    return lambda function: Operator(name, function, cpu_only)
