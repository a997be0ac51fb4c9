"""The forward pass of Mamba-2 as one operator: what a launch does, worked out once for all calls of the same sizes.

The columns ``[z | x | B | C | dt]`` of the projection in are read where they lie: nothing is cut apart. What a
sequence's stages leave to each other stays in the caches. Before all sequences, parameters are laid out for kernels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from gramian.kernels import causal_conv_compiled as conv
from gramian.kernels import gated_norm, rms_norm, ssd_compiled, step_sizes_native
from gramian.kernels.mamba2_mixer_sizes import PLANS, Parameters, Saved, Sizes
from gramian.kernels.memory import carved, lines, room
from gramian.kernels.native import At
from gramian.kernels.products import product_stage, transposed_stage
from gramian.kernels.ssd_compiled import Workspace, distance, work_sizes
from gramian.kernels.stages import Phase, Plan, Stage, independent

__all__ = ["Forward", "forward_plan"]


class Forward(NamedTuple):
    """A plan for an input, `Parameters.given`, an output of this shape, `Saved` as one tensor of so many numbers, and
    one of so many for what is needed meanwhile."""

    plan: Plan
    out: tuple[int, ...]
    saved: int
    scratch: int


class _Meanwhile(NamedTuple):
    """What goes from stage to stage: what the convolution makes, parameters as kernels read them (transposed weights,
    and biases with room behind them), and a workspace."""

    mixed: Tensor
    into: Tensor
    in_bias: Tensor
    out: Tensor
    out_bias: Tensor
    blocks: Tensor
    parts: Tensor

    @staticmethod
    def shapes(s: Sizes) -> list[tuple[int, ...]]:
        columns, d_out, mixed = lines(s.columns.all, s.itemsize), lines(s.d_out, s.itemsize), s.steps(s.columns.mixed)
        weights = (s.d_model, columns), (1, columns), (s.d_inner if s.d_out else 0, d_out), (1, d_out)
        return [mixed, *weights, *Workspace.shapes(work_sizes(*s.recurrence(), s.T), backward=False)]


@lru_cache(PLANS)
def forward_plan(s: Sizes) -> Forward:
    """Worked out for these sizes."""
    u, p = s.input(), s.parameters()
    out, memory = u.new_empty(s.steps(s.d_out or s.d_inner)), u.new_empty(Saved.numbers(s))
    scratch = u.new_empty(room(_Meanwhile.shapes(s), s.itemsize))
    saved, m = Saved(*carved(memory, Saved.shapes(s), packed=True)), _Meanwhile(*carved(scratch, _Meanwhile.shapes(s)))
    sequences = Phase(_stages(s, u, p, saved, m, out), s.batch, scratch=[m.mixed])
    phases = [*independent(_laid_out(p, saved, m)), sequences]
    plan = Plan(phases, s.dtype, (u, *p.given(), out, memory, scratch), s.threads)
    return Forward(plan, tuple(out.shape), len(memory), len(scratch))


def _laid_out(p: Parameters, saved: Saved, m: _Meanwhile) -> list[Stage]:
    """What lays out parameters."""
    stages = [conv.coefficients_stage(p.conv_weight.flatten(1), p.conv_bias, saved.conv)]
    pairs = (p.in_weight, m.into), (p.in_bias, m.in_bias), (p.out_weight, m.out), (p.out_bias, m.out_bias)
    given = ((t if t.ndim == 2 else t[:, None], rows) for t, rows in pairs if t is not None)
    return stages + [transposed_stage(t, rows[:, : len(t)]) for t, rows in given]


def _stages(s: Sizes, u: Tensor, p: Parameters, saved: Saved, m: _Meanwhile, out: Tensor) -> list[Stage]:
    """What a sequence goes through."""
    c, normed, stages = s.columns, saved.normed if s.d_out else out, []
    if p.prenorm is not None:
        how = saved.normed_input, saved.input_scales, s.prenorm_eps
        stages.append(rms_norm.forward_stage(u, p.prenorm, *how))
    zxbcdt = saved.rows[..., : c.all] if s.d_model else u
    if s.d_model:
        offset = m.in_bias[0] if s.in_bias else None
        given = saved.normed_input if s.prenorm else u
        stages.append(product_stage(given, m.into[:, : c.all], zxbcdt, offset=offset, block=s.block))
    (z, xBC, dt), (x, B, C) = c.parts(zxbcdt), c.driven(m.mixed)
    steps = *dt.shape, distance(dt), At(dt), p.dt_bias, p.A_log, saved.delta, saved.log_decay
    driven, work = (saved.log_decay, saved.delta, p.D, saved.between), Workspace(m.blocks, m.parts)
    norm = gated_norm.Normalisation(s.groups, True, s.length)
    stages += [
        Stage(step_sizes_native.forward_entry, 1, steps),
        conv.forward_stage(xBC, conv.Coefficients.before_nothing(saved.conv, s.batch), True, m.mixed),
        *ssd_compiled.forward_stages(x, B, C, saved.y, *driven, work, s.T),
        gated_norm.forward_stage(
            saved.y.view(-1, s.d_inner), z.flatten(0, 1), p.norm_weight, normed, saved.scales, norm, s.eps
        ),
    ]
    if s.d_out:
        offset, start = m.out_bias[0] if s.out_bias else None, u if s.prenorm else None
        stages.append(product_stage(normed, m.out[:, : s.d_out], out, offset=offset, start=start, block=s.block))
    return stages
