"""The causal convolution and its activation in compiled loops: `gramian.kernels.causal_conv_native` as an operator."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from gramian.kernels.causal_conv_native import TAPS, backward_entry, coefficients_entry, forward_entry
from gramian.kernels.column_sums import column_sums_stage
from gramian.kernels.memory import lines
from gramian.kernels.native import Argument, At
from gramian.kernels.operators import operator
from gramian.kernels.stages import Stage, launch_stages

__all__ = ["Coefficients", "Sums", "backward_stage", "causal_conv1d_compiled", "coefficients_stage", "forward_stage"]

_BYTES = 64  # of a vector
_TASKS = 16  # at least, where that leaves each of them as many tiles of channels as this:
_TILES = 4


def causal_conv1d_compiled(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    """The convolution, and SiLU if wanted, of CPU tensors of one type; none of them empty,
    and with `TAPS` weights a channel at most."""
    y: Tensor = _conv(x, weight, bias, state, silu)
    return y


class _Sizes:
    """Into how many tasks and tiles of channels a convolution is cut, by its shape alone."""

    def __init__(self, x: Tensor) -> None:
        self.batch, self.length, self.channels = x.shape
        self.tiles = lines(self.channels, x.itemsize) * x.itemsize // _BYTES
        wanted = max(1, min(-(-_TASKS // self.batch), self.tiles // _TILES))
        self.share = -(-self.tiles // wanted)
        self.splits = -(-self.tiles // self.share)

    @property
    def head(self) -> tuple[int, ...]:
        """The sizes that a task wants first."""
        return self.batch, self.length, self.channels, self.splits, self.tiles, self.share


class Coefficients(NamedTuple):
    """Inputs before the first step, ``(batch, TAPS - 1, line)``, and `TAPS` rows of weights and one of biases; zeros
    stand in front where there are less, and behind to whole vectors."""

    state: Tensor
    rows: Tensor

    @classmethod
    def zeros(cls, like: Tensor, batch: int, channels: int) -> Coefficients:
        """Of the type of `like`."""
        line = lines(channels, like.itemsize)
        return cls(like.new_zeros(batch, TAPS - 1, line), like.new_zeros(TAPS + 1, line))

    @classmethod
    def before_nothing(cls, rows: Tensor, batch: int) -> Coefficients:
        """With zeros for what was before."""
        return cls(rows.new_zeros(batch, TAPS - 1, rows.shape[1]), rows)

    @classmethod
    def of(cls, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None) -> Coefficients:
        """For ``(batch, L, channels)`` inputs."""
        made, (channels, width) = cls.zeros(x, x.shape[0], weight.shape[0]), weight.shape
        made.rows[TAPS - width : TAPS, :channels] = weight.mT
        if bias is not None:
            made.rows[TAPS, :channels] = bias
        if state is not None:
            made.state[:, TAPS - width :, :channels] = state
        return made


def coefficients_stage(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Stage:
    """What fills the `Coefficients.rows`, for contiguous weights and biases; one piece."""
    channels, width = weight.shape
    args = channels, width, rows.shape[1], weight, 0 if bias is None else bias, rows
    return Stage(coefficients_entry, 1, args)


def _rows(x: Tensor) -> Tensor:
    """With its columns side by side, and without a copy where they are."""
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.contiguous()


def _strip(x: Tensor) -> tuple[Argument, ...]:
    """The tensor, and strides of sequences and steps."""
    return At(x), x.stride(0), x.stride(1)


def forward_stage(x: Tensor, coefficients: Coefficients, silu: bool, y: Tensor) -> Stage:
    """What fills `y`, contiguous, for x whose columns lie side by side."""
    sizes, (state, rows) = _Sizes(x), coefficients
    args: tuple[Argument, ...] = (*sizes.head, int(silu), *_strip(x), state, rows[:TAPS], rows[TAPS], y)
    return Stage(forward_entry, sizes.splits, args)


class Sums(NamedTuple):
    """What is left of a sequence by the backward pass: gradients for the inputs before it, and for the coefficients."""

    state: Tensor
    rows: Tensor

    @classmethod
    def room(cls, like: Tensor, batch: int, channels: int) -> Sums:
        """Empty, of the type of `like`."""
        return cls(*(like.new_empty(shape) for shape in cls.shapes(batch, lines(channels, like.itemsize))))

    @staticmethod
    def shapes(batch: int, line: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of both, with channels in whole lines."""
        return (batch, TAPS - 1, line), (batch, TAPS + 1, line)

    def totals(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias."""
        channels, width = weight.shape
        total = self.rows.sum(0)[:, :channels]
        return total[TAPS - width : TAPS].mT.contiguous(), total[TAPS].clone()

    def totals_stages(self, channels: int, g_weight: Tensor | None, g_bias: Tensor | None) -> list[Stage]:
        """What fills these gradients, stages that do not depend on each other; one piece."""
        stages = []
        if g_weight is not None:
            first = TAPS - g_weight.shape[1]
            taps = (self.rows[:, k, :channels] for k in range(first, TAPS))
            stages += [column_sums_stage(tap, g_weight[:, k]) for k, tap in enumerate(taps)]
        return stages if g_bias is None else [*stages, column_sums_stage(self.rows[:, TAPS, :channels], g_bias)]


def backward_stage(g: Tensor, x: Tensor, coefficients: Coefficients, silu: bool, g_x: Tensor, sums: Sums) -> Stage:
    """What fills `g_x` and the sums; columns of g, x and g_x lie side by side."""
    sizes, (state, rows) = _Sizes(x), coefficients
    tensors = state, rows[:TAPS], rows[TAPS]
    args: tuple[Argument, ...] = (*sizes.head, int(silu), *_strip(x), *tensors, *_strip(g), *_strip(g_x), *sums)
    return Stage(backward_entry, sizes.splits, args)


@operator("causal_conv1d", cpu_only=True)
def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    x, y = _rows(x), x.new_empty(x.shape)
    launch_stages([forward_stage(x, Coefficients.of(x, weight, bias, state), silu, y)], len(x), x.dtype)
    return y


@_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@operator("causal_conv1d_backward", cpu_only=True)
def _conv_backward(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, weight, bias and state."""
    x, g, g_x = _rows(x), _rows(g), x.new_empty(x.shape)
    coefficients, sums = Coefficients.of(x, weight, bias, state), Sums.room(x, len(x), x.shape[2])
    launch_stages([backward_stage(g, x, coefficients, silu, g_x, sums)], len(x), x.dtype)
    g_state = sums.state[:, TAPS - weight.shape[1] :, : x.shape[2]].contiguous()
    return g_x, *sums.totals(weight), g_state


@_conv_backward.register_fake
def _(
    g: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    before = x.new_empty(x.shape[0], weight.shape[1] - 1, x.shape[2])
    return x.new_empty(x.shape), weight.new_empty(weight.shape), x.new_empty(x.shape[2]), before


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    found = _conv_backward(g, *ctx.saved_tensors, ctx.silu)
    return *(t if given is not None else None for t, given in zip(found, ctx.saved_tensors, strict=True)), None


_conv.register_autograd(_differentiate, setup_context=_save)
