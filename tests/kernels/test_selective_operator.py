"""The selective scan and the causal convolution as torch sees them: compiled graphs, transformations, checks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from selective_sequences import OPTIONAL, random_sequences, run
from torch import Tensor

from gramian.kernels import causal_conv1d, selective_scan


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of its own doing
@pytest.mark.parametrize("backend", ["auto", "numba", "torch"])
def test_a_block_is_the_same_in_one_graph(backend: str) -> None:
    torch.compiler.reset()
    weight = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))

    def forward(u: Tensor, rest: dict[str, Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
        u, _ = causal_conv1d(u, weight, rest["D"], backend=backend)
        return run({"u": u, **rest}, backend)

    values = []
    for call in (forward, torch.compile(forward, backend="aot_eager", fullgraph=True)):
        tensors = {n: t.requires_grad_() for n, t in random_sequences((2, 20, 5, 3, 1), torch.float32).items()}
        w = weight.clone().requires_grad_()
        y, final = call(tensors.pop("u"), tensors, w)
        gradients = torch.autograd.grad(y.square().sum() + final.sum(), [*tensors.values(), w])
        values.append([y, final, *gradients])
    for ours, theirs in zip(*values, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_plain_torch_goes_through_the_transformations_of_functions() -> None:
    t = random_sequences((3, 9, 4, 2, 2))

    def loss(u: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
        y, _ = selective_scan(u[None], dt[None], t["A"], B[None], C[None], t["D"], backend="torch")
        return y.square().sum()

    tensors = [t[name] for name in ("u", "dt", "B", "C")]
    together = torch.func.vmap(torch.func.grad(loss))(*tensors)
    for k in range(3):
        torch.testing.assert_close(together[k], torch.func.grad(loss)(*(m[k] for m in tensors)))


def test_plain_torch_has_gradients_of_gradients() -> None:
    tensors = random_sequences((1, 3, 2, 2, 1))
    names, leaves = tuple(tensors), tuple(t.requires_grad_() for t in tensors.values())
    call = partial(_named, names)
    assert torch.autograd.gradgradcheck(call, leaves)


def _named(names: tuple[str, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
    return run(dict(zip(names, tensors, strict=True)), "torch")


def test_the_operators_pass_the_checks_of_torch() -> None:
    tensors = {n: t.requires_grad_() for n, t in random_sequences((2, 5, 4, 3, 2)).items()}
    operator = torch.ops.gramian.selective_scan.default
    torch.library.opcheck(operator, (*tensors.values(), True, True, True))
    torch.library.opcheck(operator, (*(None if n in OPTIONAL else t for n, t in tensors.items()), False, False, True))
    torch.library.opcheck(operator, (*(t.detach() for t in tensors.values()), True, True, False))
    weight = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    before = torch.randn(2, 2, 4, dtype=torch.float64).requires_grad_()
    for arguments in ((tensors["u"], weight, tensors["D"], before, True), (tensors["u"], weight, None, None, False)):
        torch.library.opcheck(torch.ops.gramian.causal_conv1d.default, arguments)
