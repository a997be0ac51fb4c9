"""What Mamba-2 as one operator launches: its stages, worked out once for all calls of the same sizes.

The columns ``[z | x | B | C | dt]`` of the projection in are read where they lie, and their gradients are written where
they belong: nothing is cut apart or put together. What a sequence's stages leave to each other stays in the caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.kernels import causal_conv_compiled as conv
from gramian.kernels import gated_norm, ssd_compiled, step_sizes_native
from gramian.kernels.native import Argument, At
from gramian.kernels.products import in_lines, product_stage
from gramian.kernels.ssd_compiled import Gradients, distance, states_between_chunks, work_sizes
from gramian.kernels.stages import Plan, Stage

__all__ = ["Columns", "Made", "Parameters", "Results", "Sizes", "backward_plan", "forward_plan"]

_PLANS = 128  # kept, of as many lengths and batches


class Columns(NamedTuple):
    """Where things are in the rows of the projection in."""

    d_inner: int
    keys: int
    heads: int
    groups: int

    @property
    def mixed(self) -> int:
        """What the convolution mixes: x, B and C."""
        return self.d_inner + 2 * self.keys

    @property
    def all(self) -> int:
        """Of a row."""
        return self.d_inner + self.mixed + self.heads

    def parts(self, zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, xBC and dt, as views."""
        middle, end = self.d_inner + self.mixed, self.all
        return zxbcdt[..., : self.d_inner], zxbcdt[..., self.d_inner : middle], zxbcdt[..., middle:end]

    def driven(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``(batch, L, heads, P)``, B and C ``(batch, L, groups, N)``, as views."""
        batch, length, _ = xBC.shape
        keys, middle = (batch, length, self.groups, self.keys // self.groups), self.d_inner + self.keys
        x = xBC[..., : self.d_inner].view(batch, length, self.heads, self.d_inner // self.heads)
        return x, xBC[..., self.d_inner : middle].view(keys), xBC[..., middle:].view(keys)


class Sizes(NamedTuple):
    """Of a call. `row` is the distance between rows of its input; `d_model`, and `d_out`, is 0 where there is no
    projection in, or out."""

    batch: int
    length: int
    row: int
    d_model: int
    d_inner: int
    keys: int
    heads: int
    groups: int
    d_out: int
    in_bias: bool
    out_bias: bool
    eps: float
    T: int
    dtype: torch.dtype
    threads: int

    @property
    def columns(self) -> Columns:
        """Of the projection in."""
        return Columns(self.d_inner, self.keys, self.heads, self.groups)

    def room(self, like: Tensor, *shape: int) -> Tensor:
        """An empty tensor with something for each step."""
        return like.new_empty(self.batch, self.length, *shape)

    def input(self) -> Tensor:
        """An example of one."""
        shape, row = (self.batch, self.length, self.d_model or self.columns.all), self.row
        return torch.empty_strided(shape, (self.length * row, row, 1), dtype=self.dtype)


class Parameters(NamedTuple):
    """As kernels read them: weights of the convolution as `gramian.kernels.causal_conv_compiled.Coefficients` has them,
    ``-exp(A_log)``, and the matrices that rows are multiplied with, empty where there are none."""

    conv: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    norm: Tensor
    into: Tensor
    in_bias: Tensor
    out: Tensor
    out_bias: Tensor


class Results(NamedTuple):
    """The output, and what the backward pass needs: columns and normalised values where there are projections, step
    sizes, logs of decays, outputs of the recurrence, its states between chunks, the factors that normalise, and of the
    parameters those that had to be made."""

    out: Tensor
    zxbcdt: Tensor
    normed: Tensor
    delta: Tensor
    log_decay: Tensor
    y: Tensor
    between: Tensor
    scales: Tensor
    conv: Tensor
    A: Tensor

    @classmethod
    def empty(cls, like: Tensor, s: Sizes, conv: Tensor, A: Tensor) -> Results:
        """Of the type of `like`, but for those that are there."""
        values = s.batch, s.length, s.heads, s.d_inner // s.heads
        return cls(
            out=s.room(like, s.d_out or s.d_inner),
            zxbcdt=in_lines(like, s.batch, s.length, s.columns.all) if s.d_model else like.new_empty(0),
            normed=s.room(like, s.d_inner) if s.d_out else like.new_empty(0),
            delta=s.room(like, s.heads),
            log_decay=s.room(like, s.heads),
            y=like.new_empty(values),
            between=like.new_empty(states_between_chunks(values, s.keys // s.groups, s.T)),
            scales=s.room(like, s.groups),
            conv=conv,
            A=A,
        )


class Made(NamedTuple):
    """What the backward pass makes of every sequence: gradients of the input; sums for the convolution, D, the
    normalisation's weight, and step sizes and decays."""

    u: Tensor
    conv_state: Tensor
    conv: Tensor
    D: Tensor
    norm: Tensor
    steps: Tensor


def _example(s: Sizes, backward: bool) -> tuple[Tensor, Parameters, Results]:
    """An input, parameters and results of these sizes, without values."""
    u, c = s.input(), s.columns
    into, out = (c.all, s.d_model), (s.d_out, s.d_inner)
    none = u.new_empty(0)
    parameters = Parameters(
        conv.Coefficients.zeros(u, 1, c.mixed).rows,
        u.new_empty(s.heads),
        u.new_empty(s.heads),
        u.new_empty(s.heads),
        u.new_empty(s.d_inner),
        in_lines(u, *(into if backward else into[::-1])) if s.d_model else none,
        in_lines(u, c.all) if s.in_bias else none,
        in_lines(u, *(out if backward else out[::-1])) if s.d_out else none,
        in_lines(u, s.d_out) if s.out_bias else none,
    )
    return u, parameters, Results.empty(u, s, parameters.conv, parameters.A)


def _shapes(tensors: Sequence[Tensor]) -> list[torch.Size]:
    return [t.shape for t in tensors]


def _matrix(m: Tensor) -> Tensor:
    """``(batch, L, ...)`` as rows."""
    return m.flatten(0, 1).flatten(1)


def _steps(dt: Tensor, p: Parameters) -> tuple[Argument, ...]:
    """What the kernels for step sizes want first."""
    return *dt.shape, distance(dt), At(dt), p.dt_bias, p.A


def _coefficients(p: Parameters, s: Sizes) -> conv.Coefficients:
    return conv.Coefficients.zeros(p.conv, s.batch, s.columns.mixed)._replace(rows=p.conv)


@lru_cache(_PLANS)
def forward_plan(s: Sizes) -> tuple[Plan, list[torch.Size]]:
    """For an input, `Parameters`, `Results`, and empty tensors of these shapes."""
    u, p, r = _example(s, backward=False)
    z, xBC, dt = s.columns.parts(r.zxbcdt if s.d_model else u)
    mixed, normed = s.room(u, s.columns.mixed), r.normed if s.d_out else r.out
    x, B, C = s.columns.driven(mixed)
    work = ssd_compiled.Workspace.forward(u, work_sizes(x, B, s.T))
    how = gated_norm.Normalisation(s.groups, True, s.length)
    stages = [
        Stage(step_sizes_native.forward_entry, 1, (*_steps(dt, p), r.delta, r.log_decay)),
        conv.forward_stage(xBC, _coefficients(p, s), True, mixed),
        *ssd_compiled.forward_stages(x, B, C, r.y, r.log_decay, r.delta, p.D, r.between, work, s.T),
        gated_norm.forward_stage(_matrix(r.y), _matrix(z), p.norm, normed, r.scales, how, s.eps),
    ]
    if s.d_model:
        stages.insert(0, product_stage(u, p.into, r.zxbcdt, p.in_bias if s.in_bias else None))
    if s.d_out:
        stages.append(product_stage(normed, p.out, r.out, p.out_bias if s.out_bias else None))
    scratch = [mixed, *work]
    return Plan(stages, s.batch, s.dtype, (u, *p, *r, *scratch), [mixed]), _shapes(scratch)


@lru_cache(_PLANS)
def backward_plan(s: Sizes) -> tuple[Plan, list[torch.Size], list[torch.Size]]:
    """For an input, `Parameters`, `Results` with the gradient of the output in its place, gradients of columns, and
    empty tensors of these shapes: `Made`, and others. The convolution is computed again."""
    u, p, r = _example(s, backward=True)
    c = s.columns
    zxbcdt, g_zxbcdt = r.zxbcdt if s.d_model else u, in_lines(u, s.batch, s.length, c.all)
    (z, xBC, dt), (g_z, g_xBC, g_dt) = c.parts(zxbcdt), c.parts(g_zxbcdt)
    own = [s.room(u, n) for n in (c.mixed, c.mixed, s.d_inner, s.d_inner, s.heads, s.heads)]
    mixed, g_mixed, g_normed, g_y, g_logs, g_delta = own
    how = gated_norm.Normalisation(s.groups, True, s.length)
    made = Made(
        u=u.new_empty(u.shape if s.d_model else 0),
        **dict(zip(("conv_state", "conv"), conv.Sums.room(u, s.batch, c.mixed), strict=True)),
        D=u.new_empty(s.batch, s.heads),
        norm=u.new_empty(s.batch * how.tasks(), s.d_inner),
        steps=u.new_empty(s.batch, 2, s.heads),
    )
    x, B, C = c.driven(mixed)
    work = ssd_compiled.Workspace.backward(u, work_sizes(x, B, s.T))
    grads = Gradients(*c.driven(g_mixed), g_logs, g_delta, made.D)
    normed = g_normed if s.d_out else r.out, _matrix(r.y), _matrix(z), p.norm, r.scales
    steps = *_steps(dt, p), r.delta, g_delta, g_logs, made.steps, distance(g_dt), At(g_dt)
    coefficients, sums = _coefficients(p, s), conv.Sums(made.conv_state, made.conv)
    stages = [
        conv.forward_stage(xBC, coefficients, True, mixed),
        gated_norm.backward_stage(*normed, g_y, _matrix(g_z), made.norm, how),
        *ssd_compiled.backward_stages(g_y, x, B, C, r.log_decay, r.delta, p.D, r.between, grads, work, s.T),
        Stage(step_sizes_native.backward_entry, 1, steps),
        conv.backward_stage(g_mixed, xBC, coefficients, True, g_xBC, sums),
    ]
    if s.d_out:
        stages.insert(0, product_stage(r.out, p.out, g_normed))
    if s.d_model:
        stages.append(product_stage(g_zxbcdt, p.into, made.u))
    scratch = [*own, *work]
    plan = Plan(stages, s.batch, s.dtype, (u, *p, *r, g_zxbcdt, *made, *scratch), own)
    return plan, _shapes(made), _shapes(scratch)
