"""The recurrence with a matrix for a state as matrix products over chunks of time, in plain torch.

Within a chunk of T steps, with ``a[t]`` the sum of the logs of the decays from its start up to t,

    y[t]  = exp(a[t]) S_start C[t] + sum_{s <= t} M[t, s] x[s],      M[t, s] = exp(a[t] - a[s]) <C[t], B[s]>
    S_end = exp(a[T]) S_start + sum_s exp(a[T] - a[s]) x[s] B[s]^T

so all work is in products of matrices, and only the states at chunk boundaries are ever computed. Every exponent is
a sum of logs of decays, at most zero, and none is a difference of two: however strong a decay is, nothing overflows,
and the weak ones beside it keep their digits.

The gradient needs the states at the boundaries and nothing else that is larger than the inputs; M is made anew. It is
the same recurrence in reverse: with E the gradient of the state at the end of a chunk, that of the one before is
``exp(a[T]) E + sum_t exp(a[t]) dy[t] C[t]^T``. The decay's gradient at t is the sum over all pairs ``s < t <= t'`` of
what s gives to t'. Pairs ``s = t'`` are left out before sums are taken, for they would only cancel, and with them the
digits of what is left where the decay is strong.

The form is that of Dao and Gu, arXiv 2405.21060, section 6. Heads of a group share B and C, so ``<C[t], B[s]>`` is
made once a group, and the products with states are one wide product a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ssd_backward_by_chunks", "ssd_by_chunks"]


@dataclass(frozen=True)
class _Chunks:
    """Sequences cut in pieces of T steps, the last one filled up with zeros.

    ``x`` (batch, c, T, groups, heads a group, P), ``log_decay`` (batch, c, groups, heads a group, T), ``B`` and ``C``
    (batch c groups, T, N), ``decays`` (batch, c, groups, heads a group, T, T): ``exp(a[t] - a[s])``, zero for s > t.
    """

    x: Tensor
    log_decay: Tensor
    B: Tensor
    C: Tensor
    decays: Tensor

    @classmethod
    def of(cls, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, T: int) -> _Chunks:
        groups, N = B.shape[2:]
        split = (groups, x.shape[2] // groups)
        logs = in_chunks(log_decay, T).movedim(2, 3).unflatten(2, split)
        B, C = (in_chunks(m, T).transpose(2, 3).reshape(-1, T, N) for m in (B, C))
        return cls(in_chunks(x, T).unflatten(3, split), logs, B, C, _decays(logs))

    def by_group(self, values: Tensor) -> Tensor:
        """Values like x as matrices ``(batch c groups, T, heads P)``."""
        return values.flatten(4).transpose(2, 3).flatten(0, 2)

    def like_x(self, matrices: Tensor) -> Tensor:
        """The reverse of `by_group`."""
        b, c, T, g, heads, P = self.x.shape
        return matrices.view(b, c, g, T, heads, P).transpose(2, 3)

    def by_head(self, values: Tensor) -> Tensor:
        """Values like x as matrices ``(batch c groups heads, T, P)``."""
        return values.permute(0, 1, 3, 4, 2, 5).flatten(0, 3)

    def from_heads(self, matrices: Tensor) -> Tensor:
        """The reverse of `by_head`."""
        b, c, T, g, heads, P = self.x.shape
        return matrices.view(b, c, g, heads, T, P).permute(0, 1, 4, 2, 3, 5)

    def states(self, matrices: Tensor) -> Tensor:
        """``(batch c groups, N, heads P)`` as ``(batch, c, groups, N, heads, P)``."""
        b, c, _, g, heads, P = self.x.shape
        return matrices.view(b, c, g, -1, heads, P)

    def products(self) -> Tensor:
        """``<C[t], B[s]>``, one a group, to be spread over heads: ``(batch, c, groups, 1, T, T)``."""
        b, c, T, g = self.x.shape[:4]
        return torch.bmm(self.C, self.B.mT).view(b, c, g, 1, T, T)

    def across(self) -> Tensor:
        """``exp(a[T])``, by which a state goes through a chunk: ``(batch, c, groups, 1, heads, 1)``."""
        return self.log_decay.sum(-1).exp()[:, :, :, None, :, None]

    def to_end(self) -> Tensor:
        """``exp(a[T] - a[t])``, shaped like x."""
        return self.decays[..., -1, :].permute(0, 1, 4, 2, 3)[..., None]

    def from_start(self) -> Tensor:
        """``exp(a[t])``, shaped like x."""
        return self.log_decay.cumsum(-1).exp().permute(0, 1, 4, 2, 3)[..., None]


def _decays(log_decay: Tensor) -> Tensor:
    T = log_decay.shape[-1]
    mask = torch.ones(T, T, dtype=torch.bool, device=log_decay.device)
    steps = torch.where(mask.tril(-1), log_decay[..., None], 0.0).cumsum(-2)
    return steps.masked_fill(mask.triu(1), -torch.inf).exp()


def in_chunks(m: Tensor, T: int) -> Tensor:
    """``(batch, L, ...)`` as ``(batch, chunks, T, ...)``, with zeros at the end."""
    missing = -m.shape[1] % T
    if missing:
        m = F.pad(m, (0, 0) * (m.ndim - 2) + (0, missing))
    return m.unflatten(1, (-1, T))


def ssd_by_chunks(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and the states before each chunk: ``(batch, c, groups, N, heads a group, P)``.

    Shapes as in `gramian.kernels.ssd`; differentiable as it stands.
    """
    z = _Chunks.of(x, log_decay, B, C, T)
    local, across = z.states(torch.bmm(z.B.mT, z.by_group(z.x * z.to_end()))), z.across()
    S = state.unflatten(1, (B.shape[2], -1)).permute(0, 1, 4, 2, 3)
    starts = []
    for i in range(z.x.shape[1]):
        starts.append(S)
        S = torch.addcmul(local[:, i], across[:, i], S)
    before = torch.stack(starts, 1)
    carried = z.like_x(torch.bmm(z.C, before.flatten(4).flatten(0, 2)))
    M = z.decays * z.products()
    within = z.from_heads(torch.bmm(M.flatten(0, 3), z.by_head(z.x)))
    y = torch.addcmul(within, z.from_start(), carried).flatten(3, 4).flatten(1, 2)[:, : x.shape[1]]
    return y, S.permute(0, 1, 3, 4, 2).flatten(1, 2), before


def ssd_backward_by_chunks(
    g_y: Tensor, g_final: Tensor, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, log_decay, B, C and the first state, from the states that `ssd_by_chunks` returned."""
    z = _Chunks.of(x, log_decay, B, C, T)
    dy, across = in_chunks(g_y, T).unflatten(3, z.x.shape[3:5]), z.across()
    to_end, from_start = z.to_end(), z.from_start()
    dy_start, x_end = z.by_group(dy * from_start), z.by_group(z.x * to_end)
    after, g_state = _gradients_after(g_final, z.states(torch.bmm(z.C.mT, dy_start)), across)
    S, E = before.flatten(4).flatten(0, 2), after.flatten(4).flatten(0, 2)

    products = z.products()
    dM = torch.bmm(z.by_head(dy), z.by_head(z.x).mT).view(z.decays.shape).mul_(z.decays)
    g_products = dM.sum(3).flatten(0, 2)
    pairs = dM.mul_(products)
    M = (z.decays * products).flatten(0, 3)
    sent = z.like_x(torch.bmm(z.B, E)) * to_end
    g_x = sent + z.from_heads(torch.bmm(M.mT, z.by_head(dy)))
    received = z.like_x(torch.bmm(z.C, S)) * from_start
    through = across * (after * before).sum((3, 5), keepdim=True)
    g_decay = _decay_gradient(pairs, (received * dy).sum(-1), (sent * z.x).sum(-1), through[:, :, None, :, 0, :, 0])
    g_B = torch.bmm(x_end, E.mT).baddbmm_(g_products.mT, z.C)
    g_C = torch.bmm(dy_start, S.mT).baddbmm_(g_products, z.B)
    g_B, g_C = (m.view(*z.x.shape[:2], z.x.shape[3], T, -1).transpose(2, 3) for m in (g_B, g_C))
    g_x, g_decay = g_x.flatten(3, 4), g_decay.flatten(3, 4)
    g_x, g_decay, g_B, g_C = (m.flatten(1, 2)[:, : x.shape[1]].contiguous() for m in (g_x, g_decay, g_B, g_C))
    return g_x, g_decay, g_B, g_C, g_state


def _gradients_after(g_final: Tensor, local: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the states after each chunk, laid out as these are, and of the first state."""
    E = g_final.unflatten(1, (local.shape[2], -1)).permute(0, 1, 4, 2, 3)
    after: list[Tensor] = []
    for i in reversed(range(local.shape[1])):
        after.insert(0, E)
        E = torch.addcmul(local[:, i], across[:, i], E)
    return torch.stack(after, 1), E.permute(0, 1, 3, 4, 2).flatten(1, 2).contiguous()


def _decay_gradient(pairs: Tensor, received: Tensor, sent: Tensor, through: Tensor) -> Tensor:
    """The gradient of log_decay, ``(batch, c, T, groups, heads a group)``.

    Parameters
    ----------
    pairs
        What s gives to t within a chunk, times its gradient: ``(batch, c, groups, heads a group, T, T)``.
    received, sent, through
        The same for the state at the start and t, for s and the state at the end, and from start to end.
    """
    pairs.diagonal(dim1=-2, dim2=-1).zero_()
    net = (pairs.sum(-1) - pairs.sum(-2)).permute(0, 1, 4, 2, 3) + received
    until = F.pad(sent[:, :, :-1], (0, 0, 0, 0, 1, 0)).cumsum(2)
    return net.flip(2).cumsum(2).flip(2) + until + through
