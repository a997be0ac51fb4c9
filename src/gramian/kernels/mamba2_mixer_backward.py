"""The backward pass of Mamba-2 as one operator: what a launch does, worked out once for all calls of the same sizes.

The gradients of the columns ``[z | x | B | C | dt]`` are written where they belong: nothing is put together. What a
sequence's stages leave to each other stays in the caches. After all sequences, the gradients of parameters are summed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from gramian.kernels import causal_conv_compiled as conv
from gramian.kernels import gated_norm, rms_norm, ssd_compiled, step_sizes_native
from gramian.kernels.column_sums import column_sums_stage
from gramian.kernels.mamba2_mixer_sizes import PLANS, Parameters, Saved, Sizes
from gramian.kernels.memory import carved, lines, room
from gramian.kernels.native import At
from gramian.kernels.products import ROWS, product_stage, sums_stage
from gramian.kernels.ssd_compiled import Gradients, Workspace, distance, work_sizes
from gramian.kernels.stages import Phase, Plan, Stage, independent

__all__ = ["Backward", "backward_plan", "gradient_shapes"]

_OWN = 7  # entries of what is needed meanwhile that are of the sequence at work


class Backward(NamedTuple):
    """A plan for the gradient of the output, the input, `Parameters.given`, `Saved` as one tensor, the gradients that
    are wanted, in these shapes, and one tensor of so many numbers for what is needed meanwhile."""

    plan: Plan
    gradients: list[tuple[int, ...]]
    scratch: int


class _Wanted(NamedTuple):
    """Gradients, None where they are not wanted."""

    u: Tensor | None
    prenorm: Tensor | None
    in_weight: Tensor | None
    in_bias: Tensor | None
    conv_weight: Tensor | None
    conv_bias: Tensor | None
    dt_bias: Tensor | None
    A_log: Tensor | None
    D: Tensor | None
    norm_weight: Tensor | None
    out_weight: Tensor | None
    out_bias: Tensor | None


def gradient_shapes(s: Sizes) -> list[tuple[int, ...]]:
    """Of all that may be wanted; where columns are the input, in whole lines."""
    c, heads = s.columns, (s.heads,)
    u = s.steps(s.d_model or lines(c.all, s.itemsize))
    inner = (c.mixed, 1, s.width), (c.mixed,), heads, heads, heads, (s.d_inner,)
    return [u, (s.d_model,), (c.all, s.d_model), (c.all,), *inner, (s.d_out, s.d_inner), (s.d_out,)]


class _Meanwhile(NamedTuple):
    """Of the sequence at work: the convolution, computed again; gradients of it, of normalised values, of outputs of
    the recurrence, of logs of decays, step sizes and the normalised input. Of all sequences: gradients of columns; sums
    for coefficients of the convolution, D, the weight of the normalisation, step sizes and decays, and the weight of
    the norm before. Rows that sums need, and a workspace."""

    mixed: Tensor
    g_mixed: Tensor
    g_normed: Tensor
    g_y: Tensor
    g_logs: Tensor
    g_delta: Tensor
    g_input: Tensor
    rows: Tensor
    conv_state: Tensor
    conv: Tensor
    D: Tensor
    norm: Tensor
    steps: Tensor
    prenorm: Tensor
    spare_out: Tensor
    spare_in: Tensor
    blocks: Tensor
    parts: Tensor

    @staticmethod
    def shapes(s: Sizes) -> list[tuple[int, ...]]:
        mixed, inner, heads = s.steps(s.columns.mixed), s.steps(s.d_inner), s.steps(s.heads)
        before, line = s.d_model if s.prenorm else 0, lines(s.columns.mixed, s.itemsize)
        tasks = s.batch * rms_norm.tasks(s.length)
        return [
            *(mixed, mixed, inner, inner, heads, heads, s.steps(before)),
            s.steps(lines(s.columns.all, s.itemsize)),
            *conv.Sums.shapes(s.batch, line),
            (s.batch, s.heads),
            (tasks, s.d_inner),
            (s.batch, 2 * s.heads),
            (tasks, before),
            *((ROWS, columns) for columns in (s.d_inner, s.d_model)),
            *Workspace.shapes(work_sizes(*s.recurrence(), s.T), backward=True),
        ]


@lru_cache(PLANS)
def backward_plan(s: Sizes, wanted: tuple[bool, ...]) -> Backward:
    """Worked out for these sizes, and for which gradients are wanted."""
    u, p = s.input(), s.parameters()
    g, memory = u.new_empty(s.steps(s.d_out or s.d_inner)), u.new_empty(Saved.numbers(s))
    scratch = u.new_empty(room(_Meanwhile.shapes(s), s.itemsize))
    saved, m = Saved(*carved(memory, Saved.shapes(s), packed=True)), _Meanwhile(*carved(scratch, _Meanwhile.shapes(s)))
    shapes = [shape for shape, w in zip(gradient_shapes(s), wanted, strict=True) if w]
    made = [u.new_empty(shape) for shape in shapes]
    found = iter(made)
    grads = _Wanted(*(next(found) if w else None for w in wanted))
    if not s.d_model and grads.u is not None:
        m = m._replace(rows=grads.u)
    sequences = Phase(_stages(s, g, u, p, saved, m, grads), s.batch, scratch=m[:_OWN])
    phases = [sequences, *independent(_sums(s, g, u, saved, m, grads), after=True)]
    plan = Plan(phases, s.dtype, (g, u, *p.given(), memory, *made, scratch), s.threads)
    return Backward(plan, shapes, len(scratch))


def _stages(s: Sizes, g: Tensor, u: Tensor, p: Parameters, saved: Saved, m: _Meanwhile, grads: _Wanted) -> list[Stage]:
    """What a sequence goes through."""
    c, stages = s.columns, []
    if p.out_weight is not None:
        stages.append(product_stage(g, p.out_weight, m.g_normed, block=s.block))
    rows, g_rows = saved.rows[..., : c.all] if s.d_model else u, m.rows[..., : c.all]
    (z, xBC, dt), (g_z, g_xBC, g_dt), (x, B, C) = c.parts(rows), c.parts(g_rows), c.driven(m.mixed)
    coefficients, sums = conv.Coefficients.before_nothing(saved.conv, s.batch), conv.Sums(m.conv_state, m.conv)
    values = m.g_normed if s.d_out else g, saved.y.view(-1, s.d_inner), z.flatten(0, 1), p.norm_weight, saved.scales
    norm = gated_norm.Normalisation(s.groups, True, s.length)
    driven = saved.log_decay, saved.delta, p.D, saved.between
    inner, work = Gradients(*c.driven(m.g_mixed), m.g_logs, m.g_delta, m.D), Workspace(m.blocks, m.parts)
    steps = *dt.shape, distance(dt), At(dt), p.dt_bias, p.A_log, saved.delta, m.g_delta, m.g_logs, m.steps
    stages += [
        gated_norm.backward_stage(*values, m.g_y, g_z.flatten(0, 1), m.norm, norm),
        conv.forward_stage(xBC, coefficients, True, m.mixed),
        *ssd_compiled.backward_stages(m.g_y, x, B, C, *driven, inner, work, s.T),
        Stage(step_sizes_native.backward_entry, 1, (*steps, distance(g_dt), At(g_dt))),
        conv.backward_stage(m.g_mixed, xBC, coefficients, True, g_xBC, sums),
    ]
    if p.in_weight is not None and grads.u is not None:
        g_input = m.g_input if s.prenorm else grads.u
        stages.append(product_stage(g_rows, p.in_weight, g_input, block=s.block))
        if p.prenorm is not None:
            how = p.prenorm, saved.input_scales, grads.u, m.prenorm
            stages.append(rms_norm.backward_stage(g_input, u, *how, also=g))
    return stages


def _sums(s: Sizes, g: Tensor, u: Tensor, saved: Saved, m: _Meanwhile, grads: _Wanted) -> list[Stage]:
    """What sums the gradients of parameters; long tasks first."""
    stages, rows = [], m.rows[..., : s.columns.all].flatten(0, 1)
    if grads.out_weight is not None:
        stages.append(sums_stage(g.flatten(0, 1), saved.normed.flatten(0, 1), grads.out_weight, m.spare_out))
    if grads.in_weight is not None:
        given = saved.normed_input if s.prenorm else u
        stages.append(sums_stage(rows, given.flatten(0, 1), grads.in_weight, m.spare_in))
    columns = {
        "in_bias": rows,
        "out_bias": g.flatten(0, 1),
        "dt_bias": m.steps[:, : s.heads],
        "A_log": m.steps[:, s.heads :],
        "D": m.D,
        "norm_weight": m.norm,
        "prenorm": m.prenorm,
    }
    wanted = ((matrix, getattr(grads, name)) for name, matrix in columns.items())
    stages += [column_sums_stage(matrix, total) for matrix, total in wanted if total is not None]
    coefficients = conv.Sums(m.conv_state, m.conv)
    g_weight = None if grads.conv_weight is None else grads.conv_weight.flatten(1)
    return stages + coefficients.totals_stages(s.columns.mixed, g_weight, grads.conv_bias)
