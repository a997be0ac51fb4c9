"""The residual block: the same whether in one operator or apart, and whoever watches is heard."""

from __future__ import annotations

import pytest
import torch
from layer_checks import sequences
from torch import Tensor, nn

from gramian.layers.mamba import Mamba
from gramian.layers.mamba2 import Mamba2
from gramian.layers.residual import residual
from gramian.layers.rms_norm import RMSNorm


def block(width: int = 16, seed: int = 0, **options: object) -> tuple[RMSNorm, Mamba2]:
    torch.manual_seed(seed)
    norm, mixer = RMSNorm(width), Mamba2(width, 6, head_dim=4, n_groups=2, **options)  # type: ignore[arg-type]
    nn.init.normal_(norm.weight)
    return norm.double(), mixer.double()


def results(x: Tensor, norm: nn.Module, mixer: nn.Module, *, apart: bool) -> tuple[Tensor, ...]:
    leaves = [x.requires_grad_(), *norm.parameters(), *mixer.parameters()]
    y = x + mixer(norm(x)) if apart else residual(x, norm, mixer)
    weight = sequences(*y.shape, y.dtype, seed=1)  # type: ignore[misc]
    return y, *torch.autograd.grad((y * weight).sum(), leaves)


@pytest.mark.parametrize(
    ("width", "options"),
    [(16, {}), (12, {}), (16, {"bias": True}), (16, {"projection": 4}), (16, {"backend": "reference"})],
    ids=str,
)
def test_it_is_the_sum(width: int, options: dict[str, object]) -> None:
    norm, mixer = block(width, **options)
    for length in (1, 70):
        x = sequences(3, length, width)
        one, other = (results(x, norm, mixer, apart=apart) for apart in (False, True))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_other_mixers_and_norms_are_called() -> None:
    x = sequences(2, 9, 16)
    norm, mixer = block()
    for n, m in ((norm, Mamba(16, 3).double()), (nn.LayerNorm(16).double(), mixer), (nn.RMSNorm(16).double(), mixer)):
        assert torch.equal(residual(x, n, m), x + m(n(x)))


def test_hooks_on_norm_and_mixer_are_called() -> None:
    norm, mixer = block()
    x = sequences(2, 9, 16)
    for module in (norm, mixer):
        seen: list[tuple[int, ...]] = []
        handle = module.register_forward_hook(lambda m, a, y, seen=seen: seen.append(tuple(y.shape)))
        residual(x, norm, mixer)
        handle.remove()
        residual(x, norm, mixer)
        assert seen == [(2, 9, 16)]


def test_it_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    norm, mixer = block()
    x = sequences(2, 33, 16)
    compiled = torch.compile(lambda x: residual(x, norm, mixer), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), residual(x, norm, mixer))
